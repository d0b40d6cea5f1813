"""The frames of a Service Bus, judged before azure-servicebus allocates or decodes them.

The library makes a buffer of whatever length a frame announces, up to 4 GB, and a list of as many elements as an
array announces, which need not stand there: 11 bytes are 65,536 elements of no width, and arrays nest. `Transport`
reads in its place. A service that breaks a limit is cut off with AnswerTooLarge; on a connection that receives
messages, one that does arrives without its content.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from azure.servicebus._pyamqp.aio import _sasl_async

from outpost.adapters.shared import answers

MAX_FRAME_BYTES = 32_768  # what we announce in our `open`; an answer of a Service Bus takes a few hundred
MIN_FRAME_BYTES = 4_096  # of a frame to the service; with less, a message would go out in thousands of them
MAX_BYTES = 131_072  # of the answers to one send, or of opening a link
MAX_ELEMENTS = 1_024  # of lists, maps and arrays in one frame; decoding takes up to 4 us for each
MAX_DEPTH = 16
FRAMES_A_TURN = 8  # that are read before others have their turn of the loop: each may take 4 ms to decode
MAX_BEGUN = 4  # links of a connection on which a message has begun; ours has four links

HEADER_BYTES = 8
_PROTOCOL = b"AMQP"  # what a frame begins with that is none: the header of the protocol
_OPEN, _TRANSFER = 0x10, 0x14
_MAX_FRAME_SIZE = 2  # its place in a decoded open
_HANDLE, _MORE, _PAYLOAD = 0, 5, 11  # places in a decoded transfer; the second: whether it goes on in another one
_NO_FRAME: tuple[int | None, list[Any]] = (None, [])
_BEGINS_TRANSFER = b"\0S\x14"  # its descriptor
# https://docs.oasis-open.org/amqp/core/v1.0/os/amqp-core-types-v1.0-os.html, 1.2: the high half of a constructor
# says how wide a value is, or that its length stands before it.
_WIDTHS = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
_DESCRIBED = 0x0


class Transport(_sasl_async.SASLTransport):
    """The library's, reading within limits. `allowance` is what the service may still say, `message_bytes` how
    long a message may be: 0 where only answers of a line come."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.allowance = answers.Allowance(MAX_BYTES)
        self.message_bytes = 0
        self.frames = 0  # that were read
        self._header: bytes | None = None  # of a frame whose rest is not here yet
        self._reading = asyncio.Lock()  # the library has one for both ways: a write would wait for a frame
        # Messages of which more frames are to come, by the handle of their link.
        self._begun: dict[int, _Begun] = {}

    async def read(self, verify_frame_type: int | None = 0) -> tuple[memoryview, int, memoryview | None]:
        """Header, channel and payload of the next frame. A read that is cancelled goes on with the next one.
        Raises OSError, and ValueError for another type of frame."""
        async with self._reading:
            try:
                return await self._frame(verify_frame_type)
            except OSError:
                self._abort()
                raise

    async def receive_frame(self, timeout: float | None = None, **kwargs: Any) -> Any:
        """Channel and decoded frame; two times None if none came in time. Raises ValueError too for a service that
        takes only frames so small that a message would go out in thousands of them."""
        received = await super().receive_frame(timeout=timeout, **kwargs)  # type: ignore[no-untyped-call]
        kind, fields = received[1] or _NO_FRAME
        if kind == _TRANSFER:
            if self.message_bytes:
                fields[_PAYLOAD] = self._assembled(fields[_HANDLE], fields[_MORE], fields[_PAYLOAD])
            elif fields[_MORE]:
                self._abort()
                raise answers.AnswerTooLarge(MAX_FRAME_BYTES)
        if kind == _OPEN and fields[_MAX_FRAME_SIZE] < MIN_FRAME_BYTES:
            self._abort()
            raise ValueError(f"the service takes frames of {fields[_MAX_FRAME_SIZE]} bytes")
        return received

    def _assembled(self, handle: int, more: bool, payload: memoryview) -> memoryview:
        """What a transfer carries: nothing while more is to come, and then the whole message. One that breaks a
        limit is not kept."""
        if (begun := self._begun.get(handle)) is None:
            if len(self._begun) == MAX_BEGUN:
                self._abort()
                raise answers.AnswerTooLarge(MAX_FRAME_BYTES)
            begun = self._begun[handle] = _Begun()
        begun.cost += len(payload) + answers.FRAME_COST_BYTES
        if begun.cost > self.message_bytes:
            begun.parts.clear()
        else:
            begun.parts.append(payload)
        if more:
            return _NOTHING
        del self._begun[handle]
        message = begun.parts[0] if len(begun.parts) == 1 else memoryview(b"".join(begun.parts))
        try:
            count_elements(message)
        except answers.AnswerTooLarge:
            return _NOTHING
        return message if begun.cost <= self.message_bytes else _NOTHING

    def _abort(self) -> None:
        self.connected = False
        if self.writer is not None:
            self.writer.transport.abort()

    async def _frame(self, expected: int | None) -> tuple[memoryview, int, memoryview | None]:
        if self._header is None:
            self._header = await self._exactly(HEADER_BYTES)
        header = self._header
        size, offset, type_, channel = struct.unpack(">IBBH", header)
        if header.startswith(_PROTOCOL):
            self._header = None
            return memoryview(header), channel, None
        if expected is not None and type_ != expected:
            raise ValueError(f"Received invalid frame type: {type_}, expected: {expected}")
        if size > MAX_FRAME_BYTES:
            raise answers.AnswerTooLarge(MAX_FRAME_BYTES)
        if size < HEADER_BYTES:
            raise ValueError("Received a frame that is shorter than its header")
        payload = await self._exactly(size - HEADER_BYTES)
        self._header = None
        self.frames += 1
        if not self.frames % FRAMES_A_TURN:
            await asyncio.sleep(0)  # what has arrived already is read without waiting
        self.allowance.take(size + answers.FRAME_COST_BYTES)
        body = memoryview(payload)[offset - 2 :]  # as the library has it
        if body:
            count_elements(body, only_performative=bool(self.message_bytes) and body[:3] == _BEGINS_TRANSFER)
        return memoryview(header), channel, body

    async def _exactly(self, count: int) -> bytes:
        if self.reader is None:  # closed meanwhile
            raise OSError("Connection has already been closed")
        try:
            read: bytes = await self.reader.readexactly(count)
        except asyncio.IncompleteReadError:
            raise OSError("Server unexpectedly closed connection") from None
        return read


class _Begun:
    """A message of which more frames are to come. `cost`: see `answers.FRAME_COST_BYTES`."""

    def __init__(self) -> None:
        self.parts: list[memoryview] = []
        self.cost = 0


_NOTHING = memoryview(b"")


def count_elements(body: memoryview, *, only_performative: bool = False) -> int:
    """The elements in the body of a frame, or in a message, by their announced numbers. Raises AnswerTooLarge
    beyond `MAX_ELEMENTS`, and ValueError for what ends before its end."""
    walk = _Walk(body)
    at = 0
    try:
        # The performative, and the sections of a transfer's message, each with a descriptor.
        while at < len(body) and (len(body) - at > 3 or not at):
            at = walk.value(at + 3, 0)
            if only_performative:
                break
    except (IndexError, struct.error):
        raise ValueError("Received a frame that ends before its values") from None
    return walk.elements


class _Walk:
    """Goes over AMQP values as the library decodes them, by announced numbers, and makes nothing of them."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.elements = 0

    def value(self, at: int, depth: int) -> int:
        """The place after the value whose constructor stands at `at`."""
        return self._content(self._data[at], at + 1, depth)

    def _content(self, constructor: int, at: int, depth: int) -> int:
        """The place after the content, at `at`, of a value of that constructor."""
        if depth > MAX_DEPTH:
            raise answers.AnswerTooLarge(MAX_FRAME_BYTES)
        kind = constructor >> 4
        if (width := _WIDTHS.get(kind)) is not None:
            return at + width
        data = self._data
        match kind:
            case 0x0:
                return self.value(self.value(at, depth + 1), depth + 1)
            case 0xA:
                return at + 1 + data[at]
            case 0xB:
                return at + 4 + int(struct.unpack_from(">I", data, at)[0])
            case 0xC | 0xE:
                count, at = data[at + 1], at + 2
            case 0xD | 0xF:
                count, at = int(struct.unpack_from(">I", data, at + 4)[0]), at + 8
            case _:
                raise IndexError
        self.elements += count
        if self.elements > MAX_ELEMENTS:
            raise answers.AnswerTooLarge(MAX_FRAME_BYTES)
        return self._array(count, at, depth + 1) if kind >= 0xE else self._list(count, at, depth + 1)

    def _list(self, count: int, at: int, depth: int) -> int:
        for _ in range(count):
            at = self.value(at, depth)
        return at

    def _array(self, count: int, at: int, depth: int) -> int:
        if not count:
            return at
        constructor, at = self._data[at], at + 1
        if constructor >> 4 == _DESCRIBED:
            at = self.value(at, depth)
            constructor, at = self._data[at], at + 1
        for _ in range(count):
            at = self._content(constructor, at, depth)
        return at
