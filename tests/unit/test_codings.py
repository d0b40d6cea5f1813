"""Content codings of answers: undone within a bound, or kept as they came with a word on it."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost.adapters.http import body, client, codings, reading

CAP = 1_000


def raw_deflate(data: bytes) -> bytes:
    """As some servers send it, without the frame of zlib."""
    made = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return made.compress(data) + made.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "X-GZIP": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
}


def answered(packed: bytes, *codings_: str) -> client.Answer:
    head = "".join(f"Content-Encoding: {name}\r\n" for name in codings_).encode()
    said = b"HTTP/1.1 500 X\r\n%bContent-Length: %d\r\n\r\n%b" % (head, len(packed), packed)
    outcome = reading.Reader(0).feed(said)
    assert isinstance(outcome, client.Answer)
    return outcome


@given(st.text(max_size=100), st.sampled_from(sorted(PACKERS)))
def test_what_was_packed_is_unpacked(text: str, name: str) -> None:
    assert (text, "") == body.text(answered(PACKERS[name](text.encode()), name), CAP)


def test_codings_one_upon_the_other_are_undone_in_their_order() -> None:
    packed = gzip.compress(zlib.compress(b"ok"))
    assert ("ok", "") == body.text(answered(packed, "deflate, gzip"), CAP)
    assert ("ok", "") == body.text(answered(packed, "deflate", "identity", "gzip"), CAP)


@pytest.mark.parametrize(("cap", "limit"), [(CAP, CAP), (0, codings.MAX_UNPACKED_BYTES)])
@pytest.mark.parametrize("name", sorted(PACKERS))
def test_what_is_too_much_unpacked_is_not_kept(cap: int, limit: int, name: str) -> None:
    most = PACKERS[name](b"x" * limit)
    assert ("x" * limit, "") == body.text(answered(most, name), cap)
    bomb = PACKERS[name](b"x" * (limit + 1))
    assert (f"Response body exceeded {limit} bytes and was not stored", "") == body.text(answered(bomb, name), cap)


@pytest.mark.parametrize(
    ("packed", "name", "remark"),
    [
        (b"what", "br", "The response body is stored as it came, in the content coding br"),
        (b"what", "gzip, zstd", "The response body is stored as it came, in the content coding gzip, zstd"),
        (b"what", "gzip, gzip, gzip, gzip", "The response body is stored as it came, in the content coding gzip,"),
        (b"what", "gzip", "The response body is stored as it came: its content coding is broken"),
        (gzip.compress(b"what" * 9)[:-9], "gzip", "The response body is stored as it came: its content coding is"),
    ],
)
def test_what_cannot_be_undone_is_kept_as_it_came_and_said(packed: bytes, name: str, remark: str) -> None:
    text, said = body.text(answered(packed, name), CAP)
    assert packed.decode("utf-8", "replace") == text
    assert said.startswith(remark)


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate", "gzip, deflate", ",", "\x00"]))
def test_any_bytes_are_no_error(packed: bytes, name: str) -> None:
    text, _ = body.text(answered(packed, name), CAP)
    assert len(text) <= CAP


def test_an_answer_without_coding_is_kept_as_it_is() -> None:
    assert ("ok", "") == body.text(answered(b"ok"), CAP)
    assert ("ok", "") == body.text(answered(b"ok", "identity"), CAP)
    assert ("", "") == body.text(answered(b"", "gzip"), CAP)
