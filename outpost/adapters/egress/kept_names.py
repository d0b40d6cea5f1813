"""Verdicts on names, kept for a while: bounded as a whole and for each tenant.

An entry that is no longer good stays until it makes room, because how long the last look-up took decides how much
the next one may hold.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

import msgspec

V = TypeVar("V")

MAX_KEPT = 10_000
MAX_TENANT_KEPT = 1_000  # that one tenant's look-ups brought


class Entry(msgspec.Struct, Generic[V], frozen=True, gc=False):
    """`verdict` is good until `until` (the loop's clock); `prompt` if the look-up was quick; `tenant` asked."""

    verdict: V
    until: float
    prompt: bool
    tenant: str


class KeptNames(Generic[V]):
    """The entry that was learned the longest ago makes room: of its tenant's, or of all."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, Entry[V]] = OrderedDict()
        self._of: dict[str, OrderedDict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str) -> Entry[V] | None:
        """What was learned last of `name`, good or not."""
        return self._entries.get(name)

    def put(self, name: str, entry: Entry[V]) -> None:
        """Keeps `entry` in place of an older one."""
        if name in self._entries:
            self._drop(name)
        own = self._of.setdefault(entry.tenant, OrderedDict())
        if len(own) >= MAX_TENANT_KEPT:
            self._drop(next(iter(own)))
        elif len(self._entries) >= MAX_KEPT:
            self._drop(next(iter(self._entries)))
        self._entries[name] = entry
        self._of.setdefault(entry.tenant, own)[name] = None

    def _drop(self, name: str) -> None:
        entry = self._entries.pop(name)
        own = self._of[entry.tenant]
        del own[name]
        if not own:
            del self._of[entry.tenant]
