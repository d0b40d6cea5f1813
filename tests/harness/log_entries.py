"""Entries of the log as tests write them (plain XADD, no script), and what the log tables then hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from outpost.domain import delivery, events
from outpost.log import envelope
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.redis import client
from projections.logs import store as stores

TIME = "2026-01-02T03:04:05.678Z"
TIME_MS = 1_767_323_045_678
STARTED_MS = 1_790_000_000_000
Fields = list[bytes | str | int]


def open_log(server: Any, deployment_id: str = "") -> client.Log:
    """The log of a deployment on a harness server."""
    return client.open_log(client.RedisAddress(server.host, server.port), deployment_id)


def event(tenant: str, id_: str, **changes: Any) -> events.Event:
    values: dict[str, Any] = {
        "version": 3,
        "topic": "user.created",
        "time": TIME,
        "eligible": True,
        "metadata": {},
        "matched": (events.Matched("des_1", 2),),
        "by": "admin req_1",
        "data": b'{"a": [ ], "b":"\\u0000"}',
    }
    return events.Event(tenant=tenant, id=id_, **(values | changes))


def attempt(
    tenant: str,
    event_id: str,
    event_entry: str = "5-0",
    *,
    number: int = 1,
    destination: str = "des_1",
    status: str = "success",
    code: str = "200",
    topic: str = "user.created",
    type_: str = "webhook",
    started_ms: int = STARTED_MS,
    response: bytes | None = b'{"status":200}',
    manual: bool = False,
    following: str = "none",
) -> Fields:
    """An attempt as the `record` script writes it."""
    task = delivery.TaskId(number, event_entry, destination, 2)
    raw = None if response is None else msgspec.Raw(response)
    detail = events.AttemptDetail(topic, type_, status, code, started_ms, 12, manual, "none", raw)
    body = envelope.encode_detail(detail)
    tail = f',"manual":{"true" if manual else "false"},"next":"{following}"}}'.encode()
    word = "succeeded" if status == "success" else "failed"
    return [
        "t",
        f"attempt.{word}",
        "v",
        1,
        "ten",
        tenant,
        "id",
        event_id,
        "ref",
        str(task),
        "by",
        "d0",
        "d",
        body + tail,
    ]


def skipped(tenant: str, event_id: str) -> Fields:
    """An entry of `dlv` that is no attempt."""
    return change(tenant, event_id, task="1/5-0/des_9@1")


def change(
    tenant: str, event_id: str, type_: str = "delivery.skipped", task: str = "1/5-0/des_1@2", by: str = "d0"
) -> Fields:
    """An entry of `dlv` that is no attempt, of any type."""
    return ["t", type_, "v", 1, "ten", tenant, "id", event_id, "ref", task, "by", by, "d", b""]


async def append(
    log: client.Log,
    stream: partitions.Stream,
    tenant: str,
    fields: Sequence[Any],
    entry_id: str = "*",
) -> positions.Position:
    """Appends to the tenant's partition and returns where."""
    partition = partitions.partition_of(tenant)
    key = log.keys.partitions[partition].stream(stream)
    given = (await log.pipeline([("XADD", key, entry_id, *fields)]))[0]
    return positions.of_entry(stream, partition, given)


async def append_event(log: client.Log, entry: events.Event, entry_id: str = "*") -> positions.Position:
    return await append(log, "evt", entry.tenant, envelope.encode_event(entry), entry_id)


async def table(store: stores.Store, name: str, columns: str = "*") -> list[tuple[Any, ...]]:
    """Every row, in order."""
    async with store.acquire() as connection:
        return sorted((tuple(r) for r in await connection.fetch(f"SELECT {columns} FROM {name}")), key=repr)


async def rows(store: stores.Store) -> dict[str, list[tuple[Any, ...]]]:
    """What the projection made of the log, without when it did so."""
    return {
        "event": await table(store, "event"),
        "attempt": await table(store, "attempt"),
        "change": await table(store, "delivery_change"),
        "rejected": await table(store, "log_rejected", "stream, partition, ms, seq, reason, fields"),
        "checkpoint": await table(store, "checkpoint"),
    }
