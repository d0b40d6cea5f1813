"""Room for reads: what is reserved, who waits, and what goes to the socket at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from outpost import errors
from outpost.api import reads

MIB = 1024 * 1024
TIMEOUT_S = 60


def scope(client: str = "10.0.0.1") -> Any:
    return {"type": "http", "client": (client, 1), "state": {}}


async def soon() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_client_has_half_of_the_room() -> None:
    room = reads.Reads(4 * MIB)
    first, second, other = scope(), scope(), scope("10.0.0.2")
    await room.reserve(first, 2 * MIB)
    waiting = asyncio.create_task(room.reserve(second, MIB))
    await soon()
    assert not waiting.done()
    await room.reserve(other, 2 * MIB)
    room.release(other)
    await soon()
    assert not waiting.done()
    room.release(first)
    async with asyncio.timeout(TIMEOUT_S):
        await waiting
    room.release(second)
    assert {} == room._held


async def test_reads_of_one_tenant_share_their_part_wherever_they_come_from() -> None:
    room = reads.Reads(4 * MIB)
    first, second = scope(), scope("10.0.0.2")
    await room.reserve(first, 2 * MIB, "acme")
    waiting = asyncio.create_task(room.reserve(second, MIB, "acme"))
    await soon()
    assert not waiting.done()
    await room.reserve(scope(), MIB, "other")
    room.release(first)
    async with asyncio.timeout(TIMEOUT_S):
        await waiting


async def test_a_small_answer_gives_back_what_was_reserved_for_a_large_one() -> None:
    room = reads.Reads(4 * MIB)
    first, second = scope(), scope()
    await room.reserve(first, 2 * MIB)
    waiting = asyncio.create_task(room.reserve(second, MIB))
    await soon()
    answer = room.answer(first, {"models": []})
    assert b'{"models":[]}' == answer.content
    async with asyncio.timeout(TIMEOUT_S):
        await waiting


async def test_an_answer_larger_than_reserved_is_counted_as_it_is() -> None:
    room = reads.Reads(4 * MIB)
    first = scope()
    await room.reserve(first, 10)
    answer = room.answer(first, "x" * 1_000)
    assert {"client 10.0.0.1": len(answer.content)} == room._held
    room.release(first)
    room.release(first)  # harmless
    assert {} == room._held


async def test_a_read_larger_than_the_room_goes_alone() -> None:
    room = reads.Reads(4 * MIB)
    first, second = scope(), scope("10.0.0.2")
    await room.reserve(first, 9 * MIB)
    waiting = asyncio.create_task(room.reserve(second, 1))
    await soon()
    assert not waiting.done()
    room.release(first)
    async with asyncio.timeout(TIMEOUT_S):
        await waiting


async def test_who_waits_too_long_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "WAIT_S", 0.0)
    room = reads.Reads(MIB)
    first, late = scope(), scope("10.0.0.2")
    await room.reserve(first, MIB)
    with pytest.raises(errors.Busy):
        await room.reserve(late, MIB)
    room.release(late)
    room.release(first)
    assert {} == room._held
    assert not room._waiting


async def test_those_who_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "MAX_WAITING", 1)
    room = reads.Reads(MIB)
    first = scope()
    await room.reserve(first, MIB)
    waiting = asyncio.create_task(room.reserve(scope(), MIB))
    await soon()
    with pytest.raises(errors.Busy):
        await room.reserve(scope(), MIB)
    room.release(first)
    async with asyncio.timeout(TIMEOUT_S):
        await waiting


@pytest.mark.parametrize("granted", [False, True], ids=["while it waits", "as its turn comes"])
async def test_a_request_that_is_given_up_leaves_no_room_taken(granted: bool) -> None:
    room = reads.Reads(MIB)
    first = scope()
    await room.reserve(first, MIB)
    waiting = asyncio.create_task(room.reserve(scope(), MIB))
    await soon()
    if granted:
        room.release(first)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    room.release(first)
    assert {} == room._held
    assert not room._waiting


@pytest.mark.parametrize("size", [0, 1, reads.PIECE_BYTES, reads.PIECE_BYTES + 1, 5 * reads.PIECE_BYTES])
async def test_a_body_goes_out_in_pieces(size: int) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    body = bytes(range(256)) * (size // 256 + 1)
    transmit = reads.in_pieces(send)
    await transmit({"type": "http.response.start", "status": 200, "headers": []})
    await transmit({"type": "http.response.body", "body": body[:size], "more_body": False})
    pieces = [message["body"] for message in sent[1:]]
    assert body[:size] == b"".join(pieces)
    assert max(map(len, pieces)) <= reads.PIECE_BYTES
    assert [True] * (len(pieces) - 1) + [False] == [message["more_body"] for message in sent[1:]]
