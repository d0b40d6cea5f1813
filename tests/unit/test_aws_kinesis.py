"""aws_kinesis: what is saved, what a record looks like, and what becomes of each record of a batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from outpost import errors, settings
from outpost.adapters import base, codes
from outpost.adapters.aws import client as aws_client
from outpost.adapters.aws import kinesis as aws_kinesis
from outpost.adapters.shared import metadata, templates
from outpost.adapters.shared import resources as shared
from outpost.domain import delivery

CONFIG = {"stream_name": "orders", "region": "eu-central-1"}
CREDENTIALS = {"key": "AKIDEXAMPLE", "secret": "very-secret", "session": "a-long-session-token"}
DEADLINE = 5.0
DATA = b'{"b": 1.0,  "customer":{"id":"c<1>"}, "n":1234567}'
EVENT = base.Delivery("evt_1", "order.created", "2026-01-02T03:04:05.678Z", {"tier": "gold"}, DATA, 1)


@pytest.fixture
def kinesis() -> aws_kinesis.Kinesis:
    return aws_kinesis.build(shared.Shared(settings.Settings()))


def saved(kinesis: aws_kinesis.Kinesis, config: dict[str, str], credentials: dict[str, str]) -> base.Prepared:
    return kinesis.prepare(base.Save(config, credentials, None, credentials, True, 0))


def problems(kinesis: aws_kinesis.Kinesis, **changes: str) -> list[errors.Problem]:
    return saved(kinesis, {**CONFIG, **changes}, CREDENTIALS).problems


@pytest.mark.behaviour(130, 132)
def test_everything_that_is_missing_is_named_at_once(kinesis: aws_kinesis.Kinesis):
    assert [
        errors.Problem("config.stream_name", "required"),
        errors.Problem("config.region", "required"),
        errors.Problem("credentials.key", "required"),
        errors.Problem("credentials.secret", "required"),
    ] == saved(kinesis, {}, {}).problems


@pytest.mark.behaviour(132)
@pytest.mark.parametrize(
    "region", ["eu-central-1", "us-gov-west-1", "us-isob-east-1", "ap-southeast-12", "eusc-de-east-1"]
)
def test_a_region_may_have_three_or_four_parts(kinesis: aws_kinesis.Kinesis, region: str):
    assert [] == problems(kinesis, region=region)


@pytest.mark.behaviour(130, 132)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("region", "europe"),
        ("region", "eu-central"),
        ("region", "EU-CENTRAL-1"),
        ("region", "us-a-b-c-1"),
        ("region", "eu-central-1.evil.example"),
        ("stream_name", "not a name"),
        ("stream_name", "arn:aws:kinesis"),
        ("endpoint", "kinesis.local"),
        ("endpoint", "ftp://kinesis.local"),
        ("endpoint", "http://user:password@kinesis.local"),
        ("endpoint", "http://kinesis local"),
        ("partition_key_template", "data.customer."),
        ("partition_key_template", "data ||"),
    ],
)
def test_what_does_not_match_is_a_problem_of_its_pattern(kinesis: aws_kinesis.Kinesis, key: str, value: str):
    assert [errors.Problem(f"config.{key}", "pattern")] == problems(kinesis, **{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("endpoint", "http://127.0.0.1:4566"),
        ("endpoint", "https://vpce-1.kinesis.eu-central-1.vpce.amazonaws.com/path"),
        ("partition_key_template", "data.customer.id"),
        ("partition_key_template", 'metadata."event-id"'),
        ("partition_key_template", ""),
    ],
)
def test_what_is_right_is_stored_as_it_is(kinesis: aws_kinesis.Kinesis, key: str, value: str):
    assert {**CONFIG, key: value} == saved(kinesis, {**CONFIG, key: value}, CREDENTIALS).config


ARN = "arn:aws:kinesis:eu-central-1:123456789012:stream/orders"


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ({"stream_name": " orders\n", "region": "\teu-central-1 "}, CONFIG),
        ({"stream_name": ARN, "region": "eu-central-1"}, {"stream_name": ARN, "region": "eu-central-1"}),
        ({"stream_name": f"{ARN} "}, {"stream_name": ARN, "region": "eu-central-1"}),
    ],
)
def test_a_stream_may_be_named_as_the_console_shows_it(
    kinesis: aws_kinesis.Kinesis, sent: dict[str, str], stored: dict[str, str]
):
    prepared = saved(kinesis, sent, CREDENTIALS)
    assert ([], stored) == (prepared.problems, prepared.config)


def test_the_region_is_that_of_the_streams_arn(kinesis: aws_kinesis.Kinesis):
    [problem] = problems(kinesis, stream_name=ARN, region="us-east-1")
    assert "config.region must be the region in the ARN of the stream" == problem.sentence()


@pytest.mark.parametrize(("name", "parameter"), [("orders", "StreamName"), (ARN, "StreamARN")])
def test_a_stream_is_asked_for_by_what_it_was_named_by(name: str, parameter: str):
    assert {parameter: name} == aws_kinesis.stream_of(name)


@pytest.mark.behaviour(132)
async def test_a_stored_template_that_is_none_leaves_the_event_id(kinesis: aws_kinesis.Kinesis):
    config = {**CONFIG, "partition_key_template": "["}
    publisher = await kinesis.connect(base.OpenDestination("t", "d", "aws_kinesis", config, CREDENTIALS, {}))
    assert "evt_1" == value_of(publisher._writer)["PartitionKey"]
    await publisher.close()


@pytest.mark.behaviour(132)
def test_the_target_is_the_stream_and_its_region(kinesis: aws_kinesis.Kinesis):
    opened = base.OpenDestination("t", "d", "aws_kinesis", CONFIG, CREDENTIALS, {})
    assert ("orders in eu-central-1", None) == kinesis.target(opened)


def test_all_three_credentials_are_masked(kinesis: aws_kinesis.Kinesis):
    assert {
        "key": "AKID*******",
        "secret": "very*******",
        "session": "a-lo****************",
    } == kinesis.shown_credentials(CREDENTIALS, 0)


def writer(template: str = "", *, in_payload: bool = True) -> aws_kinesis.Writer:
    merger = metadata.Merger({"team": "blue"}, milliseconds=False, clock_ns=lambda: 1_700_000_000 * 10**9)
    return aws_kinesis.Writer(merger if in_payload else None, templates.compiled(template))


def value_of(made: aws_kinesis.Writer, event: base.Delivery = EVENT) -> dict[str, Any]:
    entry = made.entry(event)
    assert not isinstance(entry, delivery.Failed)
    assert entry.size == len(entry.value["Data"]) + len(entry.value["PartitionKey"].encode())
    return entry.value


@pytest.mark.behaviour(130, 132)
def test_a_record_holds_the_data_byte_for_byte_and_all_metadata():
    told = {
        "event-id": "evt_1",
        "team": "blue",
        "tier": "gold",
        "timestamp": "2023-11-14T22:13:20Z",
        "topic": "order.created",
    }
    expected = b'{"data":' + DATA + b',"metadata":' + json.dumps(told, separators=(",", ":")).encode() + b"}"
    assert {"Data": expected, "PartitionKey": "evt_1"} == value_of(writer())


@pytest.mark.behaviour(132)
def test_without_metadata_in_the_payload_a_record_is_the_data_alone():
    assert {"Data": DATA, "PartitionKey": "evt_1"} == value_of(writer(in_payload=False))


@pytest.mark.behaviour(132)
@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("data.customer.id", "c<1>"),
        ("metadata.tier", "gold"),
        ("metadata.team", "blue"),
        ("data.n", "1.234567e+06"),
        ("data.b", "1"),
        ("data.n == `1234567`", "true"),
        ("data.missing", "evt_1"),
        ("''", "evt_1"),
        ("length(data.n)", "evt_1"),
    ],
)
def test_the_key_is_what_the_template_says_or_else_the_event_id(template: str, key: str):
    assert key == value_of(writer(template))["PartitionKey"]


@pytest.mark.behaviour(132)
def test_without_metadata_in_the_payload_the_template_looks_at_the_data():
    assert "c<1>" == value_of(writer("customer.id", in_payload=False))["PartitionKey"]
    assert "evt_1" == value_of(writer("metadata.tier", in_payload=False))["PartitionKey"]


def test_a_key_that_kinesis_does_not_take_fails_alone_and_says_why():
    long = base.Delivery("e" * 257, "t", EVENT.time, {}, b"{}", 1)
    told = "the partition key has 257 characters, and may have 256"
    assert codes.failed(codes.Code.MESSAGE_REFUSED, told) == writer().entry(long)


Answer = dict[str, Any] | aws_client.Refusal


class Service:
    """Stands in for a client: `answer` says what a record of that data gets, `whole` what a PutRecords gets."""

    def __init__(
        self,
        answer: Callable[[bytes], Answer] = lambda data: {
            "ShardId": "s-0",
            "SequenceNumber": data[-3:-2].decode(),
        },
        whole: Callable[[list[bytes]], Answer | None] = lambda data: None,
    ) -> None:
        self.calls: list[int] = []  # records of each call
        self._answer = answer
        self._whole = whole

    async def call(self, operation: str, parameters: dict[str, Any], deadline: float) -> Answer:
        assert "orders" == parameters["StreamName"]
        assert DEADLINE == deadline
        if operation == "put_record":
            self.calls.append(1)
            return self._answer(parameters["Data"])
        assert "put_records" == operation
        data = [record["Data"] for record in parameters["Records"]]
        self.calls.append(len(data))
        answered = self._whole(data)
        return {"Records": [self._answer(each) for each in data]} if answered is None else answered


def refusal(code: codes.Code, name: str = "") -> aws_client.Refusal:
    return aws_client.Refusal(codes.failed(code, f"({name}) refused"), request=code == codes.Code.ERR, name=name)


def publisher(service: Service) -> aws_kinesis.Publisher:
    client: Any = service
    return aws_kinesis.Publisher(client, writer(in_payload=False), "orders", ("very-secret",))


def events(*data: bytes) -> list[base.Delivery]:
    return [base.Delivery(f"e{n}", "t", EVENT.time, {}, each, 1) for n, each in enumerate(data)]


def numbered(count: int) -> list[base.Delivery]:
    return events(*(b'{"n":%d}' % (n % 10) for n in range(count)))


async def test_one_event_is_a_put_record_and_many_are_as_few_calls_as_may_be():
    service = Service()
    [outcome] = await publisher(service).send(numbered(1), DEADLINE)
    expected = {"shard_id": "s-0", "sequence_number": ":", "partition_key": "e0"}
    assert delivery.Delivered("OK", expected) == outcome
    outcomes = await publisher(service).send(numbered(1_003), DEADLINE)
    assert [f"e{n}" for n in range(1_003)] == [(o.response or {})["partition_key"] for o in outcomes]
    assert [1, 500, 500, 3] == service.calls


async def test_a_call_is_ten_mebibytes_at_most_and_one_record_may_fill_it():
    service = Service()
    most = aws_kinesis.LIMITS.bytes
    sizes = [most // 2, most // 2, most - 2, most - 1]  # each with a key of two bytes
    outcomes = await publisher(service).send(events(*(b"x" * size for size in sizes)), DEADLINE)
    assert ["OK", "OK", "OK", "message_too_large"] == [outcome.code for outcome in outcomes]
    assert [1, 1, 1] == service.calls


async def test_each_record_of_a_call_has_an_outcome_of_its_own():
    told = {
        b"1": {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "Rate exceeded very-secret"},
        b"2": {"ErrorCode": "InternalFailure", "ErrorMessage": "Internal Service Failure"},
        b"3": {"ShardId": "s-1", "SequenceNumber": "7"},
    }
    outcomes = await publisher(Service(lambda data: told[data])).send(events(b"1", b"2", b"3"), DEADLINE)
    assert [
        codes.failed(codes.Code.THROTTLED, "ProvisionedThroughputExceededException: Rate exceeded ***"),
        codes.failed(codes.Code.ERR, "InternalFailure: Internal Service Failure"),
        delivery.Delivered("OK", {"shard_id": "s-1", "sequence_number": "7", "partition_key": "e2"}),
    ] == outcomes


@pytest.mark.parametrize("told", [{}, {"ShardId": "s-1"}, {"ShardId": "s-1", "SequenceNumber": ""}])
@pytest.mark.parametrize("count", [1, 2])
async def test_a_record_without_a_sequence_number_is_not_delivered(told: dict[str, str], count: int):
    outcomes = await publisher(Service(lambda data: told)).send(numbered(count), DEADLINE)
    expected = codes.failed(codes.Code.ERR, "the service gave the record no sequence number")
    assert [expected] * count == outcomes


async def test_an_answer_for_another_number_of_records_is_no_success():
    short = Service(whole=lambda data: {"Records": [{"ShardId": "s-0", "SequenceNumber": "1"}]})
    outcomes = await publisher(short).send(numbered(2), DEADLINE)
    assert [codes.failed(codes.Code.ERR, "the service answered for 1 of 2 records")] * 2 == outcomes


async def test_a_record_for_which_a_whole_call_is_refused_fails_alone():
    large = b"x" * (aws_kinesis.USUAL_RECORD_BYTES + 1)
    invalid = refusal(codes.Code.ERR, "ValidationException")
    service = Service(
        lambda data: invalid if data == large else {"ShardId": "s-0", "SequenceNumber": "1"},
        lambda data: invalid if large in data else None,
    )
    outcomes = await publisher(service).send(events(b"1", b"2", b"3", large), DEADLINE)
    assert ["OK", "OK", "OK", "message_too_large"] == [outcome.code for outcome in outcomes]
    assert codes.failed(codes.Code.MESSAGE_TOO_LARGE, "(ValidationException) refused") == outcomes[3]


async def test_what_is_no_fault_of_a_record_is_not_asked_again_for_each():
    service = Service(whole=lambda data: refusal(codes.Code.ERR, "KMSDisabledException"))
    outcomes = await publisher(service).send(numbered(8), DEADLINE)
    assert ["ERR"] * 8 == [outcome.code for outcome in outcomes]
    assert [8] == service.calls


async def test_a_small_record_that_is_refused_is_not_too_large():
    service = Service(lambda data: refusal(codes.Code.ERR, "InvalidArgumentException"))
    [outcome] = await publisher(service).send(numbered(1), DEADLINE)
    assert "ERR" == outcome.code


async def test_a_key_that_may_only_put_single_records_puts_them_one_by_one_from_then_on():
    denied = refusal(codes.Code.ACCESS_DENIED, "AccessDeniedException")
    service = Service(whole=lambda data: denied)
    single = publisher(service)
    assert 500 == single.max_batch
    assert ["OK"] * 4 == [outcome.code for outcome in await single.send(numbered(4), DEADLINE)]
    assert [4, 1, 1, 1, 1] == service.calls
    assert 1 == single.max_batch
    assert ["OK"] * 3 == [outcome.code for outcome in await single.send(numbered(3), DEADLINE)]
    assert [4, *[1] * 7] == service.calls


async def test_a_key_that_may_put_nothing_is_asked_no_more_than_twice():
    denied = refusal(codes.Code.ACCESS_DENIED, "AccessDeniedException")
    service = Service(lambda data: denied, lambda data: denied)
    batch = publisher(service)
    assert ["access_denied"] * 4 == [outcome.code for outcome in await batch.send(numbered(4), DEADLINE)]
    assert [4, 1] == service.calls
    assert 500 == batch.max_batch
