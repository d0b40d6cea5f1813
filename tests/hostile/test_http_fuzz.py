"""Whatever bytes a client sends, it gets well-formed answers or a closed connection, never a 5xx."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.harness import framing, raw_http, stub_http
from tests.harness.stub_http import KEY, get, post

EXAMPLES = 150
TOKENS = [
    *(b"GET ", b"POST ", b"OPTIONS * ", b"/publish", b"/other", b"/a%00b", b"/%ff%fe", b"http://h/publish"),
    *(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/2.0\r\n", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b"\xff"),
    *(b"Host: h\r\n", b"Authorization: " + KEY + b"\r\n", b"Connection: close\r\n", b"Connection: Upgrade\r\n"),
    *(b"Upgrade: h2c\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: 99999999\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"X: y\r\n", b" folded\r\n", b"X : y\r\n"),
    *(b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"fffffff\r\n", b"hello", b"?a=b", b"#f"),
]
STARTS = [
    *(b"", post(), get(), post(b"", key=b"x"), post(b"hello", length=50)),
    post(b"", framing.CHUNKED, length=-1),
]
SENT = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from(TOKENS), max_size=25).map(b"".join),
    st.builds(
        lambda start, more, cut: (start + b"".join(more))[: cut or None],
        st.sampled_from(STARTS),
        st.lists(st.sampled_from(TOKENS), max_size=10),
        st.integers(0, 200),
    ),
)


class Fuzzed:
    """One server on an event loop of its own, since examples are synchronous."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._serving = stub_http.serving()
        self.stub = self._runner.run(self._serving.__aenter__())

    def close(self) -> None:
        self._runner.run(self._serving.__aexit__(None, None, None))
        self._runner.close()

    def answers(self, pieces: list[bytes]) -> list[raw_http.Answered]:
        """What comes back before the server closes the connection, once the client has closed its half."""
        return self._runner.run(self._answers(pieces))

    async def _answers(self, pieces: list[bytes]) -> list[raw_http.Answered]:
        found = []
        async with raw_http.connect(self.stub.port) as client:
            for piece in pieces:
                client.send(piece)
                await asyncio.sleep(0)
            with contextlib.suppress(OSError):
                client.writer.write_eof()
            with contextlib.suppress(raw_http.Closed):
                while True:
                    found.append(await client.answer())
        assert 200 == (await raw_http.ask(self.stub.port, get(b"/healthz"))).status
        return found


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Fuzzed]:
    one = Fuzzed()
    yield one
    one.close()


def whole_or_cut(sent: bytes, step: int) -> list[bytes]:
    return [sent[at : at + step] for at in range(0, len(sent), step)] if step else [sent]


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@example(sent=framing.REFUSED[0].sent, step=0)
@example(sent=post() * 3, step=7)
@example(sent=b"\r\n\r\n\r\n", step=1)
@example(sent=get(b"/%ff%00", b"Connection: Upgrade", b"Upgrade: h2c"), step=0)
@example(sent=b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", step=3)
@given(sent=SENT, step=st.sampled_from([0, 1, 7, 50]))
def test_any_bytes_are_answered_well_or_not_at_all(fuzzed: Fuzzed, sent: bytes, step: int) -> None:
    for answer in fuzzed.answers(whole_or_cut(sent, step)):
        assert answer.status in (100, 200, 202, 400, 401, 408, 413, 414, 417, 431)


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(bodies=st.lists(st.binary(max_size=200), min_size=1, max_size=5), step=st.sampled_from([0, 1, 13]))
def test_good_requests_are_answered_each_in_its_turn(fuzzed: Fuzzed, bodies: list[bytes], step: int) -> None:
    sent = b"".join(post(body) + get(b"/%d" % number) for number, body in enumerate(bodies))
    fuzzed.stub.route.bodies.clear()
    found = fuzzed.answers(whole_or_cut(sent, step))
    expected = [each for number in range(len(bodies)) for each in ((202, b"{}"), (200, b"/%d" % number))]
    assert expected == [(answer.status, answer.body) for answer in found]
    assert [len(body) for body in bodies] == fuzzed.stub.route.bodies
