"""Answers made by structure: whatever a receiver sends, what is kept of it is bounded, and how it is cut into
pieces changes nothing."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from outpost.adapters.http import client, reading

CAP = 2_000

ends = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n", b""])
texts = st.binary(max_size=30).map(lambda text: text.replace(b"\n", b"").replace(b"\r", b""))
numbers = st.one_of(
    st.integers(0, 3_000).map(lambda n: b"%d" % n),
    st.integers(0, 3_000).map(lambda n: b"%x" % n),
    st.sampled_from([b"-1", b"+1", b"0x10", b"", b" 5", b"5 ", b"1e3", b"9" * 30, b"f" * 17, b"00005"]),
)
statuses = st.one_of(
    st.sampled_from(
        [b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 X", b"HTTP/1.1 304 X"]
    ),
    st.sampled_from([b"HTTP/1.1 100 Continue", b"HTTP/1.1 103 Early", b"HTTP/1.1 101 Switch", b"HTTP/2.0 200 OK"]),
    st.sampled_from(
        [b"HTTP/1.1  200 OK", b"http/1.1 200 OK", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"ICY 200 OK"]
    ),
    texts,
)
headers = st.one_of(
    numbers.map(lambda n: b"Content-Length: " + n),
    st.sampled_from(
        [b"chunked", b"Chunked", b"gzip, chunked", b"chunked, gzip", b"identity", b"xchunked", b""]
    ).map(lambda coding: b"Transfer-Encoding: " + coding),
    st.sampled_from(
        [
            b"Connection: close",
            b"Connection: keep-alive",
            b"Keep-Alive: timeout=5",
            b"Retry-After: 5",
            b"Upgrade: h2c",
        ]
    ),
    st.tuples(texts, st.sampled_from([b":", b": ", b" : ", b"", b":\t"]), texts).map(b"".join),
    texts.map(lambda text: b" " + text),
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A status line and headers, most of them well formed."""
    lines = [draw(statuses), *draw(st.lists(headers, max_size=6)), b""]
    return b"".join(line + draw(ends) for line in lines)


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """A chunk, whose size may be wrong, with an extension or not."""
    data = draw(st.binary(max_size=200))
    size = draw(st.one_of(st.just(b"%x" % len(data)), st.just(b"%X" % len(data)), numbers))
    return size + draw(st.sampled_from([b"", b";a", b";a=b", b' ;a="b"', b"  "])) + draw(ends) + data + draw(ends)


answers = st.lists(
    st.one_of(heads(), heads(), st.lists(chunks(), max_size=5).map(b"".join), st.binary(max_size=3_000)),
    min_size=1,
    max_size=6,
).map(b"".join)


def read(kind: type[reading.Reader], pieces: list[bytes]) -> tuple[object, bool, int]:
    """What an answer in these pieces means, whether the connection goes on, and how many bytes that took."""
    reader = kind(CAP)
    taken = 0
    for piece in pieces:
        taken += len(piece)
        outcome = reader.feed(piece)
        assert len(reader._body) <= CAP
        if outcome is not None:
            return outcome, reader.reusable, taken
    return reader.end(None), False, taken


@settings(max_examples=200)
@given(
    answers, st.lists(st.integers(0, 4_000), max_size=8), st.sampled_from([reading.Reader, reading.HeaderReader])
)
def test_an_answer_of_any_structure_is_the_same_in_any_pieces_and_bounded(
    said: bytes, cuts: list[int], kind: type[reading.Reader]
) -> None:
    places = sorted({0, len(said), *(cut for cut in cuts if cut < len(said))})
    pieces = [said[start:end] for start, end in itertools.pairwise(places)]
    whole, _, _ = read(kind, [said])
    outcome, reusable, taken = read(kind, pieces)
    assert whole == outcome
    assert isinstance(outcome, client.Answer | client.Unanswered)
    if isinstance(outcome, client.Answer):
        assert len(outcome.body) <= CAP
        assert not (outcome.fault and (outcome.body or reusable))
    if reusable:  # then nothing of the answer is left to be taken for the next one
        assert read(kind, [said[:taken]])[:2] == (outcome, True)


@settings(max_examples=50)
@given(answers.filter(bool), st.integers(1, 60))
def test_what_goes_on_without_end_is_given_up(said: bytes, times: int) -> None:
    """Whatever is repeated, so many bytes are read of one answer and no more."""
    reader = reading.Reader(CAP)
    taken = 0
    most = reading.MAX_FRAMING_BYTES + (1 + reading.FRAMING_PER_BODY_BYTE) * CAP
    while reader.feed(said * times) is None:
        taken += len(said) * times
        assert taken <= most
