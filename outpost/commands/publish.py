"""Publishing an event: match, append, answer.

Matching uses the tenant in memory; the append is fenced by the version it was matched against, so the answer is
right whatever the cache held. Every accepted event is stored, with zero matches too.
"""

from __future__ import annotations

import asyncio

import msgspec

from outpost import errors
from outpost.commands import actor as actors
from outpost.commands import matching
from outpost.domain import events
from outpost.log import append, envelope
from outpost.log import budget as budgets
from outpost.log import partition as partitions
from outpost.log import position as positions
from projections.config import cache

TRIES = 5  # against a tenant that changes meanwhile


Answer = append.Answer
Publish = matching.Publish
Matches = matching.Matches


class Published(msgspec.Struct, frozen=True, gc=False):
    """The answer, the first one for every repetition of the same id within the window."""

    id: str
    duplicate: bool
    destinations: tuple[str, ...]
    position: positions.Position


class Publisher:
    """Publishes through the group commit of this process."""

    def __init__(self, commit: append.GroupCommit, tenants: cache.TenantCache, *, wildcards: bool = True) -> None:
        self._commit = commit
        self._tenants = tenants
        self.matcher = matching.Matcher(wildcards=wildcards)

    def at_once(self, actor: actors.Actor, request: Publish) -> tuple[Matches, asyncio.Future[Answer]] | None:
        """The append that `publish` would try first, on its way already, and what it was matched with; None if the
        tenant is not in memory, or matching takes too long. An answer of `Stale` asks for `publish`. Raises
        errors.StoreUnavailable."""
        state = self._tenants.known(request.tenant)
        if state is None:
            return None
        matched = self.matcher.at_once(state, request)
        if matched is None:
            return None
        item = _item(request, state.version, matched, actor.by)
        return matched, self._commit.put(partitions.partition_of(request.tenant), item)

    async def publish(self, actor: actors.Actor, request: Publish, *, fresh: bool = False) -> Published:
        """Appends the event once; `fresh`: what memory has of the tenant is known to be stale. Raises
        errors.Invalid and errors.Busy as `Matcher.match` does; and errors.Contended, errors.Halted,
        errors.StoreUnavailable: then the event is in the log once or not at all,
        and publishing it again with its id is safe."""
        partition = partitions.partition_of(request.tenant)
        state = None if fresh else self._tenants.known(request.tenant)
        for _ in range(TRIES):
            if state is None:
                state = await self._tenants.refresh(request.tenant)
            matched = await self.matcher.match(state, request)
            answer = await self._commit.append(partition, _item(request, state.version, matched, actor.by))
            done = published(request, matched, answer)
            if done is not None:
                return done
            state = None
        raise errors.Contended(request.tenant)


def published(request: Publish, matched: Matches, answer: Answer) -> Published | None:
    """What an answer of the log means to the publisher; None if the event has to be matched again."""
    match answer:
        case append.Appended(position):
            return Published(request.id, False, tuple(m.destination for m in matched), position)
        case append.Duplicate(position, first):
            return Published(request.id, True, tuple(m.destination for m in first), position)
    return None


def _item(request: Publish, version: int, matched: tuple[events.Matched, ...], by: str) -> append.Item:
    event = events.Event(
        tenant=request.tenant,
        id=request.id,
        version=version,
        topic=request.topic,
        time=request.time,
        eligible=request.eligible,
        metadata=request.metadata,
        matched=matched,
        by=by,
        data=request.data,
    )
    fields, told = envelope.encode_event(event), envelope.encode_matched(matched)
    return append.Item(
        tenant=request.tenant,
        mark=_mark(request),
        request=by,
        fields=fields,
        expected=version,
        matched=told,
        payload_bytes=envelope.payload_bytes(fields),
        fan_out_bytes=budgets.fan_out_bytes(told, len(matched)),
    )


def _mark(request: Publish) -> str:
    """What is appended once within the window: an id, and once more for each destination that it is published for
    by name. One mark for all would answer the second of two destinations 202 and send it nothing."""
    named = "" if request.destination is None else f"\0{request.destination}"
    return f"{request.tenant}\0{request.id}{named}"
