"""Sends to one Pub/Sub topic, as many events in a request as it may hold, each with an outcome of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from outpost.adapters import base, codes
from outpost.adapters.egress import addresses
from outpost.adapters.gcp import attributes
from outpost.adapters.gcp import calls as gcp_calls
from outpost.adapters.gcp.calls import FRAME_BYTES, MOST_BYTES, MOST_MESSAGES
from outpost.adapters.shared import metadata
from outpost.domain import delivery

METHOD = "/google.pubsub.v1.Publisher/Publish"
# One bad message among a thousand takes ten, so this finds four; a thousand bad ones, which a wrong topic makes of
# them, cost eighty requests and not two thousand.
MOST_DIVISIONS = 40


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
    ) -> None:
        self._library = library
        self._calls = gcp_calls.Calls(library, names, service, tokens)
        self._place: dict[str, object] = {"topic": config["topic"], "project": config["project_id"]}
        self._path = f"projects/{config['project_id']}/topics/{config['topic']}"
        self._routing = gcp_calls.routing("topic", self._path)
        self._merger = merger

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """One outcome an event, in order. As few requests as the limits allow, all at once.

        Pub/Sub takes a request or refuses it as a whole. Where it may refuse it for one of its messages (a schema,
        an attribute, the size), the halves are sent, so that the others arrive.
        """
        outcomes: list[delivery.Outcome] = [codes.UNFORMATTED] * len(batch)
        told = [attributes.fitting(self._merger.merged(event)) for event in batch]
        messages = [self._message(event, kept) for event, (kept, _) in zip(batch, told, strict=True)]
        waiting = self._parts(messages, outcomes)
        divisions = MOST_DIVISIONS
        while waiting:
            calls = [self._call([messages[at] for at in part], deadline) for part in waiting]
            answers = await asyncio.gather(*calls) if len(calls) > 1 else [await calls[0]]
            halves: list[list[int]] = []
            for part, answer in zip(waiting, answers, strict=True):
                if isinstance(answer, list):
                    for at, id_ in zip(part, answer, strict=True):
                        response = metadata.noted({"message_id": id_, **self._place}, told[at][1])
                        outcomes[at] = delivery.Delivered(codes.OK, response)
                elif _dividing(answer) and len(part) > 1 and divisions:
                    divisions -= 1
                    halves += [part[: len(part) // 2], part[len(part) // 2 :]]
                else:
                    for at in part:
                        outcomes[at] = answer.outcome
            waiting = halves
        return outcomes

    async def close(self) -> None:
        """Closes the channel; sends under way fail."""
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

    def _message(self, event: base.Delivery, kept: Mapping[str, str]) -> Any:
        try:
            return self._library.message(data=event.data, attributes=kept)
        except (ValueError, TypeError):  # a text that UTF-8 does not have
            return None

    async def _call(self, messages: list[Any], deadline: float) -> list[str] | gcp_calls.Refused:
        """The ids of the messages, or why there are none."""
        request = self._library.request(topic=self._path, messages=messages).SerializeToString()
        read = self._library.response.FromString
        answer = await self._calls.call(METHOD, request, read, self._routing, deadline)
        return answer if isinstance(answer, gcp_calls.Refused) else ids_of(answer, len(messages))


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
