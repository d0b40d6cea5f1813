"""What goes over the wire: event ids that carry their number, the pre-rendered publish requests, and the
messages between the command and its two processes (one JSON line each way over stdin and stdout; samples go
through files).
"""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

DIGITS = 9  # of the number at the end of an event id: a billion events a run
SMALLEST_BODY_BYTES = 320
UNANSWERED, LOST = 0, -1  # in place of a status: no answer in time, connection lost twice
_NOTE = "@note@"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """First line to both processes: the names of the run and how to reach the target. Holds the API key."""

    run: str
    url: str = ""
    key: str = ""
    topic: str = ""
    host: str = "127.0.0.1"
    tenants: int = 1
    fan_out: int = 1
    connections: int = 1
    payload_bytes: int = 514


class Ready(msgspec.Struct, frozen=True):
    """First line back: the receiver's ports, 0 from the generator."""

    port: int = 0
    hole_port: int = 0


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of load, to the generator. `count` events in open loop; as many as it gets in closed loop."""

    first: int
    count: int
    interval_ns: float
    seconds: float
    closed: bool
    limit_s: float
    path: str


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """The generator's answer. Times are CLOCK_MONOTONIC ns. `path` holds three arrays of `issued` items: sent at,
    answered at (int64 each, 0: never), status (int16; see UNANSWERED and LOST)."""

    start_ns: int
    issued: int
    scheduled: int
    blocked: int
    resent: int


class Collect(msgspec.Struct, frozen=True):
    """To the receiver: an empty path asks for the counts alone, any other for the arrival times in that file."""

    path: str = ""


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """The receiver's answer. The file holds one int64 for each key (see `key_of`): arrival in ns, 0: never."""

    distinct: int
    doubled: int
    misrouted: int
    foreign: int
    malformed: int
    doubled_ids: list[int]
    hole_most: int = 0  # connections to the black hole at once
    hole_connections: int = 0


def tenant_id(run: str, index: int) -> str:
    """The id of the run's tenant number `index`."""
    return f"bench-{run}-{index}"


def hole_tenant_id(run: str, index: int) -> str:
    """The id of the tenant number `index` of those whose destinations are black holes."""
    return f"bench-{run}-hole{index}"


def event_prefix(run: str) -> str:
    """What every event id of the run starts with; the number follows in `DIGITS` digits."""
    return f"bench-{run}-e"


def event_id(run: str, number: int) -> str:
    """The id of event `number`."""
    return f"{event_prefix(run)}{number:0{DIGITS}d}"


def hook_path(destination: int) -> str:
    """Path of the receiver for destination `destination` = tenant number x fan-out + place within the tenant."""
    return f"/hook/{destination}"


def destination_prefix(run: str) -> str:
    """What every destination id of the run starts with; its number follows."""
    return f"bench-{run}-d"


def destination_id(run: str, destination: int) -> str:
    """The id of destination `destination`, chosen by us so that attempts can be told apart."""
    return f"{destination_prefix(run)}{destination}"


def key_of(number: int, place: int, fan_out: int) -> int:
    """Index of the delivery of event `number` to the `place`-th destination of its tenant."""
    return number * fan_out + place


def publish_requests(plan: Plan) -> list[tuple[bytes, bytes]]:
    """For each tenant what stands before and after the `DIGITS` digits of the event number in a whole request."""
    return [_request(plan, tenant_id(plan.run, index)) for index in range(plan.tenants)]


def _request(plan: Plan, tenant: str) -> tuple[bytes, bytes]:
    body = _body(plan, tenant)
    parts = urlsplit(plan.url)
    head = (
        f"POST {parts.path}/publish HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\n"
        f"Authorization: Bearer {plan.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    before, _, after = body.partition(b"0" * DIGITS)
    return head.encode() + before, after


def _body(plan: Plan, tenant: str) -> bytes:
    """A publish body of exactly `plan.payload_bytes`, or as few more as long names need, for event number 0."""
    whole = msgspec.json.encode(
        {
            "id": event_id(plan.run, 0),
            "tenant_id": tenant,
            "topic": plan.topic,
            "data": {
                "order": 48151,
                "currency": "EUR",
                "total": 129.9,
                "paid": True,
                "lines": [{"sku": "A-17", "count": 2, "price": 49.95}, {"sku": "B-4", "count": 1, "price": 30.0}],
                "note": _NOTE,
            },
        }
    )
    note = "x" * max(0, plan.payload_bytes - len(whole) + len(_NOTE))
    return whole.replace(_NOTE.encode(), note.encode())
