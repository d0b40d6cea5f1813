"""The Kafka type without a broker: what may be saved, what it is called, where a key belongs."""

from __future__ import annotations

import asyncio
import errno
import ssl
import sys
from typing import Any

import pytest
from aiokafka import errors as theirs

from outpost import settings as settings_
from outpost.adapters import base, codes, extras
from outpost.adapters.kafka import batch as kafka_batch
from outpost.adapters.kafka import errors as kafka_errors
from outpost.adapters.kafka import partition as kafka_partition
from outpost.adapters.kafka import partitioners
from outpost.adapters.kafka import type as kafka
from outpost.adapters.shared import resources as shared_
from outpost.errors import Invalid

CONFIG = {"brokers": "one:9092", "topic": "orders", "sasl_mechanism": "plain"}
CREDENTIALS = {"username": "outpost", "password": "secret-of-kafka"}


@pytest.fixture
def adapter() -> kafka.Kafka:
    return kafka.build(shared_.Shared(settings_.Settings()))


def saved(
    adapter: kafka.Kafka, config: dict[str, str] | None = None, credentials: dict[str, str] | None = None
) -> base.Prepared:
    credentials = CREDENTIALS if credentials is None else credentials
    return adapter.prepare(base.Save({**CONFIG, **(config or {})}, credentials, None, credentials, True, 0))


def problems(
    adapter: kafka.Kafka, config: dict[str, str] | None = None, credentials: dict[str, str] | None = None
) -> set[tuple[str, str]]:
    return {(each.path, each.rule) for each in saved(adapter, config, credentials).problems}


def opened(config: dict[str, str], **more: Any) -> base.OpenDestination:
    return base.OpenDestination("t", "d", "kafka", {**CONFIG, **config}, CREDENTIALS, {}, **more)


@pytest.mark.behaviour(130, 135)
def test_every_problem_is_told_at_once(adapter: kafka.Kafka):
    assert {
        ("config.brokers", "required"),
        ("config.topic", "required"),
        ("config.sasl_mechanism", "required"),
        ("config.tls", "invalid"),
        ("config.partition_key_template", "pattern"),
        ("credentials.username", "required"),
        ("credentials.password", "required"),
    } == problems(
        adapter,
        {"brokers": " , ", "topic": "", "sasl_mechanism": "", "tls": "yes", "partition_key_template": "data.["},
        {},
    )


@pytest.mark.behaviour(135)
@pytest.mark.parametrize("mechanism", ["plain", "scram-sha-256", "scram-sha-512"])
def test_a_mechanism_wants_a_login(adapter: kafka.Kafka, mechanism: str):
    assert set() == problems(adapter, {"sasl_mechanism": mechanism})
    assert {("credentials.password", "required")} == problems(
        adapter, {"sasl_mechanism": mechanism}, {"username": "outpost"}
    )


def test_without_a_mechanism_nobody_logs_in(adapter: kafka.Kafka):
    assert set() == problems(adapter, {"sasl_mechanism": "none"}, {})


@pytest.mark.behaviour(135)
@pytest.mark.parametrize("mechanism", ["gssapi", "PLAIN", "scram-sha-1"])
def test_other_mechanisms_are_invalid(adapter: kafka.Kafka, mechanism: str):
    assert {("config.sasl_mechanism", "invalid")} == problems(adapter, {"sasl_mechanism": mechanism})


@pytest.mark.behaviour(135)
@pytest.mark.parametrize(
    ("sent", "stored"), [("on", "true"), ("true", "true"), ("false", "false"), ("", "false"), (None, "false")]
)
def test_tls_is_stored_as_true_or_false(adapter: kafka.Kafka, sent: str | None, stored: str):
    assert stored == saved(adapter, {} if sent is None else {"tls": sent}).config["tls"]


@pytest.mark.behaviour(135)
def test_brokers_are_stored_without_blanks(adapter: kafka.Kafka):
    assert "one:9092,two" == saved(adapter, {"brokers": " one:9092 ,, two "}).config["brokers"]


@pytest.mark.parametrize(
    "brokers", ["one", "one:1", "one:65535", "10.0.0.1:9092", "[2001:db8::1]:9092", "2001:db8::1", "a_b.c-d"]
)
def test_a_broker_is_a_host_with_or_without_a_port(adapter: kafka.Kafka, brokers: str):
    assert set() == problems(adapter, {"brokers": brokers})


@pytest.mark.parametrize(
    "brokers",
    [
        "one:",
        "one:0",
        "one:65536",
        "one:port",
        ":9092",
        "kafka://one:9092",
        "user@one",
        "one two",
        "one,[::1",
        "a/b",
    ],
)
def test_what_is_no_broker_is_refused(adapter: kafka.Kafka, brokers: str):
    assert {("config.brokers", "pattern")} == problems(adapter, {"brokers": brokers})


@pytest.mark.behaviour(135)
def test_the_target_is_the_first_broker_and_the_topic(adapter: kafka.Kafka):
    assert ("one:9092 / orders", None) == adapter.target(opened({"brokers": "one:9092,two:9092"}))


@pytest.mark.behaviour(135)
def test_only_the_password_is_masked(adapter: kafka.Kafka):
    assert {"username": "outpost", "password": "secr***********"} == adapter.shown_credentials(CREDENTIALS, 0)


def test_a_new_password_is_a_rotation(adapter: kafka.Kafka):
    changed = {**CREDENTIALS, "password": "another"}
    save = base.Save(CONFIG, changed, opened({}), changed, True, 0)
    assert adapter.prepare(save).rotated


async def test_what_is_stored_and_cannot_be_used_is_invalid(adapter: kafka.Kafka):
    with pytest.raises(Invalid):
        await adapter.connect(opened({"brokers": ",", "tls": "perhaps"}))


def test_the_library_is_needed_for_a_connection_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(extras, "missing", lambda *_: "install it")
    assert "install it" == kafka.build(shared_.Shared(settings_.Settings())).description.unavailable
    assert "aiokafka" not in vars(sys.modules["outpost.adapters.kafka.type"])


@pytest.mark.parametrize(
    ("key", "count", "partition"), [(b"blah", 2, 0), (b"blah", 3, 1), (b"boop", 3, 2), (b"", 10, 5)]
)
def test_a_key_belongs_where_the_published_outpost_puts_it(key: bytes, count: int, partition: int):
    """The table of kafka-go's own test of its `Hash`."""
    assert partition == partitioners.BY_NAME["fnv1a"](key, count)


@pytest.mark.case(38)
@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
        ("", 275646681),
        ("é", 186971271),
        ("日本語", 1431860170),
        ("tenant-1", 374640331),
        ("x" * 1000, -1068453602),
    ],
)
def test_a_key_belongs_where_javas_producer_puts_it(key: str, hashed: int):
    """What `Utils.murmur2` of kafka-clients 4.1.0 says of each; the first six are of its own tests."""
    for count in (1, 2, 6, 12, 10_000):
        assert (hashed & 0x7FFF_FFFF) % count == partitioners.BY_NAME["murmur2"](key.encode(), count)


@pytest.mark.case(38)
def test_the_two_partitioners_tell_the_letters_apart():
    letters = [bytes([letter]) for letter in b"abcdefghijklmnopqrstuvwxyz"]
    java = [partitioners.BY_NAME["murmur2"](letter, 6) for letter in letters]
    assert [int(each) for each in "42452331222423523351350402"] == java  # of kafka-clients 4.1.0
    assert java != [partitioners.BY_NAME["fnv1a"](letter, 6) for letter in letters]


@pytest.mark.case(38)
@pytest.mark.parametrize("named", ["fnv1a", "murmur2", ""])
def test_a_partitioner_is_one_of_two(adapter: kafka.Kafka, named: str):
    assert set() == problems(adapter, {"partitioner": named})
    assert tuple(partitioners.BY_NAME) == kafka.PARTITIONERS
    [field] = [each for each in adapter.description.config_fields if each.key == "partitioner"]
    assert list(kafka.PARTITIONERS) == [option["value"] for option in field.options or []]
    assert kafka.PARTITIONERS[0] == field.default


@pytest.mark.case(38)
@pytest.mark.parametrize("named", ["Murmur2", "crc32", "fnv", " murmur2"])
def test_another_partitioner_is_invalid(adapter: kafka.Kafka, named: str):
    assert {("config.partitioner", "invalid")} == problems(adapter, {"partitioner": named})


@pytest.mark.case(39)
def test_tls_is_shown_as_it_is_stored_where_it_is_left_out(adapter: kafka.Kafka):
    [field] = [each for each in adapter.description.config_fields if each.key == "tls"]
    assert field.default == saved(adapter, {}).config["tls"] == "false"


@pytest.mark.behaviour(135)
@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (3, "topic_not_found", "UNKNOWN_TOPIC_OR_PARTITION (3)"),
        (10, "message_too_large", "MESSAGE_SIZE_TOO_LARGE (10)"),
        (29, "access_denied", "TOPIC_AUTHORIZATION_FAILED (29)"),
        (58, "auth_failed", "SASL_AUTHENTICATION_FAILED (58)"),
        (89, "throttled", "THROTTLING_QUOTA_EXCEEDED (89)"),
        (87, "kafka_error", "INVALID_RECORD (87)"),
        (1234, "kafka_error", "error (1234)"),
    ],
)
def test_a_number_of_kafka_has_a_code_and_a_text(number: int, code: str, text: str):
    failure = kafka_errors.answered(number)
    assert (code, text, number) == (failure.code, failure.text, failure.number)


@pytest.mark.parametrize(
    ("met", "code"),
    [
        (theirs.KafkaConnectionError("closed"), "connection_reset"),
        (RuntimeError("unable to perform operation; the handler is closed"), "connection_reset"),
        (asyncio.IncompleteReadError(b"", 4), "connection_reset"),
        (TimeoutError(), "timeout"),
        (OSError(errno.ENETUNREACH, "no way"), "network_unreachable"),
        (OSError(errno.EMFILE, "too many"), "network_error"),
        (theirs.NodeNotReadyError("no"), "kafka_error"),
        (ValueError("what the broker said: secret"), "kafka_error"),
    ],
)
def test_what_is_met_at_a_broker_has_a_code_and_names_it(met: Exception, code: str):
    failure = kafka_errors.met(met, "one:9092")
    assert code == failure.code
    assert "one:9092" in failure.text
    assert "secret" not in failure.text


def test_a_closed_connection_is_told_by_what_closed_it():
    closed = theirs.KafkaConnectionError("closed")
    closed.__cause__ = ssl.SSLError(1, "certificate required")
    assert "tls_error" == kafka_errors.met(closed, "one:9092").code


def test_of_several_failures_the_one_of_a_broker_that_answered_counts():
    refused = kafka_errors.Failure(codes.Code.CONNECTION_REFUSED, "one")
    blocked = kafka_errors.Failure(codes.Code.BLOCKED_ADDRESS, "two")
    denied = kafka_errors.Failure(codes.Code.AUTH_FAILED, "three")
    assert denied is kafka_errors.most_telling([refused, denied, blocked])
    assert refused is kafka_errors.most_telling([blocked, refused])


def kafka_event(id_: str, size: int = 10) -> Any:
    return kafka_batch.Event(id_, b"key", b"x" * size, [], 0.0)


def in_doubt(unsettled: Any, partition: Any, *events: Any) -> list[Any]:
    """The batches that are given up when a batch of these events is in doubt."""
    partition.waiting.extend(events)
    batch = partition.taken((7, 0))
    unsettled.sent(partition, batch)
    given_up: list[Any] = unsettled.doubt(partition, batch)
    for event in events:
        event.done.cancel()
    return given_up


async def test_a_batch_in_doubt_goes_out_again_as_it_was_before_anything_else():
    partition, unsettled = kafka_partition.Partition(3), kafka_partition.Unsettled()
    partition.waiting.extend([kafka_event("a"), kafka_event("b")])
    first = partition.taken((7, 0))
    assert first is not None
    partition.written(first)
    assert [] == in_doubt(unsettled, partition, kafka_event("c"))
    partition.waiting.append(kafka_event("d"))
    doubted = partition.taken((7, 0))
    assert doubted is not None
    assert doubted is partition.taken((8, 0))
    assert (2, ["c"]) == (doubted.sequence, [event.id for event in doubted.events])
    assert unsettled.attach(kafka_event("x")) is None
    again = kafka_event("c")
    assert unsettled.attach(again) is partition
    assert unsettled.attach(kafka_event("c")) is None, "an attempt waits for it already"
    assert (True, [again]) == (partition.wanted, doubted.events)
    partition.written(doubted)
    unsettled.settle(partition, doubted, written=True)
    assert not unsettled.was_written("c"), "whoever waits hears it"
    following = partition.taken((7, 0))
    assert following is not None
    assert (3, ["d"]) == (following.sequence, [event.id for event in following.events])
    assert ((8, 0), 0) == (renewed(partition).producer, renewed(partition).sequence)


def renewed(partition: Any) -> Any:
    """A batch of one event under another producer number."""
    partition.waiting.append(kafka_event("e"))
    return partition.taken((8, 0))


async def test_what_is_written_after_its_attempt_ended_is_told_once_to_the_next_one():
    partition, unsettled = kafka_partition.Partition(0), kafka_partition.Unsettled()
    in_doubt(unsettled, partition, kafka_event("a"), kafka_event("b"))
    assert not unsettled.was_written("a")
    batch = partition.doubt
    assert batch is not None
    unsettled.settle(partition, batch, written=True)
    assert [True, False, True] == [unsettled.was_written(id_) for id_ in ("a", "a", "b")]
    assert partition.doubt is None
    assert 0 == unsettled._bytes


async def test_batches_in_doubt_have_a_bound_and_the_oldest_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kafka_partition, "MAX_DOUBT_BYTES", 3_000)
    unsettled = kafka_partition.Unsettled()
    partitions = [kafka_partition.Partition(number) for number in range(4)]
    given_up = [in_doubt(unsettled, each, kafka_event(f"e{each.number}", 1_200)) for each in partitions]
    assert [[], [], ["e0"], ["e1"]] == [[e.id for b in some for e in b.events] for some in given_up]
    assert [None, None] == [each.doubt for each in partitions[:2]]
    assert unsettled._bytes <= 3_000
    assert {"e2", "e3"} == set(unsettled._events)


async def test_an_attempt_that_comes_before_the_answer_to_the_last_one_waits_for_that():
    partition, unsettled = kafka_partition.Partition(0), kafka_partition.Unsettled()
    first = kafka_event("a")
    partition.waiting.append(first)
    batch = partition.taken((7, 0))
    assert batch is not None
    unsettled.sent(partition, batch)
    assert unsettled.attach(kafka_event("a")) is None
    first.done.cancel()
    again = kafka_event("a")
    assert unsettled.attach(again) is partition
    assert [again] == batch.events
    unsettled.settle(partition, batch, written=True)
    assert not unsettled.was_written("a")
    assert {} == unsettled._events


async def test_what_is_remembered_as_written_has_a_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kafka_partition, "MAX_WRITTEN", 2)
    partition, unsettled = kafka_partition.Partition(0), kafka_partition.Unsettled()
    in_doubt(unsettled, partition, *(kafka_event(id_) for id_ in "abc"))
    assert partition.doubt is not None
    unsettled.settle(partition, partition.doubt, written=True)
    assert [False, True, True] == [unsettled.was_written(id_) for id_ in "abc"]
