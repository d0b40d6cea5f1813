"""Where a body ends, whatever the pieces it comes in, and which chunks are refused."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from outpost.process.http_server import answers, body

REST = b"GET / HTTP/1.1\r\n"


def read(reader: body.Reader | None, sent: bytes, step: int) -> tuple[bytes, bytes | None]:
    """The body and what follows it (None: it has not ended), fed `step` bytes at a time."""
    assert reader is not None
    found = bytearray()
    for at in range(0, len(sent), step):
        rest = reader.feed(sent[at : at + step], found)
        if rest is not None:
            return bytes(found), rest + sent[at + step :]
    return bytes(found), None


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
        (b"0\r\n\r\n", b""),
        (b"000A;a=b;c\r\n0123456789\r\n0;x\r\nX-A: b\r\nY:\r\n\r\n", b"0123456789"),
        (b"2 ;a\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
    ],
)
def test_chunks_are_read_to_their_end(step: int, sent: bytes, expected: bytes) -> None:
    assert (expected, REST) == read(body.reader_for(0, chunked=True), sent + REST, step)


@pytest.mark.parametrize("step", [1, 4, 1000])
def test_a_body_ends_where_its_length_says(step: int) -> None:
    assert (b"hello", REST) == read(body.reader_for(5, chunked=False), b"hello" + REST, step)
    assert (b"hell", None) == read(body.reader_for(5, chunked=False), b"hell", step)
    assert body.reader_for(0, chunked=False) is None


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\na\r\n",
        b"0x1\r\na\r\n",
        b" 1\r\na\r\n",
        b"1 \r\na\r\n",
        b"1\na\r\n",
        b"1\r\na\n",
        b"1\r\nab\r\n",
        b"1\r\na0\r\n\r\n",
        b"1;a\nb\r\na\r\n",
        b"1;a\rb\r\na\r\n",
        b"1;\0\r\na\r\n",
        b"1" + b"0" * 15 + b"\r\n",
        b"ffffffffffffffffff1\r\na\r\n",
        b"1;" + b"a" * body.MAX_CHUNK_LINE_BYTES + b"\r\na\r\n",
        b"0\r\nX\r\n\r\n",
        b"0\r\nX : a\r\n\r\n",
        b"0\r\nX: a\n\r\n",
        b"0\r\n X: a\r\n\r\n",
        b"0\r\n" + b"X: " + b"a" * body.MAX_TRAILER_BYTES + b"\r\n\r\n",
        b"0\r\n" + b"X: a\r\n" * (body.MAX_TRAILER_BYTES // 4 + 1) + b"\r\n",
        b"1\r\na\r\n" * (body.MAX_CHUNKS + 1),
    ],
)
def test_what_is_no_chunk_is_refused(step: int, sent: bytes) -> None:
    with pytest.raises(answers.Refused):
        read(body.Chunked(), sent, step)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.integers(1, 40), st.binary(max_size=20))
def test_chunks_of_any_sizes_come_out_whole(chunks: list[bytes], step: int, rest: bytes) -> None:
    sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert (b"".join(chunks), rest) == read(body.Chunked(), sent + rest, step)


PIECES = st.sampled_from(
    [b"0", b"1", b"a", b"\r\n", b"\n", b"\r", b";", b" ", b"x", b"5\r\nhello\r\n", b"0\r\n\r\n"]
)


@settings(max_examples=300)
@example(sent=b"1\r\n00", step=1)
@given(st.lists(PIECES, max_size=12).map(b"".join), st.integers(1, 9))
def test_chunks_that_are_taken_are_those_that_h11_takes(sent: bytes, step: int) -> None:
    try:
        found, rest = read(body.Chunked(), sent, step) if sent else (b"", None)
    except answers.Refused:
        return
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + sent)
    data, ended = b"", False
    while (event := theirs.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        data += bytes(event.data) if isinstance(event, h11.Data) else b""
        ended = ended or isinstance(event, h11.EndOfMessage)
    assert (data, ended) == (found, rest is not None)
    if rest is not None:
        assert bytes(theirs.trailing_data[0]) == rest
