"""Clients never get the descriptors that health checks, stores and deliveries need."""

from __future__ import annotations

import resource

import msgspec
import pytest

from outpost.process.http_server import connections, descriptors, server
from outpost.settings import Settings


@pytest.mark.parametrize(
    ("service", "limit", "expected"),
    [
        ("all", 1_000_000, 10_000),
        ("all", 1_024, 512 - connections.MAX_SPARE),
        ("api", 1_024, 1_024 - descriptors.KEPT_BACK - connections.MAX_SPARE),
        ("all", 8_192, 8_192 - 1_000 - descriptors.KEPT_BACK - connections.MAX_SPARE),
        ("all", 10, 1),
    ],
)
def test_the_limit_of_connections_leaves_descriptors_for_the_rest(service: str, limit: int, expected: int) -> None:
    settings = msgspec.structs.replace(Settings(), service=service)
    assert expected == descriptors.max_connections(settings, limit)


async def test_an_address_keeps_its_part_where_there_are_fewer_connections() -> None:
    for per_address, expected in ((5_000, 240), (10_000, 480), (1, 1)):
        settings = msgspec.structs.replace(Settings(), api_max_connections_per_address=per_address)
        made = server.Server(lambda *_: None, settings, max_connections=480)
        assert (480, expected) == (made.connections.limit, made.connections.limit_per_address)


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1, before[1]))
        assert before[1] == descriptors.raise_limit()
        assert (before[1], before[1]) == resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
