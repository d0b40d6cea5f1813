"""Reading the config read model: one tenant, many tenants, the listing.

Callers that must see every acknowledged write run `catch_up.to_head` first; `fresh` does both.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Sequence
from typing import Any

import msgspec

from outpost.domain import tenant as tenants
from outpost.log import checkpoint
from outpost.log import partition as partitions
from outpost.log.redis import client
from projections.config import apply, catch_up

ELEMENT_BYTES = 64  # of memory for one element of JSON, beside its text

ALL = tuple(range(partitions.PARTITIONS))


class Listed(msgspec.Struct, frozen=True, order=True):
    """A tenant's place in the listing: by creation, then by id."""

    created_ms: int
    tenant: str


class Measured(msgspec.Struct, frozen=True):
    """A tenant, the bytes of its read model, and about how many bytes of memory it takes when decoded."""

    state: tenants.TenantState
    size: int
    memory: int


async def load(log: client.Log, wanted: Sequence[str]) -> list[tenants.TenantState]:
    """The states of these tenants as the read model has them now, in two round trips."""
    return [apply.decode_state(reply) for reply in await _hashes(log, wanted)]


async def _hashes(log: client.Log, wanted: Sequence[str]) -> list[dict[bytes, bytes]]:
    """Each is a request of its own: an answer has at most 80 MiB, and a tenant may have 16 of them."""
    keys = await _keys(log, wanted)
    return [reply for [reply] in await asyncio.gather(*(log.pipeline([("HGETALL", key)]) for key in keys))]


async def _keys(log: client.Log, wanted: Sequence[str]) -> list[str]:
    """The hash of each of these tenants."""
    places = [partitions.partition_of(t) for t in wanted]
    among = sorted(set(places))
    active = dict(zip(among, await checkpoint.generations(log, among), strict=True))
    return [log.keys.partitions[p].tenant(active[p], t) for p, t in zip(places, wanted, strict=True)]


async def _replies(log: client.Log, commands: Sequence[Sequence[client.Arg]]) -> list[Any]:
    return await log.pipeline(commands) if commands else []


async def sizes(log: client.Log, wanted: Sequence[str]) -> list[int]:
    """About how many bytes `load` reads of each of these tenants, which are not read for this."""
    keys = await _keys(log, wanted)
    return [reply or 0 for reply in await _replies(log, [("MEMORY", "USAGE", key, "SAMPLES", 0) for key in keys])]


async def destinations(log: client.Log, wanted: Sequence[tuple[str, str]]) -> list[tenants.Destination | None]:
    """These destinations of these tenants, None where there is none; nothing else of the tenants is read."""
    keys = await _keys(log, [tenant for tenant, _ in wanted])
    commands = [("HGET", key, f"d:{id_}") for key, (_, id_) in zip(keys, wanted, strict=True)]
    return [None if reply is None else apply.decode_destination(reply) for reply in await _replies(log, commands)]


async def destination_sizes(log: client.Log, wanted: Sequence[tuple[str, str]]) -> list[int]:
    """How many bytes `destinations` reads of each; 0 where there is none."""
    keys = await _keys(log, [tenant for tenant, _ in wanted])
    commands = [("HSTRLEN", key, f"d:{id_}") for key, (_, id_) in zip(keys, wanted, strict=True)]
    return await _replies(log, commands)


async def places(log: client.Log, wanted: Sequence[str]) -> list[Listed]:
    """The places of those of these tenants that there are; the tenants are not read."""
    of = [partitions.partition_of(t) for t in wanted]
    among = sorted(set(of))
    active = dict(zip(among, await checkpoint.generations(log, among), strict=True))
    lists = [log.keys.partitions[p].tenants(active[p]) for p in of]
    scores = await _replies(log, [("ZSCORE", key, t) for key, t in zip(lists, wanted, strict=True)])
    return [Listed(int(float(s)), t) for s, t in zip(scores, wanted, strict=True) if s is not None]


async def fresh(log: client.Log, tenant: str) -> tenants.TenantState:
    """The state of a tenant with every acknowledged change in it. Raises as `catch_up`."""
    return (await measured(log, tenant)).state


async def measured(log: client.Log, tenant: str) -> Measured:
    """As `fresh`, with the size of the tenant."""
    await catch_up.to_head(log, partitions.partition_of(tenant))
    [reply] = await _hashes(log, [tenant])
    size = sum(len(value) for value in reply.values())
    elements = sum(value.count(b",") + value.count(b"{") + value.count(b"[") for value in reply.values())
    return Measured(apply.decode_state(reply), size, size + elements * ELEMENT_BYTES)


async def count(log: client.Log) -> int:
    """How many tenants there are."""
    active = await checkpoint.generations(log, ALL)
    replies = await log.pipeline([("ZCARD", log.keys.partitions[p].tenants(active[p])) for p in ALL])
    return sum(replies)


async def listing(log: client.Log, *, descending: bool, after: Listed | None, limit: int) -> list[Listed]:
    """The next `limit` tenants behind `after` in the given direction, over all partitions."""
    active = await checkpoint.generations(log, ALL)
    found: list[Listed] = []
    for p in ALL:
        found += await _page(log, log.keys.partitions[p].tenants(active[p]), descending, after, limit)
    return heapq.nlargest(limit, found) if descending else heapq.nsmallest(limit, found)


async def _page(log: client.Log, key: str, descending: bool, after: Listed | None, limit: int) -> list[Listed]:
    """Up to `limit` of one partition. Tenants of the same ms as `after` may have to be read over."""
    command, edge = ("ZREVRANGEBYSCORE", "-inf") if descending else ("ZRANGEBYSCORE", "+inf")
    start = ("+inf" if descending else "-inf") if after is None else str(after.created_ms)
    found: list[Listed] = []
    offset = 0
    while len(found) < limit:
        reply = await log.command(command, key, start, edge, "WITHSCORES", "LIMIT", offset, limit)
        pairs = zip(reply[::2], reply[1::2], strict=True)
        page = [Listed(int(float(score)), member.decode()) for member, score in pairs]
        found += [item for item in page if after is None or (item < after if descending else item > after)]
        if len(page) < limit:
            break
        offset += limit
    return found
