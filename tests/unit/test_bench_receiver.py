"""The receiver counts distinct deliveries and tells apart what should not have come."""

import pytest

from outpost.cli.bench import receiver, wire


class Wire:
    """The transport, as far as the receiver uses it."""

    def __init__(self):
        self.written = b""
        self.closed = False

    def write(self, data):
        self.written += data

    def close(self):
        self.closed = True


@pytest.fixture
def sheet():
    return receiver.Sheet("run", tenants=2, fan_out=2)


def hook_on(sheet):
    hook = receiver.Hook(sheet)
    hook.connection_made(Wire())
    return hook


def request(destination, event, name=b"X-Outpost-Event-Id", version=b"1.1", extra=b""):
    return b"POST %b HTTP/%b\r\nHost: h\r\n%b: %b\r\n%bContent-Length: 3\r\n\r\n{} " % (
        wire.hook_path(destination).encode(),
        version,
        name,
        event,
        extra,
    )


def id_of(number):
    return wire.event_id("run", number).encode()


def test_an_arrival_is_noted_under_its_key_and_answered(sheet):
    hook = hook_on(sheet)
    hook.data_received(request(3, id_of(5)))
    assert 1 == sheet.counts().distinct
    assert sheet.first[wire.key_of(5, 1, 2)] > 0
    assert receiver.ANSWER == hook.transport.written


def test_a_request_in_single_bytes_counts_once(sheet):
    hook = hook_on(sheet)
    for byte in request(0, id_of(0)):
        hook.data_received(bytes([byte]))
    assert [1, 0] == [sheet.distinct, sheet.foreign]


def test_two_requests_in_one_read_are_two_arrivals(sheet):
    hook = hook_on(sheet)
    hook.data_received(request(0, id_of(0)) + request(1, id_of(0)))
    assert 2 == sheet.distinct
    assert receiver.ANSWER * 2 == hook.transport.written


def test_the_same_event_at_the_same_destination_is_a_double(sheet):
    hook = hook_on(sheet)
    hook.data_received(request(0, id_of(4)) * 3)
    assert [1, 2, [4, 4]] == [sheet.distinct, sheet.doubled, sheet.doubled_ids]


def test_an_event_at_the_destination_of_another_tenant_is_misrouted(sheet):
    hook_on(sheet).data_received(request(0, id_of(1)))
    assert [0, 1] == [sheet.distinct, sheet.misrouted]


OTHER_RUN = wire.event_id("other", 0).encode()


@pytest.mark.parametrize("event", [b"", b"evt_1", OTHER_RUN, id_of(0) + b"0", b"0" + id_of(0)])
def test_an_id_of_another_kind_is_foreign(sheet, event):
    hook_on(sheet).data_received(request(0, event))
    assert [0, 1] == [sheet.distinct, sheet.foreign]


def test_a_path_that_is_no_destination_is_foreign(sheet):
    hook_on(sheet).data_received(request(4, id_of(0)))
    assert [0, 1] == [sheet.distinct, sheet.foreign]


def test_an_id_does_not_stay_for_the_next_request(sheet):
    hook = hook_on(sheet)
    hook.data_received(request(0, id_of(0)) + request(0, id_of(2), name=b"x-other"))
    assert [1, 1] == [sheet.distinct, sheet.foreign]


@pytest.mark.parametrize("name", [b"x-outpost-event-id", b"X-Outpost-Event-Id", b"webhook-id", b"Webhook-Id"])
def test_both_webhook_modes_name_the_event(sheet, name):
    hook_on(sheet).data_received(request(0, id_of(0), name=name))
    assert 1 == sheet.distinct


def test_what_is_not_http_closes_the_connection(sheet):
    hook = hook_on(sheet)
    hook.data_received(b"\x16\x03\x01 hello\r\n\r\n")
    assert [1, True] == [sheet.malformed, hook.transport.closed]


def test_a_client_that_wants_no_keep_alive_gets_none(sheet):
    hook = hook_on(sheet)
    hook.data_received(request(0, id_of(0), extra=b"Connection: close\r\n"))
    assert hook.transport.closed


def test_numbers_far_apart_grow_the_sheet(sheet):
    hook_on(sheet).data_received(request(0, id_of(200_000)))
    assert [1, True] == [sheet.distinct, sheet.first[400_000] > 0]
