"""Fuzzing by structure: whatever a service says that looks like its protocol, the attempt ends with an outcome.

Each example is what one false service answers: true answers of the protocol with pieces replaced, repeated, cut
and announced at another length. Examples that once found a fault are kept as `example`.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from outpost import settings as settings_
from outpost.adapters import base, registry
from outpost.domain import delivery
from tests.hostile.attackers import brokers, brokers_kafka, brokers_pubsub, brokers_rabbitmq, brokers_servicebus

LIMIT_S = 0.3  # of one attempt; a service that falls silent takes all of it
ENDS_S = 60.0
fuzzed = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])

NUMBERS = st.one_of(
    st.integers(0, 300), st.sampled_from([2**15 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1]), st.just(0xCE)
)


def attempt(type_: str, behaviour: brokers.Behaviour) -> delivery.Outcome:
    """What becomes of one event that is sent to a service that behaves so."""

    async def sent() -> delivery.Outcome:
        types = registry.build(settings_.Settings(destinations_allowed_cidrs=("127.0.0.0/8",)))
        adapter = types.get(type_)
        assert adapter is not None
        service = brokers.FalseService(type_, "fuzzed", "", behaviour)
        try:
            async with asyncio.timeout(ENDS_S), service.opened() as ((config, credentials), _):
                prepared = adapter.prepare(base.Save(config, credentials, None, credentials, True, 0))
                opened = base.OpenDestination("t", "d", type_, prepared.config, prepared.credentials, {}, ("*",))
                publisher = await adapter.connect(opened)
                event = base.Delivery("evt-1", "topic", "2026-01-02T03:04:05Z", {}, b'{"n":1}', 1)
                try:
                    [outcome] = await publisher.send([event], asyncio.get_running_loop().time() + LIMIT_S)
                finally:
                    await publisher.close()
                left = [task.get_coro() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
                assert [] == [each for each in left if "outpost" in repr(each)]
                return outcome
        finally:
            await types.close()

    return asyncio.run(sent())


def check(type_: str, behaviour: brokers.Behaviour) -> None:
    """An outcome with a code, and with a bounded text."""
    outcome = attempt(type_, behaviour)
    assert outcome.code
    assert len(str(outcome.response)) < 2_000


def mutated(frames: list[bytes]) -> st.SearchStrategy[list[bytes]]:
    """The frames with some of them left out, doubled, put elsewhere, cut or changed in one place."""

    def changed(draw: Callable[[st.SearchStrategy[int]], int], told: bytes) -> bytes:
        kind, at = draw(st.integers(0, 3)), draw(st.integers(0, max(len(told) - 1, 0)))
        if kind == 0:
            return told[:at]
        if kind == 1:
            return told[:at] + bytes([draw(st.integers(0, 255))]) + told[at + 1 :]
        if kind == 2:
            return told[:at] + struct.pack(">I", draw(NUMBERS) % 2**32) + told[at + 4 :]
        return told

    @st.composite
    def drawn(draw: Callable[[st.SearchStrategy[object]], object]) -> list[bytes]:
        order = draw(st.lists(st.integers(0, len(frames) - 1), max_size=2 * len(frames)))
        assert isinstance(order, list)
        return [changed(draw, frames[number]) for number in order]  # type: ignore[arg-type]

    return drawn()


RABBIT_FRAMES = [
    brokers_rabbitmq.CONFIRM,
    brokers_rabbitmq.RETURNED,
    brokers_rabbitmq.content_header(7),
    brokers_rabbitmq.frame(brokers_rabbitmq.BODY, 1, b'{"n":1}'),
    brokers_rabbitmq.BEAT,
    brokers_rabbitmq.UNASKED,
]


@fuzzed
@given(mutated(RABBIT_FRAMES))
def test_rabbitmq_after_the_message(frames: list[bytes]):
    check("rabbitmq", brokers_rabbitmq.after_publish(*frames))


@fuzzed
@given(mutated([brokers_rabbitmq.start(), brokers_rabbitmq.BEAT, brokers_rabbitmq.CONFIRM]))
@example([brokers_rabbitmq.TABLES_IN_TABLES])
def test_rabbitmq_while_logging_in(frames: list[bytes]):
    check("rabbitmq", brokers.says(*frames))


@fuzzed
@given(st.binary(max_size=200), NUMBERS)
def test_rabbitmq_frames_of_any_size(payload: bytes, length: int):
    frame = brokers_rabbitmq.frame(brokers_rabbitmq.METHOD, 1, payload, length % 2**32)
    check("rabbitmq", brokers_rabbitmq.after_publish(frame))


BUS_FRAMES = [
    brokers_servicebus.OPENED,
    brokers_servicebus.BEGUN,
    brokers_servicebus.ANOTHER,
    brokers_servicebus.MORE,
]


@fuzzed
@given(mutated(BUS_FRAMES))
@example(
    [
        brokers_servicebus.frame(
            brokers_servicebus.performative(brokers_servicebus.OPEN, *brokers_servicebus.ARRAYS)
        )
    ]
)
def test_service_bus_after_the_login(frames: list[bytes]):
    check("azure_servicebus", brokers_servicebus.after_login(*frames))


@fuzzed
@given(mutated([brokers_servicebus.SASL_HEADER, brokers_servicebus.MECHANISMS, brokers_servicebus.OUTCOME]))
def test_service_bus_while_logging_in(frames: list[bytes]):
    check("azure_servicebus", brokers.says(*frames))


VALUES = st.recursive(
    st.sampled_from([b"\x40", b"\x41", b"\x43", b"\x50\x01", b"\xa1\x01a", b"\xb0\x00\x00\x00\x01x", b"\x45"]),
    lambda inner: (
        st.builds(
            lambda values, count: brokers_servicebus.listed(b"".join(values), count),
            st.lists(inner, max_size=4),
            NUMBERS,
        )
        | st.builds(lambda value, count: brokers_servicebus.array(value, count), inner, NUMBERS)
    ),
    max_leaves=12,
)


@fuzzed
@given(st.lists(VALUES, max_size=12), NUMBERS)
def test_service_bus_values_of_any_announced_size(values: list[bytes], count: int):
    body = brokers_servicebus.performative(brokers_servicebus.OPEN, b"".join(values), count)
    check("azure_servicebus", brokers_servicebus.after_login(brokers_servicebus.frame(body)))


def _cut(told: bytes, at: int, number: int) -> bytes:
    """`told` with four of its bytes replaced, or cut off there if nothing is left."""
    at %= len(told)
    return told[:at] + struct.pack(">I", number % 2**32) + told[at + 4 :]


@fuzzed
@given(st.integers(0, 500), NUMBERS, st.sampled_from(["view", "produce", "versions"]), st.booleans())
def test_kafka_answers_with_another_number_somewhere(at: int, number: int, where: str, short: bool):
    true = {
        "view": brokers_kafka.metadata(1, brokers_kafka.PARTITION * 3, 3),
        "produce": brokers_kafka.produced(0, 0),
        "versions": brokers_kafka.SUPPORTED + brokers_kafka.NOTHING,
    }[where]
    answer = true[: at % len(true)] if short else _cut(true, at, number)
    check("kafka", brokers_kafka.broker(**{where: answer}))  # type: ignore[arg-type]


@fuzzed
@given(st.binary(max_size=300), NUMBERS)
def test_kafka_answers_of_any_bytes(answer: bytes, length: int):
    check("kafka", brokers_kafka.broker(view=answer, length=length % 2**31))


@fuzzed
@given(st.binary(max_size=300), st.binary(max_size=60), st.binary(max_size=60))
@example(b"\x00", b"", b"")  # what cannot be read is None for grpc, and no error
def test_pubsub_answers_of_any_message_and_headers(body: bytes, head: bytes, end: bytes):
    field = brokers_pubsub.field
    behaviour = brokers_pubsub.answering(
        brokers_pubsub.message(body),
        head=brokers_pubsub.HEAD + field(b"x-head", head),
        end=field(b"grpc-status", b"0") + field(b"grpc-message", end),
    )
    check("gcp_pubsub", behaviour)


AWS_NAMES = ["Successful", "Failed", "Id", "MessageId", "Records", "SequenceNumber", "Entries", "EventId"]
AWS_NAMES += ["ErrorCode", "Code", "Message", "__type"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(AWS_NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@pytest.mark.parametrize("type_", ["aws_sqs", "aws_kinesis", "aws_eventbridge", "aws_s3"])
@fuzzed
@given(answer=JSON, status=st.sampled_from([200, 301, 400, 500]), cut=st.integers(0, 40))
@example(answer={"Successful": [None], "Failed": [1]}, status=200, cut=0)
@example(answer={"Successful": {"Id": "0"}, "Entries": [None], "Records": [None]}, status=200, cut=0)
def test_aws_answers_of_any_shape(type_: str, answer: object, status: int, cut: int):
    body = json.dumps(answer).encode()
    body = body[: len(body) - cut] if cut < len(body) else body
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    check(type_, brokers.says(head + body))


@fuzzed
@given(
    st.lists(
        st.sampled_from([b"<a>", b"</a>", b"<Code>", b"E", b"&lt;", b"&x;", b"<!--", b"<?", b"\xff"]), max_size=30
    )
)
def test_s3_errors_of_any_xml(parts: list[bytes]):
    body = b"<Error>" + b"".join(parts) + b"</Error>"
    check("aws_s3", brokers.says(b"HTTP/1.1 400 X\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)))
