"""Small worlds for the scripts: a log, a clock that they believe, a tenant with destinations, events in `evt`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest

from outpost.domain import events
from outpost.domain import tenant as tenants
from outpost.log import append, envelope, read
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.delivery import repair, requests, tasks
from outpost.log.redis import client
from projections.config import apply
from tests.harness.servers import RedisServer

TENANT = "acme"
P = partitions.partition_of(TENANT)
CLOCK_KEY = "test:clock"
NOW = 1_790_000_000_000  # ms
TTL_MS = 60_000

# In front of a script's own text, which runs unchanged behind it.
_PRELUDE = """
local real = redis
local redis = {call = function(command, ...)
  local ms = command == 'TIME' and real.call('GET', 'test:clock')
  if ms then return {string.format('%d', math.floor(ms / 1000)), string.format('%d', ms % 1000 * 1000)} end
  return real.call(command, ...)
end}
"""
LARGE_ANSWERS = 90
LARGE_ANSWER_BYTES = 786_432  # an answer of 128 KiB, every byte of which is six characters of JSON

_SCRIPTS = (
    (append, "_SCRIPT"),
    (tasks, "_OPEN"),
    (tasks, "_BEGIN"),
    (tasks, "_RECORD"),
    (tasks, "_HOLD"),
    (tasks, "_CLAIM"),
    (repair, "_MEND"),
    (requests, "_SCRIPT"),
)


def open_log(server: RedisServer, deployment: str = "") -> client.Log:
    return client.open_log(client.RedisAddress(server.host, server.port), deployment)


def believe_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the scripts ask the clock of `Clock` for the time, where it is set."""
    for module, name in _SCRIPTS:
        monkeypatch.setattr(module, name, with_clock(getattr(module, name)))


def with_clock(script: client.Script) -> client.Script:
    """The script as it is, behind a prelude that lets it see another time."""
    text = _PRELUDE + script.text
    return client.Script(script.name, text, hashlib.sha1(text.encode()).hexdigest())


class Clock:
    """The time that the scripts see, in ms."""

    def __init__(self, log: client.Log) -> None:
        self._log = log
        self.now = 0

    async def set(self, ms: int) -> None:
        self.now = ms
        await self._log.command("SET", CLOCK_KEY, ms)

    async def advance(self, ms: int) -> None:
        await self.set(self.now + ms)


def window(ttl_ms: int = TTL_MS) -> append.Window:
    return append.Window(ttl_ms)


def item(
    event_id: str = "e1",
    request: str = "admin/req_1",
    *,
    tenant: str = TENANT,
    expected: int | None = None,
    following: int | None = None,
    matched: Sequence[events.Matched] = (),
    data: bytes = b'{"a":1}',
) -> append.Item:
    """An event as `publish` makes it."""
    event = events.Event(
        tenant, event_id, expected or 0, "t", "2026-09-21T14:13:20.400Z", True, {}, tuple(matched), request, data
    )
    return append.Item(
        tenant=tenant,
        mark=f"{tenant}\0{event_id}",
        request=request,
        fields=envelope.encode_event(event),
        expected=expected,
        following=following,
        matched=envelope.encode_matched(matched),
    )


async def append_items(log: client.Log, *items: append.Item, ttl_ms: int = TTL_MS) -> list[append.Answer]:
    """The answers of one batch for `evt` of the partition of TENANT."""
    return (await append.append(log, "evt", {P: list(items)}, window(ttl_ms)))[P]


async def publish(
    log: client.Log, event_id: str, *matched: events.Matched, tenant: str = TENANT, version: int = 0
) -> str:
    """Appends an event and returns its entry id."""
    wanted = item(event_id, f"admin/{event_id}", tenant=tenant, matched=matched)
    p = partitions.partition_of(tenant)
    answer = (await append.append(log, "evt", {p: [wanted]}, window()))[p][0]
    assert isinstance(answer, append.Appended)
    return answer.position.entry_id


def destination(
    id_: str = "d", *, created: int = 1, version: int = 1, enabled: bool = True
) -> tenants.Destination:
    return tenants.Destination(
        id=id_,
        type="webhook",
        topics=("*",),
        config="s1.x",
        credentials="s1.x",
        created_ms=1,
        updated_ms=1,
        disabled_ms=None if enabled else 5,
        created=created,
        version=version,
    )


async def show(log: client.Log, *destinations: tenants.Destination, version: int = 1, generation: int = 1) -> None:
    """Puts the tenant with these destinations into the read model."""
    key = log.keys.partitions[P].tenant(generation, TENANT)
    fields: list[client.Arg] = ["version", version]
    for each in destinations:
        fields += (f"d:{each.id}", apply.encode_destination(each))
    await log.pipeline([("DEL", key), ("HSET", key, *fields)])


async def change(log: client.Log, *, version: int, tenant: str = TENANT) -> str:
    """Appends a change that makes this version of the tenant, and leaves the read model where it is. Returns the
    entry id."""
    state = tenants.Change("tenant.updated", version, "", tenants.Tenant(tenant, {}, 1, 2))
    wanted = append.Item(
        tenant=tenant,
        mark=f"{tenant}\0\0admin/c{version}",
        request=f"admin/c{version}",
        fields=envelope.encode_change(events.ConfigChanged(tenant, f"admin/c{version}", state)),
        following=version,
    )
    [answer] = (await append.append(log, "cfg", {partitions.partition_of(tenant): [wanted]}, window()))[P]
    assert isinstance(answer, append.Appended)
    return answer.position.entry_id


def beginning(task: str, *, matched_version: int = 1, cached_version: int = 0) -> tasks.Beginning:
    """As a worker makes it of a task id."""
    place = task.split("/", 2)[2]
    id_, _, created = place.rpartition("@")
    return tasks.Beginning(task, matched_version, TENANT, "e1", id_, int(created), cached_version)


async def begin(log: client.Log, *tasks_: str, lease_ms: int = 10_000, **changes: int) -> list[tasks.BeginAnswer]:
    wanted = [beginning(task, **changes) for task in tasks_]
    return (await tasks.begin(log, {P: wanted}, {P: 1}, lease_ms, "d0/proc"))[P]


DETAIL = events.AttemptDetail("t", "webhook", "failed", "500", 5, 6, False, "none")


def recording(task: str, *, succeeded: bool = False, retry_in_ms: int | None = None) -> tasks.Recording:
    return tasks.Recording(task, TENANT, "e1", succeeded, retry_in_ms, envelope.encode_detail(DETAIL), retry_in_ms)


async def record(
    log: client.Log, task: str, *, succeeded: bool = False, retry_in_ms: int | None = None
) -> positions.Position | None:
    wanted = [recording(task, succeeded=succeeded, retry_in_ms=retry_in_ms)]
    return (await tasks.record(log, {P: wanted}, "d0/proc"))[P][0]


async def due(log: client.Log, partition: int = P) -> dict[str, float]:
    """Task -> score."""
    flat = await log.command("ZRANGE", log.keys.partitions[partition].due, 0, -1, "WITHSCORES")
    return {task.decode(): float(score) for task, score in zip(flat[::2], flat[1::2], strict=True)}


async def make_due(log: client.Log, **scores: float) -> None:
    """Puts tasks into `due`, spelt as keywords cannot be: `a1` is the first attempt at `d` of entry 5-0."""
    for name, score in scores.items():
        await log.command("ZADD", log.keys.partitions[P].due, score, task_of(name))


def task_of(name: str) -> str:
    return f"{name[1:]}/5-0/{'d' if name[0] == 'a' else name[0]}@1"


async def wants(log: client.Log) -> dict[str, str]:
    reply = await log.command("HGETALL", log.keys.partitions[P].want)
    return {task.decode(): want.decode() for task, want in reply.items()}


async def manuals(log: client.Log) -> dict[str, str]:
    """Delivery -> how many manual attempts it had."""
    reply = await log.command("HGETALL", log.keys.partitions[P].manual)
    return {delivery.decode(): count.decode() for delivery, count in reply.items()}


async def entries(log: client.Log, stream: partitions.Stream, partition: int = P) -> list[events.Entry]:
    """Everything in a stream, decoded."""
    return [
        envelope.decode(stream, str(found.position), found.fields)
        for found in await read.between(log, stream, partition)
    ]


async def regroup(log: client.Log) -> None:
    """Groups everywhere and nothing left to mend, as after a first start."""
    for partition, mark in (await repair.regroup(log)).items():
        await repair.mend(log, partition, mark, "0-0", [], last=True)


async def record_large_answers(log: client.Log) -> None:
    """`LARGE_ANSWERS` attempts of another delivery, each with the largest answer that can be recorded."""
    keys = log.keys.partitions[P]
    for n in range(1, LARGE_ANSWERS + 1):  # Lua keeps equal text once
        detail = b'{"status":"failed","next":"none","response_data":"%0*d"}' % (LARGE_ANSWER_BYTES, n)
        fields = ("t", "attempt.failed", "v", 1, "ten", TENANT, "id", "e", "ref", f"{n}/7-7/other@1", "by", "w")
        await log.command("XADD", keys.dlv, "*", *fields, "d", detail)


async def lua_bytes(log: client.Log) -> int:
    """What the interpreter of the server holds, with what it has not collected yet."""
    memory = await log.command("INFO", "memory")
    return int(memory["used_memory_lua"])
