"""Sends to one Pub/Sub topic, as many events in a request as it may hold, each with an outcome of its own.

Where a template names ordering keys, the events of a key go one request after the other: the service wants all
messages of a request to have the same one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from outpost.adapters import base, codes
from outpost.adapters.egress import addresses
from outpost.adapters.gcp import attributes
from outpost.adapters.gcp import calls as gcp_calls
from outpost.adapters.gcp.calls import FRAME_BYTES, MOST_BYTES, MOST_MESSAGES
from outpost.adapters.shared import groups, metadata, templates
from outpost.domain import delivery

METHOD = "/google.pubsub.v1.Publisher/Publish"
# One bad message among a thousand takes ten, so this finds four; a thousand bad ones, which a wrong topic makes of
# them, cost eighty requests and not two thousand.
MOST_DIVISIONS = 40
MAX_KEY_BYTES = 1_024  # of an ordering key
# Each key that events wait for may become a request of its own.
MAX_ORDERED, MAX_ORDERED_CALLS = 100, 4
_NEVER = re.compile(
    r"attribute|ordering.key", re.IGNORECASE
)  # what no message may have, whoever sends it how often


class Made(NamedTuple):
    """A message, or why there is none; and the keys of metadata that are left out."""

    message: Any
    left_out: Sequence[str] = ()
    failure: delivery.Failed = codes.UNFORMATTED


class Publisher:
    """Sends to one topic over one channel; see base.Publisher."""

    max_batch = MOST_MESSAGES

    def __init__(
        self,
        library: gcp_calls.Library,
        names: addresses.Addresses,
        service: gcp_calls.Service,
        tokens: gcp_calls.Tokens | None,
        config: Mapping[str, str],
        merger: metadata.Merger,
        template: templates.Template | None = None,
        usual_key: str = "",
    ) -> None:
        """`template` gives ordering keys, and `usual_key` is that of the events of which it says nothing."""
        self._library = library
        self._calls = gcp_calls.Calls(library, names, service, tokens)
        self._place: dict[str, object] = {"topic": config["topic"], "project": config["project_id"]}
        self._path = f"projects/{config['project_id']}/topics/{config['topic']}"
        self._routing = gcp_calls.routing("topic", self._path)
        self._merger = merger
        self._template = template
        self._usual_key = usual_key
        self._ordered: groups.Groups[Made] | None = None
        if template is not None:
            self._ordered = groups.Groups(self._in_order, MAX_ORDERED, MAX_ORDERED_CALLS, together=True)

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """One outcome an event, in order. As few requests as the limits allow, all at once; one at a time for each
        ordering key."""
        made = [self._made(event) for event in batch]
        if self._ordered is None:
            return await self._sent(made, deadline)
        return await self._ordered.send(made, [_key(each) for each in made], deadline)

    async def _in_order(self, made: list[Made], deadline: float) -> list[delivery.Outcome]:
        keys: dict[str | None, list[int]] = {}
        for at, each in enumerate(made):
            keys.setdefault(_key(each), []).append(at)
        sent = await asyncio.gather(
            *(self._sent([made[at] for at in places], deadline, in_order=True) for places in keys.values())
        )
        outcomes: dict[int, delivery.Outcome] = {}
        for places, found in zip(keys.values(), sent, strict=True):
            outcomes.update(zip(places, found, strict=True))
        return [outcomes[at] for at in range(len(made))]

    async def _sent(
        self, made: Sequence[Made], deadline: float, *, in_order: bool = False
    ) -> list[delivery.Outcome]:
        """Pub/Sub takes a request or refuses it as a whole. Where it may refuse it for one of its messages (a
        schema, an attribute, the size), the halves are sent, so that the others arrive."""
        outcomes: list[delivery.Outcome] = [each.failure for each in made]
        messages = [each.message for each in made]
        waiting = self._parts(messages, outcomes)
        divisions = MOST_DIVISIONS
        while waiting:
            now, later = (waiting[:1], waiting[1:]) if in_order else (waiting, [])
            calls = [self._call([messages[at] for at in part], deadline) for part in now]
            answers = await asyncio.gather(*calls) if len(calls) > 1 else [await calls[0]]
            halves: list[list[int]] = []
            for part, answer in zip(now, answers, strict=True):
                if isinstance(answer, list):
                    for at, id_ in zip(part, answer, strict=True):
                        response = metadata.noted({"message_id": id_, **self._place}, made[at].left_out)
                        outcomes[at] = delivery.Delivered(codes.OK, response)
                elif _dividing(answer) and len(part) > 1 and divisions:
                    divisions -= 1
                    halves += [part[: len(part) // 2], part[len(part) // 2 :]]
                else:
                    for at in part:
                        outcomes[at] = answer.outcome
            waiting = halves + later
        return outcomes

    async def close(self) -> None:
        """Closes the channel; sends under way fail."""
        if self._ordered is not None:
            await self._ordered.close()
        await self._calls.close()

    def _parts(self, messages: list[Any], outcomes: list[delivery.Outcome]) -> list[list[int]]:
        """The places of the messages of each request. What is too large by itself is in none, and fails now."""
        room = MOST_BYTES - len(self._path.encode("utf-8", "replace")) - FRAME_BYTES
        sizes: dict[int, int] = {}
        for at, message in enumerate(messages):
            if message is None:
                continue
            size = message.ByteSize() + FRAME_BYTES
            if size <= room:
                sizes[at] = size
            else:
                outcomes[at] = codes.failed(codes.Code.MESSAGE_TOO_LARGE, f"larger than {MOST_BYTES} bytes")
        return parts(sizes, room)

    def _made(self, event: base.Delivery) -> Made:
        merged = self._merger.merged(event)
        kept, left_out = attributes.fitting(merged)
        key = ""
        if self._template is not None:
            key = templates.of_event(self._template, event.data, merged) or self._usual_key
            if (size := len(key.encode("utf-8", "replace"))) > MAX_KEY_BYTES:
                text = f"the ordering key has {size} bytes, and may have {MAX_KEY_BYTES}"
                return Made(None, failure=codes.failed(codes.Code.MESSAGE_REFUSED, text))
        try:
            return Made(self._library.message(data=event.data, attributes=kept, ordering_key=key), left_out)
        except (ValueError, TypeError):  # a text that UTF-8 does not have
            return Made(None)

    async def _call(self, messages: list[Any], deadline: float) -> list[str] | gcp_calls.Refused:
        """The ids of the messages, or why there are none."""
        request = self._library.request(topic=self._path, messages=messages).SerializeToString()
        read = self._library.response.FromString
        answer = await self._calls.call(METHOD, request, read, self._routing, deadline)
        if not isinstance(answer, gcp_calls.Refused):
            return ids_of(answer, len(messages))
        text = str((answer.outcome.response or {}).get("error", ""))
        if answer.status == "INVALID_ARGUMENT" and _NEVER.search(text):
            return gcp_calls.Refused(codes.failed(codes.Code.MESSAGE_REFUSED, text), answer.status)
        return answer


def _key(made: Made) -> str | None:
    return None if made.message is None else made.message.ordering_key


def ids_of(answer: Any, count: int) -> list[str] | gcp_calls.Refused:
    """The ids that the service gave to so many messages."""
    ids = [] if answer is None else list(answer.message_ids)  # None: it cannot be read
    if len(ids) != count:
        return gcp_calls.Refused(codes.failed(codes.Code.ERR, "the answer does not fit the request"))
    if not all(ids):
        return gcp_calls.Refused(codes.failed(codes.Code.ERR, "the service gave a message no id"))
    return ids


def _dividing(refused: gcp_calls.Refused) -> bool:
    """Whether a smaller request may not fail, since the service looks at requests as a whole."""
    return refused.status == "INVALID_ARGUMENT" or refused.outcome.code == codes.Code.MESSAGE_TOO_LARGE


def parts(sizes: Mapping[int, int], room: int) -> list[list[int]]:
    """The places of the messages, in order, in as many requests as their sizes need."""
    found: list[list[int]] = []
    left = 0
    for at, size in sizes.items():
        if size > left or len(found[-1]) == MOST_MESSAGES:
            found.append([])
            left = room
        found[-1].append(at)
        left -= size
    return found
