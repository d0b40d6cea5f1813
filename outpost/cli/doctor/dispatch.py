"""The doctor on dispatch: whether events are opened and tasks taken in time, by whom, and what was left behind."""

from __future__ import annotations

import msgspec

from outpost.cli.doctor import findings as say
from outpost.cli.doctor.findings import Finding
from outpost.log.delivery import consumers
from outpost.log.operator import inspect
from outpost.log.redis import client, shapes
from outpost.log.upkeep import lag, trim

LATE_MS = 5_000  # events are opened within a second
TOO_LATE_MS = 60_000
_START = "start a process of the role delivery"


class _Names(msgspec.Struct, frozen=True):
    """Consumer names: with a lease, and those whose lease is over."""

    alive: list[str]
    ended: list[str]


async def look(log: client.Log) -> list[Finding]:
    """Raises errors.StoreUnavailable."""
    names = await _names(log)
    groups = await inspect.groups(log)
    found = await _processes(log, names)
    found += _groups(groups)
    found += await _late(log, groups, alive=bool(names.alive))
    return found + _left_behind(groups, names)


async def _names(log: client.Log) -> _Names:
    held = {name.decode() for name in await log.command("HKEYS", log.keys.slots)}
    ended = await consumers.ended(log)
    return _Names(sorted(held - {*ended}), ended)


async def _processes(log: client.Log, names: _Names) -> list[Finding]:
    keys = [keys.lease(name) for keys in log.keys.partitions for name in (trim.LEASE, "log")]
    logs = any(await log.pipeline([("EXISTS", key) for key in keys]))
    found = []
    if names.alive:
        found.append(say.ok("processes", f"{len(names.alive)} of the role delivery"))
    else:
        found.append(say.problem("processes", "none of the role delivery: nothing is delivered", _START))
    if logs:
        found.append(say.ok("processes", "one of the role log works"))
    else:
        text = "none of the role log: nothing reaches Postgres, and nothing leaves Redis"
        found.append(say.problem("processes", text, "start a process of the role log"))
    return found


def _groups(groups: list[inspect.GroupState]) -> list[Finding]:
    missing = [g.partition for g in groups if not g.present]
    mending = [g.partition for g in groups if g.present and g.mending]
    found = []
    if missing:
        text = f"the group is missing in partition {say.names(missing)}"
        found.append(say.problem("dispatch", text, f"{_START}: it makes the group again and loses nothing"))
    if mending:
        text = f"`due` is being completed from the log in partition {say.names(mending)}"
        found.append(say.warn("dispatch", text, "wait; if it stays so, " + _START))
    return found


async def _late(log: client.Log, groups: list[inspect.GroupState], *, alive: bool) -> list[Finding]:
    """Events that wait to be opened, and tasks whose time has passed, in each partition that has old ones."""
    waits = await lag.each(log)
    past = shapes.clock_ms(await log.command("TIME")) - TOO_LATE_MS
    overdue = await log.pipeline([("ZCOUNT", keys.due, "-inf", past) for keys in log.keys.partitions])
    found = []
    for group, wait, late in zip(groups, waits, overdue, strict=True):
        unread = "some" if group.lag is None else group.lag
        text = (
            f"partition {group.partition:02}: {unread} unread, {group.pending} pending, {group.due_now} due, "
            f"the oldest waits for {say.seconds(wait.dispatch)}"
        )
        if late or wait.dispatch > TOO_LATE_MS:
            text += f"; {late} tasks are overdue by a minute or more" if late else ""
            advice = "see /readyz of the delivery processes, and start more of them" if alive else _START
            found.append(say.problem("dispatch", text, advice))
        elif wait.dispatch > LATE_MS:
            found.append(say.warn("dispatch", text, "look again: it should become less"))
    if not found:
        live = sum(g.due for g in groups)
        found.append(say.ok("dispatch", f"nothing waits; {live} deliveries are under way or scheduled"))
    return found


def _left_behind(groups: list[inspect.GroupState], names: _Names) -> list[Finding]:
    """Consumers that nobody is: their entries are nobody's until somebody takes them over."""
    held: dict[str, int] = {}
    for group in groups:
        for consumer in group.consumers:
            held[consumer.name] = held.get(consumer.name, 0) + consumer.pending
    found = []
    for name in sorted({*held, *names.ended} - {*names.alive}):
        pending = held.get(name, 0)
        text = f"consumer {name!r} is nobody's and has {pending} entries pending"
        if pending:
            advice = f"a living process takes them over within 12 s (35 s if it made no such name); else {_START}"
            found.append(say.problem("dispatch", text, advice))
        elif name in held and name not in names.ended:
            found.append(say.warn("dispatch", text, "harmless; `XGROUP DELCONSUMER` removes it"))
    return found
