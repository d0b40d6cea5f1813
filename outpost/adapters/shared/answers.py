"""How much a tenant's service may say: bytes are counted before a library sees them.

A service that says more than any answer to us needs is cut off: `AnswerTooLarge` is raised, the connection is
closed, and the attempt fails with the code `answer_too_large`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from outpost.adapters import codes

FRAME_COST_BYTES = 128  # what a frame counts beside its bytes: a library spends 50 to 200 us on an empty one
SAYS_TOO_MUCH = "the service answered with more than the {limit:,} bytes that are read from it here"


class AnswerTooLarge(OSError):
    """The service said more than is read from it. An OSError, so that libraries treat the connection as broken."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(SAYS_TOO_MUCH.format(limit=limit_bytes))


class Allowance:
    """The bytes that a connection may still receive.

    It starts at `base_bytes` and grows back to that by `bytes_per_s`; `lend` adds what the answers to requests
    under way may take, until `settle` takes it back.
    """

    def __init__(self, base_bytes: int, bytes_per_s: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.base_bytes = base_bytes
        self.left = float(base_bytes)
        self._bytes_per_s = bytes_per_s
        self._lent = 0
        self._clock = clock
        self._counted_at = clock()

    def take(self, count: int) -> None:
        """Counts `count` bytes that are about to be read. Raises AnswerTooLarge where they are too many."""
        if count > self.left:
            self._grow()
            if count > self.left:
                raise AnswerTooLarge(self.base_bytes)
        self.left -= count

    def lend(self, count: int) -> None:
        """A request is under way whose answer may take `count` bytes more."""
        self._lent += count
        self.left += count

    def settle(self, count: int) -> None:
        """That request is over. What it left is not kept for later."""
        self._lent -= count
        self.left = min(self.left, self.base_bytes + self._lent)

    def refill(self) -> None:
        """As at the start: another request begins on a connection that takes one at a time."""
        self.left = float(self.base_bytes)

    def _grow(self) -> None:
        now = self._clock()
        grown = self.left + (now - self._counted_at) * self._bytes_per_s
        self.left = min(grown, float(self.base_bytes + self._lent))
        self._counted_at = now


def caused_by(exc: BaseException | None) -> AnswerTooLarge | None:
    """The AnswerTooLarge that `exc` is or comes from, however many libraries have wrapped it."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        if isinstance(exc, AnswerTooLarge):
            return exc
        seen.add(id(exc))
        inner = getattr(exc, "inner_exception", None) or getattr(exc, "inner_error", None)
        exc = inner if isinstance(inner, BaseException) else exc.__cause__ or exc.__context__
    return None


def reason(exc: BaseException) -> tuple[codes.Code, str] | None:
    """The code and the text of a failure that is the service's saying too much; None if it is another one."""
    found = caused_by(exc)
    return None if found is None else (codes.Code.ANSWER_TOO_LARGE, str(found))
