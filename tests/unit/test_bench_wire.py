"""What the bench puts on the wire: ids that carry their number, and requests of an exact size."""

import msgspec
import pytest

from outpost.cli.bench import wire

PLAN = wire.Plan(run="abc", url="http://127.0.0.1:3333/api/v1", key="k", topic="order.made", tenants=12)


def request_of(plan, number):
    before, after = wire.publish_requests(plan)[number % plan.tenants]
    head, _, body = (b"%b%09d%b" % (before, number, after)).partition(b"\r\n\r\n")
    return head.decode(), body


@pytest.mark.parametrize("size", [wire.SMALLEST_BODY_BYTES, 514, 4_096])
def test_a_publish_body_has_exactly_the_size_that_was_asked_for(size):
    head, body = request_of(msgspec.structs.replace(PLAN, payload_bytes=size), 11)
    assert size == len(body)
    assert f"Content-Length: {size}" in head


def test_a_request_names_its_event_its_tenant_and_its_topic():
    head, body = request_of(PLAN, 23)
    event = msgspec.json.decode(body)
    assert "bench-abc-e000000023" == event["id"]
    assert "bench-abc-11" == event["tenant_id"]
    assert "order.made" == event["topic"]
    assert isinstance(event["data"], dict)
    assert head.startswith("POST /api/v1/publish HTTP/1.1\r\nHost: 127.0.0.1:3333\r\n")
    assert "Authorization: Bearer k" in head


def test_event_ids_are_as_the_request_spells_them():
    _, body = request_of(PLAN, 123_456_789)
    assert wire.event_id("abc", 123_456_789) == msgspec.json.decode(body)["id"]


def test_keys_of_deliveries_are_dense():
    assert [6, 7, 8, 9] == [wire.key_of(n, place, 2) for n in (3, 4) for place in (0, 1)]
