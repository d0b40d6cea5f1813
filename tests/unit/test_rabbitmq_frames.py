"""Content headers of returned messages: their tables are emptied before the library reads them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt

import pamqp.frame
import pytest
from aiormq import exceptions
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, header

from outpost.adapters.rabbitmq import frames

END = b"\xce"
SHORT = st.text(max_size=60).filter(lambda text: len(text.encode()) < 256)
OTHERS = {
    **dict.fromkeys(
        (
            "content_type",
            "content_encoding",
            "correlation_id",
            "reply_to",
            "expiration",
            "message_id",
            "message_type",
            "user_id",
            "app_id",
        ),
        SHORT,
    ),
    "delivery_mode": st.sampled_from((1, 2)),
    "priority": st.integers(0, 255),
    "timestamp": st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2100, 1, 1)).map(
        lambda at: at.replace(microsecond=0, tzinfo=dt.UTC)
    ),
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def payload(**properties: object) -> bytes:
    """Of a content header, with the octet that ends its frame."""
    return header.ContentHeader(0, 7, commands.Basic.Properties(**properties)).marshal() + END


def read(sent: bytes) -> commands.Basic.Properties:
    """The properties as the library reads them from a frame."""
    whole = b"\x02\x00\x01" + (len(sent) - 1).to_bytes(4, "big") + sent
    _, _, found = pamqp.frame.unmarshal(whole)
    assert 7 == found.body_size
    return found.properties


@given(st.fixed_dictionaries({}, optional=OTHERS), st.none() | st.dictionaries(SHORT, VALUES, max_size=5))
def test_only_the_headers_are_gone(others: dict[str, object], headers: dict[str, object] | None) -> None:
    sent = payload(headers=headers, **others)
    changed = frames.without_table(sent)
    assert len(sent) == len(changed)
    seen, expected = read(changed), read(payload(**others))
    assert not seen.headers
    names = set(commands.Basic.Properties.attributes()) - {"headers"}
    assert {name: getattr(expected, name) for name in names} == {name: getattr(seen, name) for name in names}


@given(st.binary(max_size=40))
def test_whatever_comes_it_stays_as_long_or_is_refused(rest: bytes) -> None:
    sent = b"\x00\x3c\x00\x00" + bytes(8) + rest + END
    with contextlib.suppress(exceptions.InvalidFrameError):
        assert len(sent) == len(frames.without_table(sent))


async def test_what_the_library_is_given_has_no_table_however_large_the_one_that_came_was() -> None:
    sent = payload(message_id="evt-1", headers={f"{number:05}": "" for number in range(10_000)})
    reader = asyncio.StreamReader()
    reader.feed_data(b"\x02" + b"\x00\x01" + (len(sent) - 1).to_bytes(4, "big") + sent)
    got = frames.Frames(reader, lambda: None)
    got.sent(7, len(sent))
    await got.readexactly(1)
    await got.readexactly(6)
    given_ = await got.readexactly(len(sent))
    assert ("evt-1", {}) == (read(given_).message_id, read(given_).headers or {})


async def test_a_table_longer_than_its_frame_ends_the_connection() -> None:
    sent = b"\x00\x3c\x00\x00" + bytes(8) + b"\x20\x00" + b"\x00\x00\xff\xff" + END
    reader = asyncio.StreamReader()
    reader.feed_data(b"\x02" + b"\x00\x01" + (len(sent) - 1).to_bytes(4, "big") + sent)
    ended: list[bool] = []
    got = frames.Frames(reader, lambda: ended.append(True))
    await got.readexactly(1)
    await got.readexactly(6)
    with pytest.raises(exceptions.InvalidFrameError):
        await got.readexactly(len(sent))
    assert [True] == ended
