"""Sends to one Pub/Sub topic: publish requests over a gRPC channel of our own.

The requests are google-cloud-pubsub's. Its client class is not used: it reads GOOGLE_CLOUD_UNIVERSE_DOMAIN,
GOOGLE_API_USE_CLIENT_CERTIFICATE and a certificate file of our process, and writes payloads into a debug log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from outpost.adapters import base, codes
from outpost.adapters.egress import addresses
from outpost.adapters.gcp import attributes
from outpost.adapters.gcp import key as gcp_key
from outpost.adapters.shared import long_lived_client, metadata
from outpost.domain import delivery

if TYPE_CHECKING:
    import grpc.aio

METHOD = "/google.pubsub.v1.Publisher/Publish"
# https://cloud.google.com/pubsub/quotas#resource_limits, of one publish request
MOST_MESSAGES = 1_000
MOST_BYTES = 10_000_000
FRAME_BYTES = 6  # the tag and the length of a message within a request, at most
# One bad message among a thousand takes ten, so this finds four; a thousand bad ones, which a wrong topic makes of
# them, cost eighty requests and not two thousand.
MOST_DIVISIONS = 40
OPEN_S = 5.0  # what looking the host up may take
GRACE_S = 3.0  # what the sends beside one that was cut off get to end, before their connection is closed


class Service(msgspec.Struct, frozen=True):
    """Where Pub/Sub is. `tls` goes with a token; `roots`: PEM, where it is not the list that comes with gRPC;
    `added`: PEM beside that list."""

    host: str
    port: int
    tls: bool = True
    roots: bytes | None = None
    added: bytes = b""


class Library(NamedTuple):
    channels: Any  # outpost.adapters.gcp.channels
    grpc: Any
    request: Any  # PublishRequest
    response: Any  # PublishResponse
    message: Any  # PubsubMessage


def load() -> Library:
    """Takes some 400 ms the first time. The bare protobuf classes, since the wrappers around them cost ten times
    as much a message."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core writes a line to stderr for a bad answer
    logging.getLogger("grpc").setLevel(logging.CRITICAL + 1)  # and grpc a traceback
    import grpc
    from google.pubsub_v1.types import pubsub

    from outpost.adapters.gcp import channels as grpc_channels

    messages = (pubsub.PublishRequest.pb(), pubsub.PublishResponse.pb(), pubsub.PubsubMessage.pb())
    return Library(grpc_channels, grpc, *messages)


class _Refused(NamedTuple):
    """A request that failed. `dividing`: a smaller one may not, since the service looks at requests as a whole."""

    outcome: delivery.Failed
    dividing: bool = False


class Publisher:
    """Sends to one topic over one channel; see base.Publisher."""

    max_batch = MOST_MESSAGES

    def __init__(
        self,
        library: Library,
        names: addresses.Addresses,
        service: Service,
        tokens: gcp_key.Tokens | None,
        config: Mapping[str, str],
        merger: metadata.Merger,
    ) -> None:
        self._library = library
        self._names = names
        self._service = service
        self._tokens = tokens
        self._place: dict[str, object] = {"topic": config["topic"], "project": config["project_id"]}
        self._path = f"projects/{config['project_id']}/topics/{config['topic']}"
        # So that the service need not read the request to know where it goes: https://google.aip.dev/client-libraries/4222
        self._routing = ("x-goog-request-params", f"topic={urllib.parse.quote_plus(self._path, safe='/')}")
        self._merger = merger
        self._held = long_lived_client.LongLivedClient(self._open, self._shut, OPEN_S)
        self._closed = False

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
                elif answer.dividing and len(part) > 1 and divisions:
                    divisions -= 1
                    halves += [part[: len(part) // 2], part[len(part) // 2 :]]
                else:
                    for at in part:
                        outcomes[at] = answer.outcome
            waiting = halves
        return outcomes

    async def close(self) -> None:
        """Closes the channel; sends under way fail."""
        self._closed = True
        await self._held.close()

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

    async def _call(self, messages: list[Any], deadline: float) -> list[str] | _Refused:
        """The ids of the messages, or why there are none."""
        channel: grpc.aio.Channel | None = None
        try:
            async with asyncio.timeout_at(deadline):
                channel = await self._held.get()
                answer = await self._request(channel, messages, deadline)
            ids = [] if answer is None else list(answer.message_ids)  # grpc's way to say that it cannot be read
        except self._library.grpc.aio.AioRpcError as exc:
            return self._refused(channel, exc)
        except asyncio.CancelledError:
            self._discard(channel)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return _Refused(codes.failed(codes.Code.CONNECTION_RESET))  # the channel was closed under the call
        except TimeoutError:
            self._discard(channel)
            return _Refused(codes.failed(codes.Code.TIMEOUT))
        except addresses.Blocked:
            final = self._names.refuses(self._service.host)
            return _Refused(codes.failed(codes.Code.BLOCKED_ADDRESS, final=final))
        except addresses.Unknown:
            return _Refused(codes.failed(codes.Code.DNS_ERROR))
        except ConnectionError:  # this is closed
            return _Refused(codes.failed(codes.Code.CONNECTION_RESET))
        if len(ids) != len(messages):
            return _Refused(codes.failed(codes.Code.ERR, "the answer does not fit the request"))
        if not all(ids):
            return _Refused(codes.failed(codes.Code.ERR, "the service gave a message no id"))
        return ids

    async def _request(self, channel: grpc.aio.Channel, messages: list[Any], deadline: float) -> Any:
        request = self._library.request(topic=self._path, messages=messages).SerializeToString()
        call = channel.unary_unary(METHOD, response_deserializer=self._library.response.FromString)
        told = [self._routing]
        if self._tokens is not None:
            told.append(("authorization", f"Bearer {self._tokens.token()}"))
        return await call(request, timeout=deadline - asyncio.get_running_loop().time(), metadata=told)

    def _refused(self, channel: grpc.aio.Channel | None, error: grpc.aio.AioRpcError) -> _Refused:
        status, text = error.code(), error.details() or ""
        statuses = self._library.grpc.StatusCode
        code = self._library.channels.code_of(status, text)
        broken = status in (statuses.UNAVAILABLE, statuses.DEADLINE_EXCEEDED)
        if broken or code is codes.Code.ANSWER_TOO_LARGE:
            self._discard(channel)  # the next one looks the host up again, and waits for no back-off
        secrets = () if self._tokens is None else (self._tokens.token(),)
        dividing = status is statuses.INVALID_ARGUMENT or code is codes.Code.MESSAGE_TOO_LARGE
        return _Refused(codes.failed(code, text or status.name, secrets), dividing)

    def _discard(self, channel: grpc.aio.Channel | None) -> None:
        if channel is not None:
            self._held.discard(channel)

    async def _open(self) -> grpc.aio.Channel:
        service = self._service
        found = await self._names.of(service.host)
        if service.tls:
            return self._library.channels.secure(found, service.host, service.port, service.roots, service.added)
        return self._library.channels.plain(found, service.host, service.port)

    async def _shut(self, channel: grpc.aio.Channel) -> None:
        await channel.close(None if self._closed else GRACE_S)


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
