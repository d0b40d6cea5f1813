"""False Pub/Subs: HTTP/2 frames by hand, so that an answer can be what no gRPC server sends."""

from __future__ import annotations

import asyncio
import gzip
import struct

from tests.hostile.attackers.brokers import Behaviour, FalseService, pour

DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS = 1, 4
FRAME = 16_384  # bytes, the least that every client takes
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def field(name: bytes, value: bytes) -> bytes:
    """A header, spelt out."""
    return b"\x00" + _text(name) + _text(value)


def _text(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, octets = len(text) - 127, [127]
    while rest >= 128:
        octets.append(rest % 128 + 128)
        rest //= 128
    return bytes([*octets, rest]) + text


STATUS = b"\x88"  # :status 200
HEAD = STATUS + field(b"content-type", b"application/grpc")
TRAILERS = field(b"grpc-status", b"0")


def headers(stream: int, block: bytes, flags: int = 0) -> bytes:
    """A header block, in as many frames as it takes."""
    parts = [block[at : at + FRAME] for at in range(0, len(block), FRAME)]
    kinds = [HEADERS] + [CONTINUATION] * (len(parts) - 1)
    ends = [0] * (len(parts) - 1) + [END_HEADERS]
    return b"".join(
        frame(kind, end | (flags if kind == HEADERS else 0), stream, part)
        for kind, end, part in zip(kinds, ends, parts, strict=True)
    )


def message(body: bytes, compressed: bool = False) -> bytes:
    return struct.pack(">BI", compressed, len(body)) + body


def data(stream: int, payload: bytes) -> bytes:
    return b"".join(frame(DATA, 0, stream, payload[at : at + FRAME]) for at in range(0, len(payload), FRAME))


def answering(*said: bytes, piece: bytes = b"", head: bytes = HEAD, end: bytes = TRAILERS) -> Behaviour:
    """Answers the first request with `head`, the messages `said` and the trailers `end`; pours `piece` in between.
    Of the windows of the client nothing is known: what does not fit into them is a fault of the service."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PREFACE))
        writer.write(frame(SETTINGS, 0, 0, b""))
        stream = 0
        while not stream:
            size, kind, flags, stream = await next_frame(reader)
            await reader.readexactly(size)
            if kind == SETTINGS and not flags:
                writer.write(frame(SETTINGS, 1, 0, b""))
            stream = stream if kind == DATA else 0
        writer.write(headers(stream, head))
        for each in said:
            writer.write(data(stream, each))
            await writer.drain()
        if piece:
            await pour(writer, piece)
        writer.write(headers(stream, end, END_STREAM))

    return behave


async def next_frame(reader: asyncio.StreamReader) -> tuple[int, int, int, int]:
    """Length, kind, flags and stream of the next frame, whose payload is still to be read."""
    raw = await reader.readexactly(9)
    return int.from_bytes(raw[:3], "big"), raw[3], raw[4], int.from_bytes(raw[5:], "big")


IDS = message(b"\x0a\x01" + b"1")  # of one message
BOMB = gzip.compress(b"\x00" * 50_000_000)  # 48 kB
GZIPPED = HEAD + field(b"grpc-encoding", b"gzip")
FAILED = field(b"grpc-status", b"13") + field(b"grpc-message", b"x" * 60_000)


def _service(name: str, code: str, behaviour: Behaviour) -> FalseService:
    return FalseService("gcp_pubsub", name, code, behaviour)


SERVICES = [
    _service("a true answer", "OK", answering(IDS)),
    _service("a message of 4 GB", "answer_too_large", answering(struct.pack(">BI", 0, 2**32 - 1) + b"x" * 1_000)),
    _service("a message of 600 kB", "answer_too_large", answering(message(b"x" * 600_000))),
    _service(
        "a message that decompresses to 50 MB", "answer_too_large", answering(message(BOMB, True), head=GZIPPED)
    ),
    _service("headers of 60 kB", "answer_too_large", answering(IDS, head=HEAD + field(b"a", b"x" * 60_000))),
    _service("trailers of 60 kB", "answer_too_large", answering(IDS, end=TRAILERS + field(b"a", b"x" * 60_000))),
    _service("a text of 60 kB", "answer_too_large", answering(end=FAILED)),
    _service("no ids", "ERR", answering(message(b""))),
    _service("an empty id", "ERR", answering(message(b"\x0a\x00"))),
    _service("16,000 ids", "ERR", answering(message(b"\x0a\x00" * 16_000))),
    _service("pings without an end", "timeout", answering(IDS, piece=frame(PING, 0, 0, b"12345678"))),
    _service("settings without an end", "timeout", answering(IDS, piece=frame(SETTINGS, 0, 0, b""))),
]
