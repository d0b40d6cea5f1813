"""The checker for reference cycles finds those that an operation leaves, and none where there are none."""

from __future__ import annotations

import gc

from tests.harness import cycles

PAYLOAD_BYTES = 100_000


class Node:
    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.me: Node | None = None


async def test_a_cycle_is_found_with_the_payload_that_it_holds():
    async def leaves_a_cycle() -> None:
        node = Node(bytes(PAYLOAD_BYTES))
        node.me = node

    left = await cycles.left_behind(leaves_a_cycle, rounds=4)
    assert 4 == left.types[f"{__name__}.Node"]
    assert 4 * PAYLOAD_BYTES <= left.payload_bytes < 5 * PAYLOAD_BYTES


async def test_what_is_freed_by_counting_is_not_reported():
    async def leaves_nothing() -> None:
        node = Node(bytes(PAYLOAD_BYTES))
        node.me = Node(node.payload)

    left = await cycles.left_behind(leaves_nothing)
    assert ({}, 0) == (left.types, left.payload_bytes)


async def test_the_collector_is_as_it_was_afterwards():
    flags, enabled = gc.get_debug(), gc.isenabled()

    async def nothing() -> None: ...

    await cycles.left_behind(nothing)
    assert (flags, enabled, []) == (gc.get_debug(), gc.isenabled(), gc.garbage)
