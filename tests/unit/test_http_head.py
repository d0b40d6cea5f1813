"""The head of a request is read strictly, and never otherwise than h11 reads it."""

from __future__ import annotations

import h11
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from outpost.process.http_server import answers, head
from tests.harness import framing

MAX_URL_BYTES = 8_192
MAX_HEADERS = 100


def parse(sent: bytes) -> head.Head:
    return head.parse(sent.partition(b"\r\n\r\n")[0], MAX_URL_BYTES, MAX_HEADERS)


# The others have no end, and the connection refuses them.
WHOLE = [attack for attack in framing.REFUSED if b"\r\n\r\n" in attack.sent]


@pytest.mark.parametrize("attack", WHOLE, ids=lambda attack: attack.name)
def test_a_head_that_may_be_read_in_two_ways_is_refused(attack: framing.Framing) -> None:
    with pytest.raises(answers.Refused) as refused:
        parse(attack.sent)
    assert attack.status == refused.value.status


def test_a_plain_head_is_read() -> None:
    found = parse(
        b"POST /a/b%20c?d=e?f HTTP/1.1\r\nHost: h:1\r\nContent-Length: 5\r\n"
        b"X-Blanks: \t a b \t\r\nX-Empty:\r\n\r\n"
    )
    headers = [(b"host", b"h:1"), (b"content-length", b"5"), (b"x-blanks", b"a b"), (b"x-empty", b"")]
    assert found == head.Head(
        method=b"POST", path=b"/a/b%20c", query=b"d=e?f", http_1_1=True, headers=headers, length=5,
        chunked=False, keep_alive=True, expects_continue=False, coded=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"http://h/a?b", b"/a", b"b"),
        (b"HTTPS://h:1", b"/", b""),
        (b"/", b"/", b""),
        (b"//h/a", b"//h/a", b""),
        (b"/?", b"/", b""),
    ],
)
def test_the_absolute_form_names_the_same_path(target: bytes, path: bytes, query: bytes) -> None:
    found = parse(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (path, query) == (found.path, found.query)


@pytest.mark.parametrize(
    ("version", "lines", "expected"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: Close\r\n", False),
        (b"1.1", b"Connection: keep-alive, close\r\n", False),
        (b"1.1", b"Connection: upgrade\r\nUpgrade: h2c\r\n", True),
        (b"1.0", b"Connection: keep-alive\r\n", False),
    ],
)
def test_a_connection_is_kept_as_the_client_says(version: bytes, lines: bytes, expected: bool) -> None:
    assert expected == parse(b"GET / HTTP/" + version + b"\r\nHost: h\r\n" + lines + b"\r\n").keep_alive


def test_lengths_beyond_any_limit_are_huge() -> None:
    assert head.HUGE == parse(framing.post(b"Content-Length: " + b"9" * 5_000)).length


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"a" * MAX_URL_BYTES + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * MAX_HEADERS + b"\r\n", 431),
    ],
)
def test_urls_and_headers_have_limits(sent: bytes, status: int) -> None:
    with pytest.raises(answers.Refused) as refused:
        parse(sent)
    assert status == refused.value.status


PIECES = st.sampled_from(
    [
        *(
            b"GET",
            b"POST",
            b" ",
            b"  ",
            b"\t",
            b"/",
            b"/a?b",
            b"http://h/",
            b"HTTP/1.1",
            b"HTTP/1.0",
            b"\r\n",
            b"\n",
        ),
        *(
            b"\r",
            b"Host",
            b"Host: h",
            b": ",
            b":",
            b"Content-Length: 3",
            b"Content-Length: 03",
            b"Connection: close",
        ),
        *(
            b"Transfer-Encoding: chunked",
            b"Expect: 100-continue",
            b"X: y",
            b" X: y",
            b"\x00",
            b"\xff",
            b"\x7f",
            b",",
        ),
    ]
)
HEADS = st.one_of(
    st.binary(max_size=200),
    st.lists(PIECES, max_size=20).map(b"".join),
    st.lists(PIECES, max_size=8).map(lambda more: b"POST / HTTP/1.1\r\nHost: h\r\n" + b"".join(more)),
)


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@example(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 03")
@example(b"POST / HTTP/1.1\r\nHost: h\r\nX: \xff\r\nTransfer-Encoding: Chunked")
@example(b"POST / HTTP/1.1\r\nHost:")
@given(HEADS)
def test_what_is_taken_is_read_as_h11_reads_it(lines: bytes) -> None:
    if b"\r\n\r\n" in lines:
        return
    try:
        ours = head.parse(lines, MAX_URL_BYTES, MAX_HEADERS)
    except answers.Refused:
        return
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(lines + b"\r\n\r\n")
    request = theirs.next_event()
    assert isinstance(request, h11.Request)
    # h11 gives the coding in lower case.
    expected = [(name, b"chunked" if name == b"transfer-encoding" else value) for name, value in ours.headers]
    assert expected == list(request.headers)
    assert (request.method, request.http_version) == (ours.method, b"1.1" if ours.http_1_1 else b"1.0")
    lengths = [int(value) for name, value in request.headers if name == b"content-length"]
    assert (lengths or [0]) == [ours.length]
    assert ours.chunked == any(name == b"transfer-encoding" for name, _ in request.headers)
