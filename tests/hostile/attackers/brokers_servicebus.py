"""False Service Buses: frames, arrays and lists of announced sizes, at the login and after it."""

from __future__ import annotations

import asyncio
import struct

from tests.hostile.attackers.brokers import Behaviour, FalseService, pour, pours, says

SASL_HEADER, HEADER = b"AMQP\x03\x01\x00\x00", b"AMQP\x00\x01\x00\x00"
NULL, TRUE, FALSE = b"\x40", b"\x41", b"\x42"
PLAIN, SASL = 0, 1
OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15
EMPTY = struct.pack(">IBBH", 8, 2, PLAIN, 0)


def frame(body: bytes, type_: int = PLAIN, channel: int = 0) -> bytes:
    return struct.pack(">IBBH", len(body) + 8, 2, type_, channel) + body


def announced(size: int, type_: int = PLAIN) -> bytes:
    """The header of a frame of `size` bytes."""
    return struct.pack(">IBBH", size, 2, type_, 0)


def listed(values: bytes, count: int) -> bytes:
    return b"\xd0" + struct.pack(">II", len(values) + 4, count) + values


def array(values: bytes, count: int) -> bytes:
    """`values` begins with the constructor of its elements."""
    return b"\xf0" + struct.pack(">II", len(values) + 4, count) + values


def performative(code: int, values: bytes, count: int) -> bytes:
    return b"\x00\x53" + bytes([code]) + listed(values, count)


def symbol(text: bytes) -> bytes:
    return b"\xa3" + bytes([len(text)]) + text


def string(text: bytes) -> bytes:
    return b"\xa1" + bytes([len(text)]) + text


MECHANISMS = frame(performative(0x40, array(b"\xa3\x09ANONYMOUS", 1), 1), SASL)
OUTCOME = frame(performative(0x44, b"\x50\x00", 1), SASL)
NULLS = array(NULL, 65_536)  # 10 bytes
OPENED = frame(performative(OPEN, string(b"id") + NULL + b"\x70\x00\x01\x00\x00", 3))
SMALL = frame(performative(OPEN, string(b"id") + NULL + b"\x70\x00\x00\x02\x00", 3))


def after_login(*said: bytes, piece: bytes = b"") -> Behaviour:
    """Lets the client in, says `said` to its `open`, and then pours `piece`."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(SASL_HEADER + MECHANISMS)
        await reader.read(65_536)
        writer.write(OUTCOME)
        await reader.readuntil(HEADER)
        writer.write(HEADER)
        for each in said:
            writer.write(each)
            await writer.drain()
        if piece:
            await pour(writer, piece)

    return behave


IDS = b"\x43" + b"\x70\x00\x00\xff\xff" * 3  # of a begin: the next id, windows, the largest handle
BEGUN = frame(performative(BEGIN, b"\x60\x00\x01" + IDS, 5))
ANOTHER = frame(performative(BEGIN, NULL + IDS, 5), channel=9)
DATA = b"\x00\x53\x75\xb0\x00\x00\x00\x01x"
MORE = frame(performative(TRANSFER, b"\x43\x43\xa0\x01x\x43" + FALSE + TRUE, 6) + DATA)
FOUR_GB = 2**32 - 1
ENDLESS = b"x" * 1_000
ARRAYS = (NULLS * 200, 200)
EMPTY_LISTS = listed(b"\x45" * 30_000, 30_000)


def _service(name: str, code: str, behaviour: Behaviour) -> FalseService:
    return FalseService("azure_servicebus", name, code, behaviour)


def _opening(values: bytes, count: int) -> Behaviour:
    return after_login(frame(performative(OPEN, values, count)))


SERVICES = [
    _service("16 bytes that announce 4 GB", "answer_too_large", says(SASL_HEADER + announced(FOUR_GB, SASL))),
    _service("a login of 4 GB", "answer_too_large", pours(SASL_HEADER + announced(FOUR_GB, SASL), ENDLESS)),
    _service(
        "arrays of nothing at the login",
        "answer_too_large",
        says(SASL_HEADER, frame(performative(0x40, *ARRAYS), SASL)),
    ),
    _service("headers of the protocol", "ERR", pours(b"", SASL_HEADER)),
    _service("a frame shorter than its header", "ERR", says(SASL_HEADER + announced(3, SASL))),
    _service("a frame of 4 GB", "answer_too_large", after_login(announced(FOUR_GB), piece=ENDLESS)),
    _service("a frame of 2 MB", "answer_too_large", after_login(frame(b"\x00" * 2_000_000))),
    _service("arrays of nothing", "answer_too_large", _opening(*ARRAYS)),
    _service("a list of 4 billion", "answer_too_large", _opening(NULL, FOUR_GB)),
    _service("30,000 empty lists", "answer_too_large", _opening(EMPTY_LISTS, 1)),
    _service("lists within lists", "answer_too_large", _opening(b"\xc0\xff\x01" * 60 + b"\x45", 1)),
    _service("frames of 512 bytes", "ERR", after_login(SMALL, BEGUN)),
    _service("empty frames without an end", "timeout", after_login(OPENED, piece=EMPTY)),
    _service("sessions without an end", "timeout", after_login(OPENED, piece=ANOTHER)),
    _service("transfers without an end", "answer_too_large", after_login(OPENED, BEGUN, piece=MORE)),
]
