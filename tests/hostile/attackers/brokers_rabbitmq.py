"""False RabbitMQs: a login that grows, confirms and returns that nobody needs, frames of any size."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pamqp.frame
from pamqp import commands as spec
from pamqp.heartbeat import Heartbeat

from tests.hostile.attackers.brokers import Behaviour, FalseService, pour, pours, says

METHOD, HEADER, BODY, END = 1, 2, 3, b"\xce"
CAPABILITIES = {"publisher_confirms": True, "basic.nack": True, "connection.blocked": True}
ACK = spec.Basic.Ack(1)
RETURN = spec.Basic.Return(312, "NO_ROUTE", "events", "order.created")


def frame(type_: int, channel: int, payload: bytes, length: int | None = None) -> bytes:
    """`length`, if it is to announce another one than it has."""
    return struct.pack(">BHI", type_, channel, len(payload) if length is None else length) + payload + END


def method(command: Any, channel: int = 0) -> bytes:
    """A method frame of pamqp's `command`."""
    marshalled: bytes = pamqp.frame.marshal(command, channel)
    return marshalled


def start(properties: dict[str, Any] | None = None) -> bytes:
    """The broker's first frame."""
    return method(
        spec.Connection.Start(0, 9, {"capabilities": CAPABILITIES, **(properties or {})}, "PLAIN", "en_US")
    )


def content_header(size: int) -> bytes:
    """The header of a message that announces a body of `size` bytes."""
    return frame(HEADER, 1, struct.pack(">HHQH", 60, 0, size, 0))


def after_publish(*said: bytes, piece: bytes = b"", frame_max: int = 131_072) -> Behaviour:
    """Lets the client in, waits for its message, sends `said` and then pours `piece`."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        answers = (
            (start(), b"\x00\x0a\x00\x0b"),
            (method(spec.Connection.Tune(2_047, frame_max, 60)), b"\x00\x0a\x00\x28"),  # after tune-ok comes open
            (method(spec.Connection.OpenOk()), b"\x00\x14\x00\x0a"),
            (method(spec.Channel.OpenOk(), 1), b"\x00\x55\x00\x0a"),
            (method(spec.Confirm.SelectOk(), 1), b"\x00\x3c\x00\x28"),
        )
        for answer, asked in answers:
            writer.write(answer)
            while not (await next_frame(reader)).startswith(asked):
                continue
        for each in said:
            writer.write(each)
            await writer.drain()
        if piece:
            await pour(writer, piece)

    return behave


async def next_frame(reader: asyncio.StreamReader) -> bytes:
    """The payload of the next frame of the client."""
    _, _, length = struct.unpack(">BHI", await reader.readexactly(7))
    return (await reader.readexactly(length + 1))[:-1]


UNASKED = method(spec.Channel.OpenOk(), 1)
DELIVER = (
    method(spec.Basic.Deliver("tag", 1, False, "events", "key"), 1) + content_header(1) + frame(BODY, 1, b"x")
)
BEAT: bytes = pamqp.frame.marshal(Heartbeat(), 0)
CONFIRM, RETURNED = method(ACK, 1), method(RETURN, 1)
FOUR_GB = 2**32 - 2
ENDLESS = b"x" * 1_000
TABLES = start({"t": [True] * 30_000})
NESTED = b"".join(b"\x01aF" + struct.pack(">I", 65_000 - 7 * depth) for depth in range(9_000))
TABLES_IN_TABLES = frame(METHOD, 0, b"\x00\x0a\x00\x0a\x00\x09" + NESTED)
BODY_FRAME = frame(BODY, 1, b"x" * 1_000)


def _service(name: str, code: str, behaviour: Behaviour) -> FalseService:
    return FalseService("rabbitmq", name, code, behaviour)


SERVICES = [
    _service("a first frame of 4 GB", "answer_too_large", pours(frame(METHOD, 0, b"", FOUR_GB), ENDLESS)),
    _service("a table of 30,000 values", "answer_too_large", says(TABLES)),
    _service("tables within tables", "answer_too_large", says(TABLES_IN_TABLES)),
    _service("headers of the protocol", "rabbitmq_error", pours(b"", b"AMQP\x00\x00\x09\x01")),
    _service("frames of 9 bytes", "rabbitmq_error", after_publish(frame_max=9)),
    _service("a frame of 4 GB", "answer_too_large", after_publish(frame(METHOD, 1, b"", FOUR_GB), piece=ENDLESS)),
    _service(
        "a returned message of 4 GB",
        "answer_too_large",
        after_publish(RETURNED, content_header(FOUR_GB), piece=BODY_FRAME),
    ),
    _service("body frames without a message", "timeout", after_publish(piece=frame(BODY, 1, b"x"))),
    _service("messages that were not asked for", "rabbitmq_error", after_publish(piece=DELIVER)),
    _service("heartbeats without an end", "answer_too_large", after_publish(piece=BEAT)),
    _service("answers that were not asked for", "timeout", after_publish(piece=UNASKED)),
    _service(
        "confirms of another message", "answer_too_large", after_publish(piece=method(spec.Basic.Ack(77), 1))
    ),
    _service("frames of other channels", "answer_too_large", after_publish(piece=method(spec.Basic.Ack(1), 9))),
    _service("a confirm, and then a flood", "OK", after_publish(CONFIRM, piece=BEAT)),
    _service(
        "a confirm, and then a frame of 4 GB",
        "OK",
        after_publish(CONFIRM, frame(BODY, 1, b"", FOUR_GB), piece=ENDLESS),
    ),
]
