"""What a tenant may save of an SQS queue, where its messages go, and what a message is."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from outpost import errors
from outpost import settings as settings_
from outpost.adapters import base, codes
from outpost.adapters.aws import batch as aws_batch
from outpost.adapters.aws import sqs as aws_sqs
from outpost.adapters.shared import metadata, templates
from outpost.adapters.shared import resources as shared_
from outpost.domain import delivery

CREDENTIALS = {"key": "AKIAIOSFODNN7EXAMPLE", "secret": "wJalrXUtnFEMI/K7MDENG"}
QUEUE = "https://sqs.eu-central-1.amazonaws.com/123456789012/orders"
PAGE = "https://eu-central-1.console.aws.amazon.com/sqs/v3/home?region=eu-central-1#/queues/"


@pytest.fixture
def adapter() -> aws_sqs.Sqs:
    return aws_sqs.build(shared_.Shared(settings_.Settings()))


def _prepared(adapter: aws_sqs.Sqs, config: dict[str, str], credentials: dict[str, str]) -> base.Prepared:
    return adapter.prepare(base.Save(config, credentials, None, credentials, True, 0))


def _event(data: bytes = b'{"n": 1}', event_id: str = "evt-1") -> base.Delivery:
    return base.Delivery(event_id, "order.created", "2026-01-02T03:04:05Z", {"trace": "t"}, data, 1)


def _writer(group: str | None = None) -> aws_sqs.Writer:
    merger = metadata.Merger({"team": "blue"}, milliseconds=False, clock_ns=lambda: 1_700_000_000 * 10**9)
    return aws_sqs.Writer(merger, group)


@pytest.mark.behaviour(130, 131)
def test_all_that_is_missing_is_told_at_once(adapter: aws_sqs.Sqs):
    assert [
        errors.Problem("config.queue_url", "required"),
        errors.Problem("credentials.key", "required"),
        errors.Problem("credentials.secret", "required"),
    ] == _prepared(adapter, {}, {}).problems


@pytest.mark.behaviour(131)
@pytest.mark.parametrize(
    "queue_url",
    [
        "orders",
        "ftp://sqs.example/1/orders",
        "https://sqs.example/1/or ders",
        "https://",
        "https:///1/orders",
        "https://[::1/1/orders",
        "https://sqs.example:port/1/orders",
        "https://user:password@sqs.example/1/orders",
    ],
)
def test_a_queue_url_that_names_no_host_is_refused(adapter: aws_sqs.Sqs, queue_url: str):
    problems = _prepared(adapter, {"queue_url": queue_url}, CREDENTIALS).problems
    assert [errors.Problem("config.queue_url", "pattern")] == problems


@pytest.mark.behaviour(131)
@pytest.mark.parametrize("endpoint", ["sqs.example", "ftp://sqs.example", "/sqs", "https://", "https://a b"])
def test_an_endpoint_that_is_no_absolute_url_is_refused(adapter: aws_sqs.Sqs, endpoint: str):
    problems = _prepared(adapter, {"queue_url": QUEUE, "endpoint": endpoint}, CREDENTIALS).problems
    assert [errors.Problem("config.endpoint", "pattern")] == problems


@pytest.mark.parametrize(
    "endpoint", ["http://localhost:4566", "https://vpce-1.sqs.eu-central-1.vpce.amazonaws.com"]
)
def test_an_endpoint_may_be_a_service_that_speaks_the_protocol(adapter: aws_sqs.Sqs, endpoint: str):
    assert [] == _prepared(adapter, {"queue_url": QUEUE, "endpoint": endpoint}, CREDENTIALS).problems


def test_the_session_token_is_declared_and_masked_like_the_other_credentials(adapter: aws_sqs.Sqs):
    shown = adapter.shown_credentials({**CREDENTIALS, "session": "FwoGZXIvYXdzEBYaD"}, 0)
    assert {
        "key": "AKIA****************",
        "secret": "wJal*****************",
        "session": "FwoG*************",
    } == shown


@pytest.mark.behaviour(131)
@pytest.mark.parametrize(
    ("queue_url", "page"),
    [
        (
            QUEUE,
            f"{PAGE}https%3A%2F%2Fsqs.eu-central-1.amazonaws.com%2F123456789012%2Forders",
        ),
        ("https://sqs.eu-central-1.amazonaws.com.evil.example/1/orders", None),
        ("https://queue.amazonaws.com/1/orders", None),
        ("http://localhost:4566/000000000000/orders", None),
        ("https://example.com/sqs.eu-central-1.amazonaws.com/orders", None),
    ],
)
def test_the_target_is_the_queue_and_its_page_only_amazons_own(
    adapter: aws_sqs.Sqs, queue_url: str, page: str | None
):
    destination = base.OpenDestination("t", "d", "aws_sqs", {"queue_url": queue_url}, CREDENTIALS, {})
    assert (queue_url, page) == adapter.target(destination)


@pytest.mark.parametrize(
    ("queue_url", "region"),
    [
        (QUEUE, "eu-central-1"),
        ("https://sqs.us-gov-west-1.amazonaws.com/1/q", "us-gov-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "cn-north-1"),
        ("https://sqs-fips.us-east-2.amazonaws.com/1/q", "us-east-2"),
        ("https://sqs.ap-south-1.api.aws/1/q", "ap-south-1"),
        ("https://us-west-2.queue.amazonaws.com/1/q", "us-west-2"),
        ("https://queue.amazonaws.com/1/q", "us-east-1"),
        ("https://vpce-0a1b.sqs.eu-west-1.vpce.amazonaws.com/1/q", "eu-west-1"),
        ("http://sqs.eu-west-3.localhost.localstack.cloud:4566/1/q", "eu-west-3"),
        ("http://my-queue-1.example.com/1/q", "us-east-1"),
        ("http://127.0.0.1:9324/queue/q", "us-east-1"),
    ],
)
def test_the_region_is_what_the_host_of_the_queue_says(queue_url: str, region: str):
    assert region == aws_sqs.region_of(queue_url)


def test_a_message_is_the_data_and_one_attribute_with_all_the_metadata():
    entry = _writer().entry(_event())
    assert isinstance(entry, aws_batch.Entry)
    attribute = entry.value["MessageAttributes"].pop("metadata")
    assert {"MessageBody": '{"n": 1}', "MessageAttributes": {}} == entry.value
    assert "String" == attribute["DataType"]
    assert {
        "timestamp": "2023-11-14T22:13:20Z",
        "event-id": "evt-1",
        "topic": "order.created",
        "team": "blue",
        "trace": "t",
    } == json.loads(attribute["StringValue"])
    assert len('{"n": 1}' + "metadata" + "String" + attribute["StringValue"]) == entry.size


def test_a_message_is_measured_in_bytes_not_in_characters():
    plain, other = _writer().entry(_event(b'"ee"')), _writer().entry(_event('"\u00e9\u00e9"'.encode()))
    assert isinstance(plain, aws_batch.Entry)
    assert isinstance(other, aws_batch.Entry)
    assert 2 == other.size - plain.size


def test_a_fifo_queue_gets_the_tenant_as_group_and_the_event_id_for_deduplication():
    entry = _writer("tenant-1").entry(_event())
    assert isinstance(entry, aws_batch.Entry)
    assert ("tenant-1", "evt-1") == (entry.value["MessageGroupId"], entry.value["MessageDeduplicationId"])


@pytest.mark.case(35)
def test_a_manual_retry_has_a_deduplication_id_of_its_own_and_an_automatic_one_keeps_it():
    def of(event_id: str, attempt: int, *, manual: bool = False) -> str:
        made = base.Delivery(event_id, "t", "2026-01-02T03:04:05Z", {}, b"{}", attempt, manual)
        return aws_sqs.deduplication_id(made)

    ids = ["evt-1", "evt-1-2", "e" * 255, "Zo\u00eb 1"]
    automatic = [{of(name, attempt) for attempt in (1, 2, 11)} for name in ids]
    assert [1] * len(ids) == [len(found) for found in automatic]
    assert {"evt-1"} == automatic[0]
    manual = [of(name, attempt, manual=True) for name in ids for attempt in (2, 3, 12)]
    assert len(manual) == len(set(manual) - set().union(*automatic))
    assert manual == [of(name, attempt, manual=True) for name in ids for attempt in (2, 3, 12)]
    assert all(re.fullmatch("[!-~]{1,128}", text) for text in manual)


@pytest.mark.parametrize(
    ("body", "group"),
    [
        (b'{"customer": {"id": "c-1"}}', "c-1"),
        (b'{"customer": {"id": 7}}', "7"),
        (b'{"customer": {"id": ""}}', "tenant-1"),
        (b'{"customer": null}', "tenant-1"),
        (b"[]", "tenant-1"),
    ],
)
def test_a_template_names_the_group_and_the_tenant_is_it_where_that_finds_nothing(body: bytes, group: str):
    merger = metadata.Merger({}, milliseconds=False)
    writer = aws_sqs.Writer(merger, "tenant-1", templates.compiled("data.customer.id"))
    entry = writer.entry(_event(body))
    assert isinstance(entry, aws_batch.Entry)
    assert group == entry.value["MessageGroupId"]


def test_a_group_template_that_is_none_is_refused(adapter: aws_sqs.Sqs):
    config = {"queue_url": QUEUE, "message_group_id_template": "data.["}
    problems = _prepared(adapter, config, CREDENTIALS).problems
    assert [errors.Problem("config.message_group_id_template", "pattern")] == problems


@pytest.mark.parametrize(
    ("pasted", "stored"),
    [
        (f" {QUEUE}\n", QUEUE),
        ("arn:aws:sqs:eu-central-1:123456789012:orders", QUEUE),
        ("\tarn:aws:sqs:eu-central-1:123456789012:orders.fifo ", f"{QUEUE}.fifo"),
        ("arn:aws-cn:sqs:cn-north-1:1:q", "https://sqs.cn-north-1.amazonaws.com.cn/1/q"),
        ("arn:aws-us-gov:sqs:us-gov-west-1:1:q", "https://sqs.us-gov-west-1.amazonaws.com/1/q"),
    ],
)
def test_the_name_of_a_queue_as_the_console_shows_it_is_taken(adapter: aws_sqs.Sqs, pasted: str, stored: str):
    prepared = _prepared(adapter, {"queue_url": pasted}, CREDENTIALS)
    assert ([], {"queue_url": stored}) == (prepared.problems, prepared.config)


@pytest.mark.parametrize(
    "pasted", ["arn:aws:sns:eu-central-1:1:orders", "arn:aws:sqs:eu-central-1::orders", "arn:"]
)
def test_another_arn_is_no_queue(adapter: aws_sqs.Sqs, pasted: str):
    problems = _prepared(adapter, {"queue_url": pasted}, CREDENTIALS).problems
    assert [errors.Problem("config.queue_url", "pattern")] == problems


@pytest.mark.parametrize("text", ["a b", "\u00e9", "x" * 129, ""])
def test_what_a_fifo_queue_takes_for_no_id_is_replaced_by_its_digest(text: str):
    replaced = aws_sqs.fifo_id(text)
    assert 64 == len(replaced)
    assert replaced == aws_sqs.fifo_id(text)
    assert replaced != aws_sqs.fifo_id(text + "!")


def test_data_that_is_no_text_is_not_sent():
    assert codes.UNFORMATTED is _writer().entry(_event(b"\xff"))


def test_outcomes_go_by_the_id_of_the_entry_and_what_is_not_told_has_failed():
    answer: dict[str, Any] = {
        "Successful": [{"Id": "2", "MessageId": "m"}],
        "Failed": [
            {"Id": "1", "Code": "RequestThrottled", "Message": "slow down, wJalrXUt", "SenderFault": True},
            {
                "Id": "0",
                "Code": "InvalidParameterValue",
                "Message": "One or more parameters are invalid. Reason: Message must be shorter than 1024 bytes.",
                "SenderFault": True,
            },
        ],
    }
    too_large, throttled, sent, unsaid = aws_sqs.outcomes_of(answer, 4, ["wJalrXUt"])
    assert delivery.Delivered("OK", {}) == sent
    assert isinstance(throttled, delivery.Failed)
    assert ("throttled", {"error": "RequestThrottled: slow down, ***"}) == (throttled.code, throttled.response)
    assert isinstance(too_large, delivery.Failed)
    assert ("message_too_large", False) == (too_large.code, too_large.retryable)
    assert "ERR" == unsaid.code


@pytest.mark.parametrize("told", [{"Id": "0"}, {"Id": "0", "MessageId": ""}])
def test_a_success_without_a_message_id_is_none(told: dict[str, Any]):
    expected = codes.failed(codes.Code.ERR, "the service gave the message no id")
    assert [expected] == aws_sqs.outcomes_of({"Successful": [told]}, 1, [])


async def test_a_stored_queue_url_that_cannot_be_used_makes_no_publisher(adapter: aws_sqs.Sqs):
    destination = base.OpenDestination("t", "d", "aws_sqs", {"queue_url": "https://"}, CREDENTIALS, {})
    with pytest.raises(errors.Invalid):
        await adapter.connect(destination)
