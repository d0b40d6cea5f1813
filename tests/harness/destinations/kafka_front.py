"""A front for a Kafka broker that knows no users: logins, TLS, rights, quotas and what a topic takes, on the wire.

It speaks Kafka's protocol frame by frame. What it refuses never reaches the broker behind it; what it lets through
arrives there as it was sent. The brokers that the answers name are replaced by `advertised`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import os
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiokafka.protocol import metadata, produce
from aiokafka.record.memory_records import MemoryRecords

PRODUCE, METADATA, HANDSHAKE, VERSIONS, INIT_PRODUCER, AUTHENTICATE = 0, 3, 17, 18, 22, 36
# The newest of each that is read here.
NEWEST = {PRODUCE: 7, METADATA: 5, INIT_PRODUCER: 0, VERSIONS: 0}
LOGIN = {HANDSHAKE: 1, AUTHENTICATE: 1}
MECHANISMS = {"PLAIN": "", "SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
OFFSET_NONE = -1
MOST_REQUEST_BYTES = 104_857_600  # a broker closes the connection over anything larger
TOO_LARGE, DENIED, LOGIN_FAILED, INVALID_RECORD, THROTTLED = 10, 29, 58, 87, 89


class Front:
    """One listener on 127.0.0.1. `users` are names and passwords, or None where nobody logs in; `readers` those
    of them who may not write. Everything may be changed while it runs."""

    host = "127.0.0.1"

    def __init__(
        self, backend: int, users: dict[str, str] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.port = 0
        self.users = users
        self.readers: set[str] = set()
        self.advertised: tuple[str, int] | None = None
        self.throttling = False
        self.invalid: set[bytes] = set()  # values of records that the topic does not take
        self.most_bytes = 1_048_588  # of a batch, as brokers have it by default
        self.iterations = 4_096
        self.answers: list[Callable[[int, bytes], bytes | None]] = []  # instead of ours, by API key
        self.produced: list[list[int]] = []  # how many records each batch of each request had
        self._backend = backend
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._on_connection, self.host, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        connection = _Connection(self, reader, writer)
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                await connection.run(self._backend)
        finally:
            writer.transport.abort()


class _Connection:
    def __init__(self, front: Front, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._front = front
        self._reader = reader
        self._writer = writer
        self._user: str | None = None
        self._login: Any = None

    async def run(self, backend: int) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", backend)

        async def ask(request: bytes) -> bytes:
            up_writer.write(struct.pack(">i", len(request)) + request)
            return (await _frame(up_reader))[4:]

        try:
            while True:
                frame = await _frame(self._reader)
                api, version, correlation, name = struct.unpack(">hhih", frame[:10])
                header, body = frame[: 10 + max(name, 0)], frame[10 + max(name, 0) :]
                answer = self._own_answer(api, version, body)
                if answer is None and api == PRODUCE:
                    answer = await self._produce(version, header, body, ask)
                elif answer is None:
                    answer = self._changed(api, version, await ask(frame))
                self._writer.write(struct.pack(">ii", len(answer) + 4, correlation) + answer)
                await self._writer.drain()
        finally:
            up_writer.transport.abort()

    def _own_answer(self, api: int, version: int, body: bytes) -> bytes | None:
        """What the front says itself. Raises EOFError where a broker would close the connection."""
        for answer in self._front.answers:
            if (own := answer(api, body)) is not None:
                return own
        if api == HANDSHAKE:
            return self._handshake(body)
        if api == AUTHENTICATE:
            return self._authenticate(version, body)
        if self._front.users is not None and self._user is None and api != VERSIONS:
            raise EOFError
        return None

    def _handshake(self, body: bytes) -> bytes:
        (length,) = struct.unpack(">h", body[:2])
        mechanism = body[2 : 2 + length].decode()
        if mechanism in MECHANISMS:
            self._login = _login(mechanism, self._front)
            next(self._login)
        error = 0 if mechanism in MECHANISMS else 33
        return struct.pack(">hi", error, len(MECHANISMS)) + b"".join(_text(name) for name in MECHANISMS)

    def _authenticate(self, version: int, body: bytes) -> bytes:
        (length,) = struct.unpack(">i", body[:4])
        said, user, problem = self._login.send(body[4 : 4 + length])
        self._user = user
        error = struct.pack(">h", LOGIN_FAILED) + _text(problem) if problem else struct.pack(">hh", 0, -1)
        return error + struct.pack(">i", len(said)) + said + (struct.pack(">q", 0) if version else b"")

    async def _produce(
        self, version: int, header: bytes, body: bytes, ask: Callable[[bytes], Awaitable[bytes]]
    ) -> bytes:
        """What is taken goes on to the broker; the answer tells of all."""
        kind = produce.ProduceRequest._CLASSES[version]
        request = kind.decode(body)
        [(topic, partitions)] = request.topics
        numbers = self._numbers(partitions)
        taken = [each for each in partitions if not numbers[each[0]]]
        told: list[Any] = []
        if taken:
            request.topics = [(topic, taken)]
            answer = kind.RESPONSE_TYPE.decode(await ask(header + request.encode()))
            [(_, told)] = answer.topics
        rest = [OFFSET_NONE] * (len(_fields(kind.RESPONSE_TYPE)) - 2)
        told += [(partition, number, *rest) for partition, number in numbers.items() if number]
        return bytes(kind.RESPONSE_TYPE(topics=[(topic, told)], throttle_time_ms=0).encode())

    def _numbers(self, partitions: list[tuple[int, bytes]]) -> dict[int, int]:
        numbers: dict[int, int] = {}
        batches: list[int] = []
        for partition, records in partitions:
            batch = MemoryRecords(records).next_batch()
            values = [bytes(record.value) for record in batch]
            batches.append(len(values))
            numbers[partition] = self._number(len(records), set(values))
        self._front.produced.append(batches)
        return numbers

    def _number(self, size: int, values: set[bytes]) -> int:
        if self._user in self._front.readers:
            return DENIED
        if self._front.throttling:
            return THROTTLED
        if size > self._front.most_bytes:
            return TOO_LARGE
        return INVALID_RECORD if values & self._front.invalid else 0

    def _changed(self, api: int, version: int, answer: bytes) -> bytes:
        if api == VERSIONS:
            (count,) = struct.unpack(">i", answer[2:6])
            told = [struct.unpack(">hhh", answer[6 + 6 * n : 12 + 6 * n]) for n in range(count)]
            kept = [(key, low, min(high, NEWEST[key])) for key, low, high in told if key in NEWEST]
            kept += [(key, 0, high) for key, high in LOGIN.items()]
            return (
                answer[:2] + struct.pack(">i", len(kept)) + b"".join(struct.pack(">hhh", *each) for each in kept)
            )
        if api == METADATA:
            told = metadata.MetadataRequest._CLASSES[version].RESPONSE_TYPE.decode(answer)
            host, port = self._front.advertised or (self._front.host, self._front.port)
            told.brokers = [(node, host, port, *more) for node, _, _, *more in told.brokers]
            return bytes(told.encode())
        return answer


def _login(mechanism: str, front: Front) -> Any:
    """Takes what the client says; yields what to say, who has logged in by that, and what is wrong."""
    users = front.users or {}
    said = yield
    if mechanism == "PLAIN":
        _, user, password = said.decode().split("\0")
        known = users.get(user) == password
        yield b"", user if known else None, "" if known else "Authentication failed: invalid credentials"
        return
    algorithm = MECHANISMS[mechanism]
    bare = said.decode().split(",", 2)[2]
    fields = dict(part.split("=", 1) for part in bare.split(","))
    user = fields["n"]
    nonce = fields["r"] + base64.b64encode(os.urandom(12)).decode()
    salt = os.urandom(16)
    first = f"r={nonce},s={base64.b64encode(salt).decode()},i={front.iterations}"
    final = (yield first.encode(), None, "").decode()
    unproven, _, proof = final.rpartition(",p=")
    spoken = f"{bare},{first},{unproven}".encode()
    salted = hashlib.pbkdf2_hmac(algorithm, users.get(user, "").encode(), salt, front.iterations)
    client_key = hmac.digest(salted, b"Client Key", algorithm)
    signature = hmac.digest(hashlib.new(algorithm, client_key).digest(), spoken, algorithm)
    right = bytes(a ^ b for a, b in zip(client_key, signature, strict=True)) == base64.b64decode(proof)
    if user not in users or not right:
        yield b"", None, "Authentication failed: invalid credentials with SASL mechanism SCRAM"
        return
    server = hmac.digest(hmac.digest(salted, b"Server Key", algorithm), spoken, algorithm)
    yield b"v=" + base64.b64encode(server), user, ""


def _fields(kind: Any) -> Any:
    """The fields of a partition in a produce answer of this version."""
    return kind.SCHEMA.fields[0].array_of.fields[1].array_of.fields


def _text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    if not 0 <= size <= MOST_REQUEST_BYTES:
        raise EOFError
    return await reader.readexactly(size)
