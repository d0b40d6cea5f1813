"""The reading half of the delivery client: however an answer is cut, it is the same answer."""

from __future__ import annotations

import itertools
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost.adapters.http import client, failures, reading

CAP = 20
OK = client.Answer(200, b"ok")
BROKEN = client.Answer(200, b"", "broken")
TOO_LARGE = client.Answer(200, b"", "too_large")
NOT_HTTP = failures.unreadable("it does not begin with an HTTP status line")
NO_STATUS = failures.unreadable("its first line is no HTTP status line")
DIFFER = failures.unreadable("it has several Content-Length headers that differ")
INTERIMS = failures.unreadable("it has more than 20 interim answers before it")
TOO_MUCH = failures.unreadable("it has more beside its body than any answer needs")
RESET = client.Unanswered("connection_reset")
LINE = b"HTTP/1.1 200 OK\r\n"
CHUNKED = LINE + b"Transfer-Encoding: chunked\r\n\r\n"

# What came in until the peer hung up, what it means, and whether the connection could have gone on.
ANSWERS = {
    "length": (LINE + b"Content-Length: 2\r\n\r\nok", OK, True),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", OK, True),
    "names in any case": (LINE + b"cONTENT-lENGTH:2\r\n\r\nok", OK, True),
    "empty header": (LINE + b"X-A:\r\nX-B: \r\nContent-Length: 2\r\n\r\nok", OK, True),
    "folded header": (LINE + b"X-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok", OK, True),
    "bare line feeds": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", OK, True),
    "line ends before": (b"\r\n\r\n" + LINE + b"Content-Length: 2\r\n\r\nok", OK, True),
    "asked to close": (LINE + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", OK, False),
    "offered upgrade": (LINE + b"Upgrade: h2\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok", OK, True),
    "space after a name": (LINE + b"Content-Length : 2\r\n\r\nok", OK, True),
    "cut length after a space": (LINE + b"Content-Length  : 3\r\n\r\nok", BROKEN, False),
    "chunked": (CHUNKED + b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n", OK, True),
    "chunk extension": (CHUNKED + b"2;a=b\r\nok\r\n0;c\r\n\r\n", OK, True),
    "padded chunk size": (CHUNKED + b"2  \r\nok\r\n0\r\n\r\n", OK, True),
    "trailers": (CHUNKED + b"2\r\nok\r\n0\r\nX: y\r\nZ: 1\r\n\r\n", OK, True),
    "trailer that frames": (CHUNKED + b"2\r\nok\r\n0\r\nContent-Length: 7\r\n\r\n", BROKEN, False),
    "two codings": (LINE + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", OK, True),
    "until close": (LINE + b"\r\nok", OK, False),
    "coding until close": (LINE + b"Transfer-Encoding: identity\r\n\r\nok", OK, False),
    "old": (b"HTTP/1.0 200 OK\r\n\r\nok", OK, False),
    "old with length": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", OK, False),
    "old and kept": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", OK, True),
    "interim": (b"HTTP/1.1 103 X\r\nContent-Length: 5\r\n\r\n" + LINE + b"\r\nok", OK, False),
    "interims": (b"HTTP/1.1 100 X\r\n\r\n" * 20 + LINE + b"Content-Length: 2\r\n\r\nok", OK, True),
    "no content": (b"HTTP/1.1 204 X\r\n\r\n", client.Answer(204, b""), True),
    "no content at all": (b"HTTP/1.1 204 X\r\nContent-Length: 0\r\n\r\n", client.Answer(204, b""), True),
    "no content of five": (b"HTTP/1.1 204 X\r\nContent-Length: 5\r\n\r\n", client.Answer(204, b""), False),
    "no content in chunks": (
        b"HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n",
        client.Answer(204, b""),
        False,
    ),
    "not modified": (b"HTTP/1.1 304 X\r\nContent-Length: 9\r\n\r\n", client.Answer(304, b""), True),
    "at the cap": (LINE + b"Content-Length: 20\r\n\r\n" + b"x" * 20, client.Answer(200, b"x" * 20), True),
    "switch": (b"HTTP/1.1 101 X\r\nUpgrade: a\r\nConnection: Upgrade\r\n\r\nzz", client.Answer(101, b""), False),
    "bare switch": (b"HTTP/1.1 101 X\r\n\r\n", client.Answer(101, b""), False),
    "over the cap": (LINE + b"Content-Length: 21\r\n\r\n" + b"x" * 21, TOO_LARGE, False),
    "chunks over the cap": (CHUNKED + b"14\r\n" + b"x" * 20 + b"\r\n1\r\nx\r\n0\r\n\r\n", TOO_LARGE, False),
    "cut chunks": (CHUNKED + b"2\r\nok\r\n", BROKEN, False),
    "cut length": (LINE + b"Content-Length: 9\r\n\r\nok", BROKEN, False),
    "bad chunk": (CHUNKED + b"2\r\nok\r\nzz\r\n", BROKEN, False),
    "nothing": (b"", RESET, False),
    "half a head": (LINE + b"Content-Length: 2\r\n", RESET, False),
    "interim only": (b"HTTP/1.1 100 X\r\n\r\n", RESET, False),
    "one length twice": (LINE + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", OK, False),
    "one length in a list": (LINE + b"Content-Length: 2, 2\r\n\r\nok", OK, False),
    "two lengths": (LINE + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!", DIFFER, False),
    "two lengths in a list": (LINE + b"Content-Length: 2, 3\r\n\r\nok!", DIFFER, False),
    "length and chunks": (
        LINE + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        OK,
        False,
    ),
    "chunks and length": (
        LINE + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        OK,
        False,
    ),
    "length and no coding": (LINE + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", OK, False),
    "length with a unit": (LINE + b"Content-Length: 2 bytes\r\n\r\nok", OK, False),
    "empty length": (LINE + b"Content-Length:\r\n\r\nok", OK, False),
    "negative length": (LINE + b"Content-Length: -2\r\n\r\nok", OK, False),
    "endless length": (LINE + b"Content-Length: 99999999999999999999\r\n\r\nok", OK, False),
    "blanks in a name": (LINE + b"X Powered By: shop\r\nContent-Length: 2\r\n\r\nok", OK, False),
    "blank behind a name": (LINE + b"X : 2\r\nContent-Length: 2\r\n\r\nok", OK, False),
    "no colon": (LINE + b"garbage\r\nContent-Length: 2\r\n\r\nok", OK, False),
    "no name": (LINE + b": x\r\nContent-Length: 2\r\n\r\nok", OK, False),
    "letters in a name": (LINE + "Größe: 2\r\nContent-Length: 2\r\n\r\nok".encode(), OK, False),
    "fold of nothing": (LINE + b" folded\r\nContent-Length: 2\r\n\r\nok", OK, False),
    "fold behind a broken line": (LINE + b"a b: c\r\n d\r\nContent-Length: 2\r\n\r\nok", OK, False),
    "folded length": (LINE + b"garbage\r\nContent-Length:\r\n 2\r\n\r\nok", OK, False),
    "carriage return in a value": (LINE + b"X: a\rb\r\nContent-Length: 2\r\n\r\nok", OK, False),
    "two carriage returns": (LINE + b"X: a\r\r\nContent-Length: 2\r\r\n\r\r\nok", OK, False),
    "broken line among line feeds": (b"HTTP/1.1 200 OK\ngarbage\nContent-Length: 2\n\nok", OK, False),
    "broken line behind interims": (
        b"HTTP/1.1 100 X\r\n\r\nHTTP/1.1 103 X\r\na b\r\n\r\n" + LINE + b"c d\r\nContent-Length: 2\r\n\r\nok",
        OK,
        False,
    ),
    "length twice behind interims": (
        b"HTTP/1.1 100 X\r\n\r\n" * 2 + LINE + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        OK,
        False,
    ),
    "broken line before a switch": (b"HTTP/1.1 101 X\r\na b\r\n\r\nzz", client.Answer(101, b""), False),
    "two blanks before the status": (b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok", OK, False),
    "no blank behind the status": (b"HTTP/1.1 200OK\r\nContent-Length: 2\r\n\r\nok", OK, False),
    "small letters": (b"http/1.1 200 ok\r\nContent-Length: 2\r\n\r\nok", OK, False),
    "another version": (b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok", OK, False),
    "a version without point": (b"HTTP/2 200\r\nContent-Length: 2\r\n\r\nok", OK, False),
    "obsolete text": (b"HTTP/1.1 200 \xe9\r\nX: \xff\r\nContent-Length: 2\r\n\r\nok", OK, True),
    "status of four digits": (b"HTTP/1.1 2000 X\r\n\r\n", NO_STATUS, False),
    "status of two digits": (b"HTTP/1.1 20 X\r\n\r\n", NO_STATUS, False),
    "other protocol": (b"SSH-2.0-OpenSSH_9.2\r\n", NOT_HTTP, False),
    "page without a head": (b"<html></html>", NOT_HTTP, False),
    "interims without end": (b"HTTP/1.1 100 X\r\n\r\n" * 21 + LINE + b"\r\n", INTERIMS, False),
    "odd interims without end": (b"HTTP/1.1 100 X\r\na\r\n\r\n" * 21 + LINE + b"\r\n", INTERIMS, False),
}
# After each of these something follows that nobody asked for.
SURPLUS = (LINE + b"Content-Length: 0\r\n\r\n", b"x", b"\r\nx", b"0\r\n\r\n")


def read(parts: list[bytes]) -> tuple[object, bool]:
    """As a connection does it: nothing is fed once there is an outcome, and the peer hangs up in the end."""
    reader = reading.Reader(CAP)
    for number, part in enumerate(parts):
        outcome = reader.feed(part)
        if outcome is not None:
            assert number == len(parts) - 1 or not reader.reusable
            return outcome, reader.reusable
    return reader.end(None), False


@pytest.mark.case(2, 4, 7)
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_cut_at_any_two_places_is_the_same(name: str) -> None:
    said, outcome, reusable = ANSWERS[name]
    assert (outcome, reusable) == read([said])
    assert (outcome, reusable) == read([bytes([byte]) for byte in said])
    for first in range(len(said) + 1):
        assert (outcome, reusable) == read([part for part in (said[:first], said[first:]) if part])
    if len(said) < 80:
        for first in range(1, len(said)):
            for second in range(first + 1, len(said)):
                assert (outcome, reusable) == read([said[:first], said[first:second], said[second:]])


@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(0, 500)))
def test_an_answer_in_any_pieces_is_the_same(name: str, cuts: list[int]) -> None:
    said, outcome, reusable = ANSWERS[name]
    places = sorted({0, len(said), *(cut for cut in cuts if cut < len(said))})
    pieces = [said[start:end] for start, end in itertools.pairwise(places)]
    assert (outcome, reusable) == read(pieces)


@pytest.mark.parametrize("name", [name for name, (_, _, reusable) in ANSWERS.items() if reusable])
@pytest.mark.parametrize("surplus", SURPLUS)
def test_more_than_was_announced_leaves_the_answer_and_ends_the_connection(name: str, surplus: bytes) -> None:
    said, outcome, _ = ANSWERS[name]
    reader = reading.Reader(CAP)
    assert outcome == reader.feed(said + surplus)
    assert not reader.reusable


@given(st.lists(st.sampled_from([name for name, (_, _, reusable) in ANSWERS.items() if reusable]), min_size=2))
def test_answers_on_one_connection_do_not_know_of_each_other(names: list[str]) -> None:
    reader = reading.Reader(CAP)
    for name in names:
        said, outcome, _ = ANSWERS[name]
        reader.begin()
        assert outcome == reader.feed(said)
        assert reader.reusable


@given(st.lists(st.binary(max_size=40)), st.sampled_from([b"", LINE, CHUNKED, LINE + b"A: "]))
def test_whatever_comes_in_there_is_an_outcome(parts: list[bytes], start: bytes) -> None:
    outcome, _ = read([start, *parts])
    assert isinstance(outcome, client.Answer | client.Unanswered)


@pytest.mark.parametrize(
    ("start", "more", "outcome"),
    [
        (LINE, b"X-A: " + b"a" * 1019, TOO_MUCH),
        (LINE, b"X-A: " + b"a" * 1017 + b"\r\n", TOO_MUCH),
        (LINE, b"X A: " + b"a" * 1017 + b"\r\n", TOO_MUCH),
        (CHUNKED + b"1\r\nx\r\n0\r\n", b"X-A: " + b"a" * 1017 + b"\r\n", BROKEN),
        (CHUNKED, b"1;" + b"a" * 1022, BROKEN),
        (b"", b"\r\n" * 512, TOO_MUCH),
    ],
    ids=["line", "headers", "odd headers", "trailers", "chunk extension", "nothing"],
)
def test_what_never_ends_is_given_up_after_a_while(start: bytes, more: bytes, outcome: object) -> None:
    reader = reading.Reader(0)
    assert reader.feed(start) is None
    fed = 0
    while (given_up := reader.feed(more)) is None:
        fed += len(more)
        assert fed <= reading.MAX_FRUITLESS_BYTES
        more = more if start != CHUNKED else b"a" * 1024
    assert outcome == given_up


def test_a_value_that_goes_on_for_many_lines_is_given_up_before_it_costs_much() -> None:
    """The parser copies the value for each line: 256 KiB of such lines took 0.2 s."""
    for line in (b"\n b", b"\r\n\tb"):
        reader = reading.Reader(0)
        assert TOO_MUCH == reader.feed(LINE + b"X: a" + line * 100_000)
        assert reader._fed <= 4 * reading.SLICE_BYTES


@pytest.mark.parametrize("size", [1, 100])
def test_a_body_in_chunks_of_any_size_is_taken(size: int) -> None:
    chunk = b"%x\r\n%b\r\n" % (size, b"x" * size)
    reader = reading.Reader(50_000)
    assert reader.feed(CHUNKED + chunk * (50_000 // size)) is None
    assert client.Answer(200, b"x" * 50_000) == reader.feed(b"0\r\n\r\n")


def test_extensions_of_chunks_are_bounded_however_they_are_spread() -> None:
    reader = reading.Reader(100_000)
    assert reader.feed(CHUNKED) is None
    fed = 0
    while (given_up := reader.feed(b"1;" + b"e" * 996 + b"\r\nx\r\n")) is None:
        fed += 1003
        assert fed <= reading.MAX_FRAMING_BYTES * 2
    assert BROKEN == given_up


def test_interim_answers_are_bounded_in_bytes_too() -> None:
    reader = reading.Reader(CAP)
    outcomes = [reader.feed(b"HTTP/1.1 103 X\r\nLink: " + b"l" * 10_000 + b"\r\n\r\n") for _ in range(20)]
    assert TOO_MUCH == outcomes[-1]
    assert reading.MAX_FRAMING_BYTES // 10_000 == outcomes.index(TOO_MUCH)


def test_a_large_read_that_ends_an_answer_and_brings_more_ends_the_connection() -> None:
    body = b"x" * (reading.SLICE_BYTES * 2)
    said = LINE + b"Content-Length: %d\r\n\r\n" % len(body) + body
    for surplus in (b"y", said):
        reader = reading.Reader(0)
        assert client.Answer(200, body) == reader.feed(said + surplus)
        assert not reader.reusable
    reader.begin()
    assert client.Answer(200, body) == reading.Reader(0).feed(said)


def test_headers_that_an_answer_keeps_are_bounded_in_number() -> None:
    reader = reading.HeaderReader(CAP)
    outcome = reader.feed(LINE + b"".join(b"X%d: y\r\n" % n for n in range(5_000)) + b"Content-Length: 0\r\n\r\n")
    assert isinstance(outcome, client.Answer)
    assert (200, reading.MAX_KEPT_HEADERS) == (outcome.status, len(outcome.headers))


@pytest.mark.parametrize("count", [2_000, 4_000])
def test_a_body_that_comes_byte_by_byte_is_not_copied_for_each_byte(count: int) -> None:
    """What is kept of it grows in place: its buffer is moved a few times."""
    reader = reading.Reader(count)
    assert reader.feed(LINE + b"Content-Length: %d\r\n\r\n" % count) is None
    moves, last = 0, 0
    for _ in range(count - 1):
        assert reader.feed(b"x") is None
        if isinstance(reader._body, bytearray) and reader._body.__alloc__() != last:
            moves, last = moves + 1, reader._body.__alloc__()
    assert client.Answer(200, b"x" * count) == reader.feed(b"x")
    assert moves < 100


def test_a_cap_of_none_takes_all() -> None:
    reader = reading.Reader(0)
    assert reader.feed(LINE + b"Content-Length: 1000000\r\n\r\n") is None
    assert client.Answer(200, b"x" * 1_000_000) == reader.feed(b"x" * 1_000_000)


def test_an_error_of_the_connection_has_its_word_until_there_is_a_status() -> None:
    reader = reading.Reader(CAP)
    reader.feed(LINE)
    assert RESET == reader.end(ConnectionResetError(104, "reset"))
    assert client.Unanswered("tls_error", "alert") == reader.end(ssl.SSLError(1, "alert"))
    reader.feed(b"\r\n")
    assert BROKEN == reader.end(ConnectionResetError(104, "reset"))
    assert client.Answer(200, b"", "late") == reader.late()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"timeout=5", 5),
        (b"max=100, Timeout=60", 60),
        (b"timeout=x", None),
        (b"300", None),
        (b"timeout=", None),
    ],
)
def test_the_peer_says_how_long_it_keeps_a_connection(value: bytes, seconds: int | None) -> None:
    reader = reading.Reader(CAP)
    reader.feed(LINE + b"Keep-Alive: " + value + b"\r\nContent-Length: 0\r\n\r\n")
    assert seconds == reader.keep_seconds
    reader.begin()
    assert reader.keep_seconds is None
