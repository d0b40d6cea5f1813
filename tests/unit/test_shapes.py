"""In which form the replies to plain commands of Redis come."""

from __future__ import annotations

import pytest
import redis.exceptions

from outpost.log.redis import shapes

INFO = b"# Server\r\nredis_version:7.0.15\r\nuptime_in_seconds:12\r\n\r\n# Keyspace\r\ndb0:keys=1\r\nempty:\r\n"


@pytest.mark.parametrize(
    ("command", "reply", "expected"),
    [
        (
            ("INFO", "server"),
            INFO,
            {"redis_version": "7.0.15", "uptime_in_seconds": 12, "db0": "keys=1"},
        ),
        (("HGETALL", "k"), [b"a", b"1", b"b", b""], {b"a": b"1", b"b": b""}),
        (("HGETALL", "k"), [], {}),
        (("CONFIG", "GET", "save"), [b"save", b"3600 1"], {"save": "3600 1"}),
        (("CONFIG", "SET", "save", ""), b"OK", b"OK"),
        (("XINFO", "STREAM", "k"), [b"length", 3], {"length": 3}),
        (("XINFO", "GROUPS", "k"), [[b"name", b"g"], [b"name", b"h"]], [{"name": b"g"}, {"name": b"h"}]),
        (("XRANGE", "k", "-", "+"), [[b"1-0", [b"a", b"b"]]], [[b"1-0", [b"a", b"b"]]]),
        (("GET", "k"), None, None),
    ],
)
def test_what_is_a_list_of_pairs_comes_as_a_dict(
    command: tuple[str, ...], reply: object, expected: object
) -> None:
    found = shapes.shaped(command, reply)
    if command[0] == "INFO":
        assert "" == found.pop("empty")
    assert expected == found


def test_an_error_stays_an_error() -> None:
    refused = redis.exceptions.ResponseError("NOPERM")
    assert refused is shapes.shaped(("CONFIG", "GET", "save"), refused)


def test_the_clock_is_milliseconds() -> None:
    assert 1_800_000_000_123 == shapes.clock_ms([b"1800000000", b"123999"])
