"""The frames of a RabbitMQ, judged before the library reads them: size, kind and what was asked for.

aiormq reads a frame in three parts: its type, its channel and length, the rest. `Frames` stands where it expects a
stream reader, so that no frame is waited for, kept or decoded that a publisher has no use for. What breaks a rule
ends the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from aiormq import exceptions
from pamqp import constants

from outpost.adapters.shared import answers

# Before a connection is tuned, AMQP allows 4,096 bytes. Decoding a table costs 0.3 us a byte.
MAX_METHOD_BYTES = 16_384
MAX_FRAME_BYTES = 1_048_576  # what we agree to; RabbitMQ offers 131,072
MIN_FRAME_BYTES = 4_096  # AMQP's own; with less, a message would go out in thousands of frames
BASE_BYTES = 65_536  # of what no message asked for: the login, heartbeats, channels, their closing
BYTES_PER_S = 1_024  # by which that grows back
ANSWER_BYTES = 4_096  # of the answer to one message, beside its own bytes, which come back if it is unroutable
HEADERS_REST_BYTES = 4_096  # of a content header, beside the headers that were sent
FRAMES_A_TURN = 64  # that are read before others have their turn of the loop: 5 ms
PARTS = 3  # of a frame as the library reads it: its type; its channel and length; the rest

_CONNECTION, _CHANNEL = 10, 20
_BLOCKED, _UNBLOCKED = (_CONNECTION, 60), (_CONNECTION, 61)
_FLAGS_AT = 12  # in a content header, behind class, weight and size of the body; a bit for each property
_MORE_FLAGS, _CONTENT_TYPE, _ENCODING, _HEADERS = 1, 1 << 15, 1 << 14, 1 << 13


class Role(msgspec.Struct, frozen=True):
    """What a broker may say to us beside the two classes above: `methods` by class and method; bodies of up to
    `body_bytes` that no message of ours asked for, and headers of `headers_bytes`."""

    methods: frozenset[tuple[int, int]]
    body_bytes: int = 0
    headers_bytes: int = 0


# confirm.select-ok, basic.return, basic.ack, basic.nack
PUBLISHER = Role(frozenset({(85, 11), (60, 50), (60, 80), (60, 120)}))
# Of the operator's own queue: exchange.declare-ok, queue.declare-ok, queue.bind-ok, basic.qos-ok,
# basic.consume-ok, basic.cancel, basic.cancel-ok, basic.deliver.
CONSUMER = Role(
    PUBLISHER.methods | {(40, 11), (50, 11), (50, 21)} | {(60, 11), (60, 21), (60, 30), (60, 31), (60, 60)},
    body_bytes=16 * 1024 * 1024,
    headers_bytes=131_072,
)


class Frames:
    """Stands for `reader`. `abort` ends the connection at once."""

    def __init__(self, reader: asyncio.StreamReader, abort: Callable[[], None], role: Role = PUBLISHER) -> None:
        self.blocked: str | None = None  # why the broker takes no messages for now, while it says so
        self._reader = reader
        self._abort = abort
        self._role = role
        self._allowance = answers.Allowance(BASE_BYTES, BYTES_PER_S)
        self._part = 0  # which of the frame is read next
        self._type = 0
        self._frames = 0
        self._largest_body = role.body_bytes
        self._largest_headers = role.headers_bytes

    def sent(self, body: int, headers: int) -> int:
        """A message of these sizes (bytes) goes out: what may come back for it, to be given to `answered`."""
        self._largest_body = max(self._largest_body, body)
        self._largest_headers = max(self._largest_headers, headers)
        expected = body + headers + ANSWER_BYTES
        self._allowance.lend(expected)
        return expected

    def answered(self, expected: int) -> None:
        """That message has its outcome."""
        self._allowance.settle(expected)

    def end(self) -> int:
        """Nothing is read any more; what has arrived is let go. The bytes that the library may hold of it and of
        what was sent."""
        self._reader = asyncio.StreamReader()
        self._reader.feed_eof()
        return BASE_BYTES + self._largest_body + self._largest_headers

    def at_eof(self) -> bool:
        """As asyncio.StreamReader has it."""
        return self._reader.at_eof()

    async def readexactly(self, count: int) -> bytes:
        """As asyncio.StreamReader has it, of the next part of a frame. Raises AnswerTooLarge, and
        aiormq's InvalidFrameError for what nobody asked for."""
        try:
            if self._part == PARTS - 1:
                self._judge_length(count - 1)
                if not self._role.body_bytes:
                    self._allowance.take(count + answers.FRAME_COST_BYTES)
                self._frames += 1
                if not self._frames % FRAMES_A_TURN:
                    await asyncio.sleep(0)  # what has arrived already is read without waiting
            read = await self._reader.readexactly(count)
            if self._part == 0:
                self._type = read[0]
            elif self._part == PARTS - 1:
                self._judge(read)
                if self._type == constants.FRAME_HEADER:
                    read = without_table(read)
        except (answers.AnswerTooLarge, exceptions.InvalidFrameError):
            self._abort()
            raise
        self._part = (self._part + 1) % PARTS
        return read

    def _judge_length(self, length: int) -> None:
        if self._type == constants.FRAME_METHOD:
            most = MAX_METHOD_BYTES
        elif self._type == constants.FRAME_HEADER:
            most = self._largest_headers + HEADERS_REST_BYTES
        elif self._type == constants.FRAME_BODY:
            most = min(self._largest_body, MAX_FRAME_BYTES)
        else:
            most = 0
        if length > most:
            raise answers.AnswerTooLarge(most)

    def _judge(self, payload: bytes) -> None:
        """`payload` with the octet that ends the frame."""
        if self._type == constants.FRAME_METHOD:
            method = (int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big"))
            if method[0] not in (_CONNECTION, _CHANNEL) and method not in self._role.methods:
                raise exceptions.InvalidFrameError("the broker sent what was not asked for")
            if method == _BLOCKED:
                self.blocked = payload[5 : 5 + payload[4]].decode(errors="replace")
            elif method == _UNBLOCKED:
                self.blocked = None
        elif self._type == constants.FRAME_HEADER and int.from_bytes(payload[4:12], "big") > self._largest_body:
            raise answers.AnswerTooLarge(self._largest_body)


def without_table(header: bytes) -> bytes:
    """A content header (with the octet that ends the frame) with an empty table of headers, zeros in their place
    behind the other properties. Nobody reads those of a returned message, and the library takes quadratic time to.
    Raises aiormq's InvalidFrameError."""
    flags = int.from_bytes(header[_FLAGS_AT : _FLAGS_AT + 2], "big")
    if flags & _MORE_FLAGS or len(header) < _FLAGS_AT + 3:
        raise exceptions.InvalidFrameError("the broker sent properties that AMQP does not have")
    if not flags & _HEADERS:
        return header
    at = _FLAGS_AT + 2
    for before in (_CONTENT_TYPE, _ENCODING):
        if flags & before:
            at += 1 + int.from_bytes(header[at : at + 1], "big")
    size = int.from_bytes(header[at : at + 4], "big")
    end = len(header) - 1
    if at + 4 + size > end:
        raise exceptions.InvalidFrameError("the broker sent headers that are longer than their frame")
    return header[:at] + bytes(4) + header[at + 4 + size : end] + bytes(size) + header[end:]


def agreed(offered: int) -> int:
    """The largest frame (bytes) where the broker offers `offered`; 0 is no limit. Raises aiormq's
    IncompatibleProtocolError for an offer below what AMQP allows."""
    if 0 < offered < MIN_FRAME_BYTES:
        raise exceptions.IncompatibleProtocolError(f"frames of {offered} bytes; AMQP asks for {MIN_FRAME_BYTES}")
    return min(offered or MAX_FRAME_BYTES, MAX_FRAME_BYTES)
