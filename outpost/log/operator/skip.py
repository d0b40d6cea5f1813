"""An operator's word that an entry of `cfg` that does not decode is to be passed over.

It is an entry itself, `entry.skipped`, appended behind the broken one, so that every projection and every rebuild
passes over it alike.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from outpost import errors, ids
from outpost.domain import events
from outpost.log import append, envelope, read
from outpost.log import position as positions
from outpost.log.operator import inspect
from outpost.log.redis import client

WINDOW_MS = 3_600_000  # in which a second `skip` of an entry finds the first, however close they come


class Verdict(msgspec.Struct, frozen=True):
    """Whether an entry may be skipped, and whether it was; `reason` is a sentence."""

    outcome: Literal["refused", "would skip", "skipped"]
    reason: str


async def skip(log: client.Log, position: positions.Position, *, write: bool) -> Verdict:
    """Appends `entry.skipped` for an entry of `cfg` that does not decode; without `write` only says whether it
    would."""
    if position.stream != "cfg":
        return Verdict("refused", "only entries of cfg stop a projection; those of evt and dlv never do")
    item = await inspect.one(log, position)
    if item is None:
        return Verdict("refused", f"there is no entry at {position}")
    try:
        envelope.decode("cfg", position, item.fields)
    except errors.UndecodableEntry as exc:
        problem = f"{position} does not decode: field {exc.field!r} {exc.rule}"
    else:
        return Verdict("refused", f"{position} decodes, so nothing is halted by it")
    done = await _skipped_at(log, position)
    if done is not None:
        return Verdict("refused", f"{position} is skipped already, by {done}")
    if not write:
        return Verdict("would skip", problem)
    by = f"operator/{ids.request_id()}"
    item_ = append.Item(
        tenant="",
        mark=f"\0\0{position}",
        request=by,
        fields=envelope.encode_skip(events.EntrySkipped(str(position), by)),
    )
    partition = position.partition
    answer = (await append.append(log, "cfg", {partition: [item_]}, append.Window(WINDOW_MS)))[partition][0]
    if isinstance(answer, append.Appended):
        return Verdict("skipped", f"{problem}; skipped by {answer.position}")
    return Verdict("refused", f"{position} was skipped by somebody else just now")


async def _skipped_at(log: client.Log, position: positions.Position) -> str | None:
    start = position.entry_id
    reading = log.config_reading
    while found := await read.between(log, "cfg", position.partition, f"({start}", "+", reading.count, reading):
        for item in found:
            if (
                item.fields.get(b"t") == events.ENTRY_SKIPPED.encode()
                and item.fields.get(b"id") == str(position).encode()
            ):
                return str(item.position)
        start = found[-1].position.entry_id
    return None
