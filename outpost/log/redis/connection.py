"""One pipelined connection to Redis, for what runs per batch of events: scripts and stream reads.

redis-py spends more time on packing a batch of a hundred events than Redis on running it; here hiredis packs and
parses, and every caller's commands go out as they come, in one write. Replies are told apart by their order, so
that a request which times out ends the connection: its late reply must not become another's. A caller that is
cancelled leaves its replies behind, and the connection in step.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
import msgspec
import redis.exceptions

from outpost.log.redis import log_identity

Arg = bytes | str | int | float
# Of the replies to one request: the largest event that may be allowed (64 MiB), alone, still comes.
MAX_ANSWER_BYTES = 80 * 1024 * 1024
# Keeps quiet connections known to what stands between, and ends those whose other end is gone without a word.
KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),  # seconds
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class ClusterError(redis.exceptions.ResponseError):
    """An answer that only a server in cluster mode gives."""


class RedisAddress(msgspec.Struct, frozen=True):
    """Where Redis is; `unix_socket` wins over host and port."""

    host: str
    port: int = 6379
    username: str | None = None
    password: str | None = None
    database: int = 0
    tls: bool = False
    tls_verify: bool = True
    unix_socket: str | None = None

    def __repr__(self) -> str:
        return f"RedisAddress({self.unix_socket or self.host})"


@functools.lru_cache(maxsize=2)
def tls_context(*, verify: bool) -> ssl.SSLContext:
    """TLS 1.2 or newer. Certificates are judged alike by every version of Python: from 3.13 on, the default is
    strict and refuses those of many private authorities."""
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


# What an error reply starts with, where its kind matters to us.
_KINDS: dict[str, type[redis.exceptions.RedisError]] = {
    "NOSCRIPT": redis.exceptions.NoScriptError,
    "OOM": redis.exceptions.OutOfMemoryError,
    "LOADING": redis.exceptions.BusyLoadingError,
    "READONLY": redis.exceptions.ReadOnlyError,
    "NOAUTH": redis.exceptions.AuthenticationError,
    "WRONGPASS": redis.exceptions.AuthenticationError,
    "NOPERM": redis.exceptions.NoPermissionError,
    "CROSSSLOT": redis.exceptions.ClusterCrossSlotError,
    "CLUSTERDOWN": ClusterError,
    "MOVED": ClusterError,
    "ASK": ClusterError,
}


def _error(text: str) -> redis.exceptions.RedisError:
    if text.startswith("ERR AUTH"):  # a password, where the default user has none
        return redis.exceptions.AuthenticationError(text)
    return _KINDS.get(text.partition(" ")[0], redis.exceptions.ResponseError)(text)


def says_closed(exc: RuntimeError) -> bool:
    """Whether it is what uvloop raises at a write to a connection that was lost in the same turn of the loop."""
    return "handler is closed" in str(exc)


class AnswerTooLarge(ConnectionError):
    """The replies to one request exceed `MAX_ANSWER_BYTES`; the connection was ended before they were kept."""


class _Answer:
    """The replies to one request, as far as they have come. `size`: their bytes, once they are complete."""

    __slots__ = ("replies", "size", "wanted")

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.replies: list[Any] = []
        self.size = 0


class _Connection(asyncio.Protocol):
    """The two ends of the pipe: requests in order, replies in order."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(protocolError=redis.exceptions.InvalidResponse, replyError=_error)
        # The future stands beside its answer: one that it were in would be a cycle, with all that was replied.
        self._requests: deque[tuple[_Answer, asyncio.Future[_Answer]]] = deque()
        self._transport: asyncio.Transport | None = None
        self._received = 0  # bytes since the last answer was complete
        self.loop = asyncio.get_running_loop()
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its bases

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        self._received += len(data)
        if self._received > MAX_ANSWER_BYTES:
            self.abort(AnswerTooLarge())
            return
        self._reader.feed(data)
        while self._requests:
            answer, future = self._requests[0]
            try:
                reply = self._reader.gets()
            except redis.exceptions.RedisError as exc:
                self.abort(exc)
                return
            if reply is False:
                return
            answer.replies.append(reply)
            if len(answer.replies) == answer.wanted:
                self._requests.popleft()
                answer.size, self._received = self._received, 0
                if not future.done():
                    future.set_result(answer)
        if self._reader.has_data():  # nobody asked for it, and the next request would take it for its own answer
            self.abort(redis.exceptions.InvalidResponse())

    def connection_lost(self, exc: Exception | None) -> None:
        self.abort(exc or ConnectionResetError())

    def send(self, packed: bytes, count: int) -> asyncio.Future[_Answer]:
        """Writes `count` packed commands; the future has their replies, errors among them as values.

        A request is queued only once it is written: what cannot be written leaves nobody waiting who would take
        the answer of the next request.
        """
        future: asyncio.Future[_Answer] = self.loop.create_future()
        if self.closed or self._transport is None or self._transport.is_closing():  # lost, and not yet told
            future.set_exception(ConnectionResetError())
            return future
        try:
            self._transport.write(packed)
        except BaseException as exc:
            self.abort(exc)  # some of it may be on its way
            raise
        self._requests.append((_Answer(count), future))
        return future

    def abort(self, exc: BaseException) -> None:
        """Ends the connection and everybody's waiting."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
        while self._requests:
            _, future = self._requests.popleft()
            if not future.done():
                future.set_exception(ConnectionResetError(type(exc).__name__))


def pack(commands: Sequence[Sequence[Arg]]) -> bytes:
    """The bytes of one request. Raises TypeError for an argument that is no `Arg`."""
    return b"".join([hiredis.pack_command(tuple(command)) for command in commands])  # type: ignore[arg-type]


class Wire:
    """A connection that is dialled when it is needed, and again after it broke."""

    def __init__(self, address: RedisAddress, connect_timeout_s: float, pin: log_identity.LogIdentity) -> None:
        self._address = address
        self._connect_timeout_s = connect_timeout_s
        self._pin = pin
        self._connection: _Connection | None = None
        self._dialling: asyncio.Task[_Connection] | None = None

    async def execute(self, commands: Sequence[Sequence[Arg]], timeout_s: float) -> list[Any]:
        """The replies in order, error replies as values. Raises OSError and TimeoutError; then any of the commands
        may have run."""
        return (await self.measured(commands, timeout_s))[0]

    async def measured(self, commands: Sequence[Sequence[Arg]], timeout_s: float) -> tuple[list[Any], int]:
        """As `execute`, with about how many bytes the replies are."""
        return await self.exchange(pack(commands), len(commands), timeout_s)

    async def exchange(self, packed: bytes, count: int, timeout_s: float) -> tuple[list[Any], int]:
        """As `measured`, for `count` commands that are packed already."""
        if not count:
            return [], 0  # a request without replies would never be over, and take those of the next one
        connection = self._connection
        if connection is None or connection.closed:
            connection = await self._dial()
        future = connection.send(packed, count)
        timer = connection.loop.call_later(timeout_s, connection.abort, TimeoutError())
        try:
            answer = await future
        finally:
            timer.cancel()
        return answer.replies, answer.size

    async def close(self) -> None:
        """Ends the connection; the next use would dial again."""
        if self._dialling is not None:
            self._dialling.cancel()
        if self._connection is not None:
            self._connection.abort(ConnectionAbortedError())

    async def _dial(self) -> _Connection:
        """One dial for everybody who waits: where a server takes connections and answers nobody, they would
        otherwise wait for it one after another."""
        task = self._dialling
        if task is None:
            task = self._dialling = asyncio.create_task(self._connect())
            task.add_done_callback(self._dialled)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise ConnectionAbortedError from None  # closed meanwhile
            raise

    def _dialled(self, task: asyncio.Task[_Connection]) -> None:
        self._dialling = None
        if not task.cancelled() and task.exception() is None:
            self._connection = task.result()

    async def _connect(self) -> _Connection:
        async with asyncio.timeout(self._connect_timeout_s):
            return await _connect(self._address, self._connect_timeout_s, self._pin)


async def _connect(address: RedisAddress, timeout_s: float, pin: log_identity.LogIdentity) -> _Connection:
    loop = asyncio.get_running_loop()
    factory: Callable[[], _Connection] = _Connection
    if address.unix_socket:
        _, connection = await loop.create_unix_connection(factory, address.unix_socket)
    else:
        context = tls_context(verify=address.tls_verify) if address.tls else None
        transport, connection = await loop.create_connection(factory, address.host, address.port, ssl=context)
        raw = transport.get_extra_info("socket")
        if raw is None:
            raise ConnectionResetError  # lost again already
        for option in KEEPALIVE:
            raw.setsockopt(*option)
    hello: list[Sequence[Arg]] = []
    if address.password or address.username:  # a user may have no password
        hello.append(("AUTH", *([address.username] if address.username else []), address.password or ""))
    if address.database:
        hello.append(("SELECT", address.database))
    if pin.expected is not None:
        hello.append(pin.question)
    if hello:
        try:
            async with asyncio.timeout(timeout_s):
                _judge((await connection.send(pack(hello), len(hello))).replies, pin)
        except BaseException as exc:
            connection.abort(exc)
            raise
    return connection


def _judge(replies: Sequence[Any], pin: log_identity.LogIdentity) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    if pin.expected is not None:
        pin.check(replies[-1])


class WirePool:
    """Connections for blocking reads: each carries one at a time."""

    def __init__(self, address: RedisAddress, connect_timeout_s: float, pin: log_identity.LogIdentity) -> None:
        self._address = address
        self._connect_timeout_s = connect_timeout_s
        self._pin = pin
        self._free: list[Wire] = []
        self._busy: set[Wire] = set()

    async def execute(self, command: Sequence[Arg], timeout_s: float) -> tuple[Any, int]:
        """The reply, raised if it is an error, and its bytes. Raises as `Wire.measured`."""
        wire = self._free.pop() if self._free else Wire(self._address, self._connect_timeout_s, self._pin)
        self._busy.add(wire)
        try:
            [reply], size = await wire.exchange(pack([command]), 1, timeout_s)
        except BaseException:
            with contextlib.suppress(OSError):
                await wire.close()  # a read that was cut off would hold up the next one
            raise
        finally:
            self._busy.discard(wire)
            self._free.append(wire)
        if isinstance(reply, Exception):
            raise reply
        return reply, size

    async def close(self) -> None:
        """Ends every connection."""
        for wire in (*self._free, *self._busy):
            await wire.close()
