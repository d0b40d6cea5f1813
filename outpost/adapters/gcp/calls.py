"""Calls of one Pub/Sub service over a gRPC channel of our own.

The requests are google-cloud-pubsub's. Its client classes are not used: they read GOOGLE_CLOUD_UNIVERSE_DOMAIN,
GOOGLE_API_USE_CLIENT_CERTIFICATE and a certificate file of our process, and write payloads into a debug log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import urllib.parse
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from outpost.adapters import codes
from outpost.adapters.egress import addresses
from outpost.adapters.shared import long_lived_client
from outpost.domain import delivery

if TYPE_CHECKING:
    import grpc.aio

# https://cloud.google.com/pubsub/quotas#resource_limits, of one publish request
MOST_MESSAGES = 1_000
MOST_BYTES = 10_000_000
FRAME_BYTES = 6  # the tag and the length of a message within a request, at most
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
    pubsub: Any  # the module of the messages
    request: Any  # PublishRequest
    response: Any  # PublishResponse
    message: Any  # PubsubMessage


class Unauthenticated(Exception):
    """There is no token. `certain`: nor will there be one without a change of what this process is given."""

    def __init__(self, text: str, *, certain: bool) -> None:
        super().__init__(text)
        self.text = text
        self.certain = certain


class Tokens(Protocol):
    """What signs the calls."""

    async def fresh(self) -> str:
        """One that is good for some minutes at least. Raises Unauthenticated."""


class Refused(NamedTuple):
    """A call that failed. `status` is gRPC's word, "" where the service did not answer."""

    outcome: delivery.Failed
    status: str = ""


def load() -> Library:
    """Takes some 400 ms the first time. The bare protobuf classes, since the wrappers around them cost ten times
    as much a message."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core writes a line to stderr for a bad answer
    logging.getLogger("grpc").setLevel(logging.CRITICAL + 1)  # and grpc a traceback
    import grpc
    from google.pubsub_v1.types import pubsub

    from outpost.adapters.gcp import channels as grpc_channels

    messages = (pubsub.PublishRequest.pb(), pubsub.PublishResponse.pb(), pubsub.PubsubMessage.pb())
    return Library(grpc_channels, grpc, pubsub, *messages)


def routing(name: str, path: str) -> tuple[str, str]:
    """So that the service need not read the request to know where it goes:
    https://google.aip.dev/client-libraries/4222"""
    return ("x-goog-request-params", f"{name}={urllib.parse.quote_plus(path, safe='/')}")


class Calls:
    """One channel, opened at first use. `options`: of `channels`, where they are not the usual ones."""

    def __init__(
        self,
        library: Library,
        names: addresses.Addresses,
        service: Service,
        tokens: Tokens | None,
        **options: int,
    ) -> None:
        self._library = library
        self._names = names
        self._service = service
        self._tokens = tokens
        self._options = options
        self._held = long_lived_client.LongLivedClient(self._open, self._shut, OPEN_S)
        self._closed = False

    async def call(
        self,
        method: str,
        request: bytes,
        answer: Any,
        place: tuple[str, str],
        deadline: float,
        wait_s: float | None = None,
    ) -> Any | Refused:
        """What the service answers, read by `answer`, or why there is no answer; None where it cannot be read.
        Where the service may wait for something, for `wait_s`, None as well where nothing came."""
        channel: grpc.aio.Channel | None = None
        made: Any = None
        token = ""
        try:
            async with asyncio.timeout_at(deadline):
                channel = await self._held.get()
                told = [place]
                if self._tokens is not None:
                    token = await self._tokens.fresh()
                    told.append(("authorization", f"Bearer {token}"))
                made = channel.unary_unary(method, response_deserializer=answer)
                left = deadline - asyncio.get_running_loop().time() if wait_s is None else wait_s
                return await made(request, timeout=left, metadata=told)
        except self._library.grpc.aio.AioRpcError as exc:
            if wait_s is not None and exc.code() is self._library.grpc.StatusCode.DEADLINE_EXCEEDED:
                return None
            return self._refused(channel, exc, token)
        except asyncio.CancelledError as exc:
            self._discard(channel)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                channel = made = (
                    None  # they, and the frames so far, would keep the connection until the collector runs
                )
                raise exc.with_traceback(None) from None
            return Refused(codes.failed(codes.Code.CONNECTION_RESET))  # the channel was closed under the call
        except TimeoutError:
            self._discard(channel)
            return Refused(codes.failed(codes.Code.TIMEOUT))
        except addresses.Blocked:
            final = self._names.refuses(self._service.host)
            return Refused(codes.failed(codes.Code.BLOCKED_ADDRESS, final=final))
        except addresses.Unknown:
            return Refused(codes.failed(codes.Code.DNS_ERROR))
        except ConnectionError:  # this is closed
            return Refused(codes.failed(codes.Code.CONNECTION_RESET))
        except Unauthenticated as exc:
            code = codes.Code.INVALID_CREDENTIALS if exc.certain else codes.Code.NETWORK_ERROR
            return Refused(codes.failed(code, exc.text))

    async def close(self) -> None:
        """Closes the channel; calls under way fail."""
        self._closed = True
        await self._held.close()

    def _refused(self, channel: grpc.aio.Channel | None, error: grpc.aio.AioRpcError, token: str) -> Refused:
        status, text = error.code(), error.details() or ""
        statuses = self._library.grpc.StatusCode
        code = self._library.channels.code_of(status, text)
        broken = status in (statuses.UNAVAILABLE, statuses.DEADLINE_EXCEEDED)
        if broken or code is codes.Code.ANSWER_TOO_LARGE:
            self._discard(channel)  # the next one looks the host up again, and waits for no back-off
        return Refused(codes.failed(code, text or status.name, (token,) if token else ()), status.name)

    def _discard(self, channel: grpc.aio.Channel | None) -> None:
        if channel is not None:
            self._held.discard(channel)

    async def _open(self) -> grpc.aio.Channel:
        service = self._service
        found = await self._names.of(service.host)
        channels = self._library.channels
        if service.tls:
            return channels.secure(
                found, service.host, service.port, service.roots, service.added, **self._options
            )
        return channels.plain(found, service.host, service.port, **self._options)

    async def _shut(self, channel: grpc.aio.Channel) -> None:
        await channel.close(None if self._closed else GRACE_S)
