"""What a tenant may save of an event bus, where its events go, and what an entry is."""

from __future__ import annotations

import datetime as dt
import json

import msgspec
import pytest

from outpost import errors
from outpost import settings as settings_
from outpost.adapters import base, codes
from outpost.adapters.aws import batch as aws_batch
from outpost.adapters.aws import eventbridge as aws_eventbridge
from outpost.adapters.shared import metadata
from outpost.adapters.shared import resources as shared_
from outpost.domain import delivery

CREDENTIALS = {"key": "AKIAIOSFODNN7EXAMPLE", "secret": "wJalrXUtnFEMI/K7MDENG"}
REGION = "eu-central-1"
ARN = "arn:aws:events:eu-central-1:123456789012:event-bus/orders"


@pytest.fixture
def adapter() -> aws_eventbridge.EventBridge:
    return aws_eventbridge.build(shared_.Shared(settings_.Settings()))


def _problems(adapter: aws_eventbridge.EventBridge, **config: str) -> list[errors.Problem]:
    return adapter.prepare(base.Save(config, CREDENTIALS, None, CREDENTIALS, True, 0)).problems


def _event(data: bytes = b'{"n":  1}', time: str = "2026-01-02T03:04:05.678Z") -> base.Delivery:
    return base.Delivery("evt-1", "order.created", time, {"trace": "t"}, data, 1)


def _entry(event: base.Delivery, bus: str = "", source: str = "outpost") -> aws_batch.Entry:
    merger = metadata.Merger({}, milliseconds=False, clock_ns=lambda: 1_700_000_000 * 10**9)
    made = aws_eventbridge.Writer(merger, source, bus).entry(event)
    assert isinstance(made, aws_batch.Entry)
    return made


@pytest.mark.behaviour(130)
def test_region_and_credentials_are_required_and_the_bus_is_not(adapter: aws_eventbridge.EventBridge):
    assert [
        errors.Problem("config.region", "required"),
        errors.Problem("credentials.key", "required"),
        errors.Problem("credentials.secret", "required"),
    ] == adapter.prepare(base.Save({}, {}, None, {}, True, 0)).problems
    assert [] == _problems(adapter, region=REGION)


@pytest.mark.parametrize(
    "region", ["us-east-1", "us-gov-west-1", "us-iso-east-1", "ap-southeast-2", "eusc-de-east-1"]
)
def test_regions_of_three_and_of_four_parts_are_taken(adapter: aws_eventbridge.EventBridge, region: str):
    assert [] == _problems(adapter, region=region)


@pytest.mark.parametrize(
    "region", ["us-east", "US-EAST-1", "us-east-1.evil.example", "us_east_1", "us-east-1/x", "a"]
)
def test_what_is_no_region_is_refused(adapter: aws_eventbridge.EventBridge, region: str):
    assert [errors.Problem("config.region", "pattern")] == _problems(adapter, region=region)


@pytest.mark.parametrize(
    "bus", ["default", "orders.v1_x-y", ARN, "arn:aws-us-gov:events:us-gov-west-1:123456789012:event-bus/orders"]
)
def test_a_bus_is_named_by_its_name_or_its_arn(adapter: aws_eventbridge.EventBridge, bus: str):
    assert [] == _problems(adapter, region=REGION, event_bus_name=bus)


@pytest.mark.parametrize(
    "bus", ["a b", "aws.partner/example.com/x", "arn:aws:sqs:eu-central-1:1:orders", "or\nders"]
)
def test_what_is_no_bus_is_refused(adapter: aws_eventbridge.EventBridge, bus: str):
    problems = _problems(adapter, region=REGION, event_bus_name=bus)
    assert [errors.Problem("config.event_bus_name", "pattern")] == problems


@pytest.mark.parametrize("endpoint", ["events.example", "ftp://events.example", "https://"])
def test_an_endpoint_that_is_no_absolute_url_is_refused(adapter: aws_eventbridge.EventBridge, endpoint: str):
    problems = _problems(adapter, region=REGION, endpoint=endpoint)
    assert [errors.Problem("config.endpoint", "pattern")] == problems


_PAGE = "https://eu-central-1.console.aws.amazon.com/events/home?region=eu-central-1#/eventbus/"


@pytest.mark.parametrize(
    ("config", "target"),
    [
        ({"region": REGION}, ("default in eu-central-1", f"{_PAGE}default")),
        ({"region": REGION, "event_bus_name": "orders"}, ("orders in eu-central-1", f"{_PAGE}orders")),
        ({"region": REGION, "event_bus_name": ARN}, (f"{ARN} in eu-central-1", f"{_PAGE}orders")),
        ({"region": "us-gov-west-1"}, ("default in us-gov-west-1", None)),
        ({"region": REGION, "endpoint": "http://localhost:4566"}, ("default in eu-central-1", None)),
    ],
)
def test_the_target_is_the_bus_and_its_page_only_amazons_own(
    adapter: aws_eventbridge.EventBridge, config: dict[str, str], target: tuple[str, str | None]
):
    destination = base.OpenDestination("t", "d", "aws_eventbridge", config, CREDENTIALS, {})
    assert target == adapter.target(destination)


def test_all_three_credentials_are_masked(adapter: aws_eventbridge.EventBridge):
    given = {**CREDENTIALS, "session": "FwoGZXIvYXdzEBYaD"}
    shown = adapter.shown_credentials(given, 0)
    assert [given[key][:4] for key in given] == [shown[key].rstrip("*") for key in given]


def test_an_entry_has_source_topic_and_time_of_the_event_and_its_data_byte_for_byte():
    entry = _entry(_event())
    detail = entry.value["Detail"]
    assert detail.endswith(',"data":{"n":  1}}')
    assert {
        "timestamp": "2023-11-14T22:13:20Z",
        "event-id": "evt-1",
        "topic": "order.created",
        "trace": "t",
    } == json.loads(detail)["metadata"]
    assert "outpost" == entry.value["Source"]
    assert "order.created" == entry.value["DetailType"]
    assert dt.datetime(2026, 1, 2, 3, 4, 5, 678_000, dt.UTC) == entry.value["Time"]


def test_the_size_of_an_entry_is_counted_as_documented():
    entry = _entry(_event(), source="s\u00e9")
    assert 14 + 3 + len("order.created") + len(entry.value["Detail"]) == entry.size


@pytest.mark.case(36)
@pytest.mark.parametrize(
    ("topic", "detail_type"),
    [
        ("", "event"),
        ("*", "*"),
        ("t" * 128, "t" * 128),
        ("t" * 129, "t" * 128),
        ("t" * 255, "t" * 128),
        ("\u00e9" * 127, "\u00e9" * 127),
    ],
)
def test_a_detail_type_is_neither_empty_nor_too_long_and_the_metadata_have_the_whole_topic(
    topic: str, detail_type: str
):
    entry = _entry(msgspec.structs.replace(_event(), topic=topic))
    assert (detail_type, topic) == (
        entry.value["DetailType"],
        json.loads(entry.value["Detail"])["metadata"]["topic"],
    )
    assert 14 + len("outpost") + len(detail_type.encode()) + len(entry.value["Detail"].encode()) == entry.size


def test_blanks_around_pasted_values_are_trimmed(adapter: aws_eventbridge.EventBridge):
    config = {"region": f" {REGION}\n", "event_bus_name": f"\t{ARN} "}
    prepared = adapter.prepare(base.Save(config, CREDENTIALS, None, CREDENTIALS, True, 0))
    assert ([], {"region": REGION, "event_bus_name": ARN}) == (prepared.problems, prepared.config)


@pytest.mark.parametrize("bus", ["", "default"])
def test_the_default_bus_is_named_by_no_name(bus: str):
    assert "EventBusName" not in _entry(_event(), bus).value


def test_another_bus_is_named_as_it_was_saved():
    assert ARN == _entry(_event(), ARN).value["EventBusName"]


def test_data_that_is_no_text_is_not_sent():
    merger = metadata.Merger({}, milliseconds=False)
    assert codes.UNFORMATTED is aws_eventbridge.Writer(merger, "outpost", "").entry(_event(b"\xff"))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ThrottlingException", "throttled"),
        ("InternalFailure", "ERR"),
        ("InvalidArgument", "ERR"),
        ("AccessDeniedException", "access_denied"),
        ("NotAuthorizedForSourceException", "access_denied"),
        ("NotAuthorizedForDetailTypeException", "access_denied"),
    ],
)
def test_an_entry_that_failed_in_a_call_that_did_not_is_a_failed_attempt(name: str, code: str):
    answer = {"FailedEntryCount": 1, "Entries": [{"EventId": "e-1"}, {"ErrorCode": name, "ErrorMessage": "why"}]}
    sent, failed = aws_eventbridge.outcomes_of(answer, 2, [])
    assert delivery.Delivered("OK", {"event_id": "e-1"}) == sent
    assert delivery.Failed(code, {"error": f"{name}: why"}) == failed


@pytest.mark.case(36)
def test_what_the_service_never_takes_is_not_tried_again():
    answer = {"FailedEntryCount": 1, "Entries": [{"ErrorCode": "MalformedDetail", "ErrorMessage": "why"}]}
    expected = delivery.Failed("message_refused", {"error": "MalformedDetail: why"}, retryable=False)
    assert [expected] == aws_eventbridge.outcomes_of(answer, 1, [])


def test_an_answer_for_fewer_events_than_were_asked_is_a_failure_of_all():
    outcomes = aws_eventbridge.outcomes_of({"Entries": [{"EventId": "e-1"}]}, 2, [])
    assert ["ERR", "ERR"] == [outcome.code for outcome in outcomes]


def test_an_entry_without_an_id_or_an_error_is_no_success():
    expected = codes.failed(codes.Code.ERR, "the service gave the event no id")
    assert [expected] == aws_eventbridge.outcomes_of({"Entries": [{}]}, 1, [])
