"""An open connection to a RabbitMQ: over judged addresses, under the TLS identity of the name.

Of aio-pika this is the protocol layer, aiormq: it takes a socket that we bring. Imports it at the top, and so is
imported itself when a destination connects, not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Iterator
from typing import Any

import aiormq
import aiormq.connection
import msgspec
import yarl
from aiormq import exceptions, spec

from outpost import collecting
from outpost.adapters.egress import addresses as judged
from outpost.adapters.egress import connecting
from outpost.adapters.rabbitmq import frames as rabbitmq_frames
from outpost.adapters.shared import tracebacks

# Keeps idle connections alive in whatever stands between. Who sends notices a dead broker at its deadline.
HEARTBEAT_S = 30
CLOSED_BY_US = (0, "closed")  # what the library raises for whoever waits on a connection that we end
CLOSE_S = 1.0  # what a broker may take to say goodbye

# Every failure is an outcome of ours; the library would say it again, a line or a traceback each.
logging.getLogger("aiormq").setLevel(logging.CRITICAL + 1)


class Login(msgspec.Struct, frozen=True):
    """Where to connect and as whom."""

    host: str
    port: int
    vhost: str
    username: str
    password: str
    tls: ssl.SSLContext | None

    def __repr__(self) -> str:
        return "Login(..)"


class Wire:
    """One connection. Whoever sends over it does so within `use`, so that it is not closed under those that were
    sending when somebody else gave it up."""

    def __init__(
        self, connection: aiormq.Connection, writer: asyncio.StreamWriter, frames: rabbitmq_frames.Frames
    ) -> None:
        self.connection = connection
        self._writer = writer
        self._frames = frames
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False

    @property
    def open(self) -> bool:
        """Whether it can be sent over, as far as is known. One that is being closed takes nothing new."""
        return self.connection.is_opened and not self._closing

    @contextlib.contextmanager
    def use(self, body: int, headers: int) -> Iterator[None]:
        """A send of a message of these sizes, in bytes."""
        self._users += 1
        self._idle.clear()
        expected = self._frames.sent(body, headers)
        try:
            yield
        finally:
            self._frames.answered(expected)
            self._users -= 1
            if not self._users:
                self._idle.set()

    @property
    def blocked(self) -> str | None:
        """Why the broker takes no messages for now (`connection.blocked`); None where it does."""
        return self._frames.blocked

    async def close(self) -> None:
        """Waits for those that send, each of which has its deadline, says goodbye and ends the socket."""
        self._closing = True
        try:
            while self._users:
                await self._idle.wait()
            async with asyncio.timeout(CLOSE_S):
                await self.connection.close(exceptions.ConnectionClosed(*CLOSED_BY_US))
        finally:
            self._writer.transport.abort()
            # The library's connection is a cycle, and holds what was sent last: what is ours is taken out of it.
            self.connection._transport_factory = None  # type: ignore[assignment]  # noqa: SLF001
            collecting.count(self._frames.end())


class Lane(msgspec.Struct, frozen=True):
    """The channel that messages go over, with publisher confirms, and its connection."""

    wire: Wire
    channel: aiormq.Channel

    @property
    def open(self) -> bool:
        """Whether it can be sent over, as far as is known. Answers to what was not asked would pile up there."""
        return self.wire.open and not self.channel.is_closed and self.channel.rpc_frames.empty()


async def connect(
    login: Login,
    known: judged.Addresses,
    limit_s: float,
    role: rabbitmq_frames.Role = rabbitmq_frames.PUBLISHER,
    heartbeat_s: int = HEARTBEAT_S,
) -> Wire:
    """A connection that is logged in. Raises addresses.Blocked and Unknown, OSError, TimeoutError and aiormq's
    own; leaves no socket behind when it is cancelled."""
    sockets = _Sockets(login, known, limit_s, role)
    connection = _Connection(_url(login, heartbeat_s), transport_factory=sockets)
    connection.vhost = login.vhost
    # Without a bound, since whoever puts something in waits for its answer: so nothing comes between the close of
    # a channel and our answer to it, and that answer is never dropped.
    connection.write_queue = asyncio.Queue()
    try:
        await connection.connect({"connection_name": "Outpost"})
    except BaseException as exc:
        if sockets.writer is not None:
            sockets.writer.transport.abort()
        tracebacks.clear(exc)
        raise
    assert sockets.writer is not None
    assert sockets.frames is not None
    return Wire(connection, sockets.writer, sockets.frames)


async def open_lane(wire: Wire) -> Lane:
    """A channel of `wire`. Raises aiormq's errors, and RuntimeError where the connection has closed."""
    channel = await wire.connection.channel()
    assert isinstance(channel, aiormq.Channel)
    channel.__class__ = _Channel
    return Lane(wire, channel)


def _url(login: Login, heartbeat_s: int = HEARTBEAT_S) -> yarl.URL:
    """What the library takes user and password from, quoted. The host is ours to look up, and a virtual host does
    not survive a URL whatever it is named."""
    return yarl.URL.build(
        scheme="amqps" if login.tls else "amqp",
        user=login.username,
        password=login.password,
        host="destination",
        path="/",
        query={"heartbeat": str(heartbeat_s)},
    )


class _Sockets(aiormq.connection.TransportFactory):
    def __init__(self, login: Login, known: judged.Addresses, limit_s: float, role: rabbitmq_frames.Role) -> None:
        self.writer: asyncio.StreamWriter | None = None
        self.frames: rabbitmq_frames.Frames | None = None
        self._login = login
        self._known = known
        self._limit_s = limit_s
        self._role = role

    async def create(self, url: yarl.URL, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        deadline = asyncio.get_running_loop().time() + self._limit_s
        found = await self._known.of(self._login.host)
        reader, writer = await connecting.first_reachable(found, self._open, deadline)
        self.writer, self.frames = writer, rabbitmq_frames.Frames(reader, writer.transport.abort, self._role)
        return self.frames, writer  # type: ignore[return-value]  # all that the library uses of one

    async def _open(self, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        login = self._login
        if login.tls is None:
            return await asyncio.open_connection(address, login.port)
        name = login.host.strip("[]").rstrip(".")
        return await asyncio.open_connection(address, login.port, ssl=login.tls, server_hostname=name)


class _Connection(aiormq.Connection):
    """With the broker's own words where it refuses a virtual host: the library says of that answer only that it
    was not the one it expected. And with our limit on the size of frames, to which the library has none. A broker
    that lists no capabilities, as AMQP allows, is asked for confirms all the same: it says if it has none."""

    @property
    def server_capabilities(self) -> Any:
        told: Any = (self.server_properties or {}).get("capabilities")
        return told if isinstance(told, dict) and "publisher_confirms" in told else {"publisher_confirms": True}

    @staticmethod
    async def _rpc(
        request: Any, writer: asyncio.StreamWriter, frame_receiver: Any, wait_response: bool = True
    ) -> Any:
        told = _Told(frame_receiver)
        rpc = aiormq.Connection._rpc  # noqa: SLF001 -- `super` does not reach a static method
        answer = await rpc(request, writer, told, wait_response)  # type: ignore[arg-type]
        if isinstance(answer, spec.Connection.Tune):
            answer.frame_max = rabbitmq_frames.agreed(answer.frame_max)
        return answer


class _Channel(aiormq.Channel):
    """Lets nothing out behind its answer to a close: the broker ends the connection over a message on a channel
    that is closed. The library learns that it has closed only some turns of the loop later."""

    async def _on_close_frame(self, frame: spec.Channel.Close) -> None:
        try:
            await super()._on_close_frame(frame)
        finally:
            self.write_queue = asyncio.Queue()


class _Told:
    def __init__(self, receiver: aiormq.connection.FrameReceiver) -> None:
        self._receiver = receiver

    async def get_frame(self) -> aiormq.connection.ReceivedFrame:
        received = await self._receiver.get_frame()
        if isinstance(received[2], spec.Connection.Close):
            raise aiormq.connection.exception_by_code(received[2])
        return received
