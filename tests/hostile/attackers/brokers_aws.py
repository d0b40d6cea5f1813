"""False services of Amazon: answers that are too long, in every place where an answer can be."""

from __future__ import annotations

import asyncio

from tests.hostile.attackers.brokers import PIECE, FalseService, pours, says

OK = b"HTTP/1.1 200 OK\r\n"
LONG = b"%sContent-Length: %d\r\n\r\n" % (OK, 900_000_000)
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ERROR = b"HTTP/1.1 400 Bad Request\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"
REDIRECT = b"HTTP/1.1 301 Moved\r\nx-amz-bucket-region: %s\r\nContent-Length: 0\r\n\r\n"
BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE e [<!ENTITY a0 "ha">'
    + b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 12))
    + b"]><Error><Code>E</Code><Message>&a11;</Message></Error>"
)
TYPES = ("aws_sqs", "aws_kinesis", "aws_s3", "aws_eventbridge")
BEHAVIOURS = {
    "a body of 900 MB": ("answer_too_large", pours(LONG, b"x" * 1_000)),
    "chunks without an end": ("answer_too_large", pours(CHUNKED, b"3e8\r\n%s\r\n" % (b"x" * 1_000))),
    "a body without an end": ("answer_too_large", pours(OK + b"Connection: close\r\n\r\n", b"x" * 1_000)),
    "interim answers without an end": ("answer_too_large", pours(b"", b"HTTP/1.1 100 Continue\r\n\r\n")),
    "a text of 600 kB": ("answer_too_large", says(ERROR % (b"text/plain", 600_000, b"x" * 600_000))),
}


async def redirects(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends every request to the same other region."""
    while asked := await reader.read(PIECE):
        if b" HTTP/1.1\r\n" in asked:
            writer.write(REDIRECT % b"eu-north-1")
            await writer.drain()


def _error(type_: bytes, body: bytes) -> bytes:
    return ERROR % (type_, len(body), body)


LINES = {
    "a chunk's length without an end": pours(CHUNKED, b"0" * 1_000),
    "one header without an end": pours(OK + b"X-A: ", b"x" * 1_000),
}

SERVICES = [
    FalseService(type_, name, code, behaviour) for type_ in TYPES for name, (code, behaviour) in BEHAVIOURS.items()
]
SERVICES += [  # in an answer that may have more than the 65,536 bytes of a line, the line is the fault
    FalseService(type_, name, "connection_reset" if type_ == "aws_kinesis" else "answer_too_large", behaviour)
    for type_ in TYPES
    for name, behaviour in LINES.items()
]
SERVICES += [
    FalseService("aws_kinesis", "lists within lists", "ERR", says(_error(b"application/json", b"[" * 200_000))),
    FalseService("aws_s3", "elements within elements", "ERR", says(_error(b"application/xml", b"<a>" * 20_000))),
    FalseService("aws_s3", "entities of entities", "network_error", says(_error(b"application/xml", BOMB))),
    FalseService("aws_s3", "a region without an end", "ERR", says(REDIRECT % (b"r" * 60_000))),
    FalseService("aws_s3", "a redirect to another region", "ERR", redirects),
]
