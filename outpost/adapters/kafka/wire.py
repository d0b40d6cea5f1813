"""One connection to a broker: aiokafka's, but to an address that was judged, with bounded answers, closed at once.

The name that the tenant or the cluster gave stays what TLS checks. A broker is a tenant's, so nothing that it says
may cost us without a bound.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import struct
import weakref
from typing import Any

import msgspec
from aiokafka import conn
from aiokafka import errors as theirs

from outpost import collecting
from outpost.adapters.egress import addresses as addresses_
from outpost.adapters.egress import connecting
from outpost.adapters.kafka import answers as kafka_answers
from outpost.adapters.kafka import errors as kafka_errors
from outpost.adapters.shared import answers, tracebacks

CLIENT_ID = "outpost"
IDLE_MS = 540_000  # brokers close after 10 minutes; who closes first does not meet the other's closing
READ_AHEAD_BYTES = 262_144  # what a connection that is given up may have received
LARGEST_FRAME_BYTES = 104_857_600  # of Kafka; who announces more speaks something else
MAX_ITERATIONS = 32_768  # of SCRAM, some 20 ms of a thread; Kafka itself takes at most 16,384
MOST_PORT = 65_535
TLS_ALERT = 0x1503  # how a TLS broker's complaint of plain text begins, where an answer has its size
NO_ERRNO = 0

# At level debug it logs its requests, and so payloads and passwords; what matters of the rest is in our outcomes.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


class Access(msgspec.Struct, frozen=True):
    """How to reach the brokers of one destination. `trust` is None for plain text, `mechanism` "" for no login;
    a connection is open within `limit_s`, and every answer there."""

    addresses: addresses_.Addresses
    trust: ssl.SSLContext | None
    mechanism: str
    username: str
    password: str
    limit_s: float

    def __repr__(self) -> str:
        return "Access(..)"


class Connection(conn.AIOKafkaConnection):  # type: ignore[misc]  # untyped
    """To one broker; `connect` before all else."""

    def __init__(self, host: str, port: int, access: Access) -> None:
        layers = ("SASL" if access.mechanism else "", "SSL" if access.trust else "PLAINTEXT")
        super().__init__(
            host,
            port,
            client_id=CLIENT_ID,
            request_timeout_ms=round(access.limit_s * 1000),
            ssl_context=access.trust,
            security_protocol="_".join(filter(None, layers)),
            max_idle_ms=IDLE_MS,
            sasl_mechanism=access.mechanism or None,
            sasl_plain_username=access.username,
            sasl_plain_password=access.password,
        )
        self._access = access

    @property
    def broker(self) -> str:
        """`host:port` as texts of failures name it."""
        return f"{self._host}:{self._port}"

    async def connect(self) -> None:
        """Connected, versions known, logged in. Raises kafka_errors.Failure; then nothing is left open."""
        try:
            await self._dial()
            self._read_task = self._create_reader_task()
            self._idle_handle = self._loop.call_soon(self._idle_check, weakref.ref(self))
            await self._do_version_lookup()
            if self._access.mechanism:
                await self._log_in()
        except Exception as exc:
            self.close()
            tracebacks.clear(exc)
            raise kafka_errors.met(exc, self.broker) from exc
        except BaseException:
            self.close()
            raise

    async def ask(self, request: Any) -> Any:
        """The broker's answer. Raises kafka_errors.Failure; who is cut off here throws the connection away."""
        try:
            return await self.send(request)
        except Exception as exc:
            tracebacks.clear(exc)
            raise kafka_errors.met(exc, self.broker) from exc

    def close(self, reason: Any = None, exc: BaseException | None = None) -> Any:
        """Closes without waiting for a peer that may never read what is still to be sent."""
        transport = self._writer.transport if self._writer is not None else None
        super().close(reason, exc)
        if transport is not None:
            transport.abort()
            collecting.count(READ_AHEAD_BYTES)
        return self._closed_fut

    async def _dial(self) -> None:
        if not 0 < self._port <= MOST_PORT:
            raise theirs.KafkaProtocolError("no such port")
        found = await self._access.addresses.of(self._host)
        await connecting.first_reachable(found, self._dial_one, self._loop.time() + self._access.limit_s)

    async def _dial_one(self, address: str) -> None:
        closed = self._loop.create_future()
        reader = asyncio.StreamReader(limit=conn.READER_LIMIT, loop=self._loop)
        protocol = conn.AIOKafkaProtocol(closed, reader, loop=self._loop)
        name = self._host if self._access.trust is not None else None
        try:
            transport, _ = await self._loop.create_connection(
                lambda: protocol, address, self._port, ssl=self._access.trust, server_hostname=name
            )
        except (ConnectionResetError, ConnectionAbortedError) as exc:
            if name is None:
                raise
            raise ssl.SSLError(NO_ERRNO, "the broker ended the TLS handshake; does it speak plain text?") from exc
        self._closed_fut, self._protocol, self._reader = closed, protocol, reader
        self._writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)

    async def _log_in(self) -> None:
        try:
            await self._do_sasl_handshake()
        except (theirs.KafkaError, OSError):
            raise
        except Exception as exc:  # what the broker said makes no sense, or is not signed by who knows the password
            raise theirs.SaslAuthenticationFailed("the broker's part of the login is wrong") from exc

    def authenticator_scram(self) -> Any:
        return _Scram(
            loop=self._loop,
            sasl_plain_username=self._access.username,
            sasl_plain_password=self._access.password,
            sasl_mechanism=self._access.mechanism,
        )

    def _limit(self) -> int:
        """How many bytes the answer that begins may have. Raises KafkaProtocolError where none is expected."""
        if not self._requests:
            raise theirs.KafkaProtocolError("the broker answers what was not asked")
        request = self._requests[0][1]  # None is a step of a login of old
        if request is None or request.API_KEY not in (kafka_answers.PRODUCE, kafka_answers.METADATA):
            return kafka_answers.MAX_SMALL_BYTES
        response = kafka_answers.Response(request)
        request.RESPONSE_TYPE = response  # of this one request
        return response.limit

    @staticmethod
    async def _read(self_ref: weakref.ref[Connection]) -> None:
        """As the base class reads, holding no connection that everybody else dropped; what is longer than the
        answer to the oldest request may be, or answers none, is not waited for."""
        self = self_ref()
        if self is None:
            return
        reader = self._reader
        del self
        while True:
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            if size >> 16 == TLS_ALERT:
                raise ssl.SSLError(NO_ERRNO, "the broker speaks TLS")
            self = self_ref()
            if self is None:
                return
            limit = self._limit()
            del self
            if not 0 <= size <= LARGEST_FRAME_BYTES:
                raise theirs.KafkaProtocolError("no answer of a Kafka broker")
            if size > limit:
                raise answers.AnswerTooLarge(limit)
            answer = await reader.readexactly(size)
            self = self_ref()
            if self is None:
                return
            self._handle_frame(answer)
            del self


class _Scram(conn.ScramAuthenticator):  # type: ignore[misc]  # untyped
    def create_salted_password(self, salt: bytes, iterations: int) -> None:
        if iterations > MAX_ITERATIONS:
            raise ValueError("more iterations than any broker asks for")
        super().create_salted_password(salt, iterations)
