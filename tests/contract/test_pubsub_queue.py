"""Pub/Sub as a queue beyond the suite of all brokers: what is made, dead letters, and whose credentials it
uses."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google.auth.compute_engine import _metadata

from outpost.adapters.gcp import channels, default_tokens
from outpost.queue import broker, pubsub, pubsub_connection
from tests.harness import receiver
from tests.harness.destinations import pubsub as destinations
from tests.harness.destinations import pubsub_server
from tests.harness.polling import eventually, free_port
from tests.harness.queues.pubsub import World

types = pubsub_server.pubsub
PUBLISH = {"dead_letter_topic": "", "dead_letter_subscription": "", "prefix": "PUBLISH_GCP_PUBSUB_"}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as made:
        yield made


@pytest.fixture
async def opened(world: World) -> AsyncIterator[pubsub.PubSubBroker]:
    made = world.broker()
    assert [] == await made.prepare(True)
    yield made
    await made.close()


async def received(source: broker.Broker, count: int) -> list[broker.Received]:
    found: list[broker.Received] = []

    async def more() -> bool:
        found.extend(await source.receive(count - len(found), 1.0))
        return len(found) >= count

    await eventually(more)
    return found


async def told(made: pubsub.PubSubBroker, provision: bool = False) -> list[str]:
    try:
        return await made.prepare(provision)
    finally:
        await made.close()


async def test_what_is_made_is_as_published(world: World, opened: pubsub.PubSubBroker) -> None:
    live = world.server.subscriptions.get(world.subscription).made
    dead = world.server.subscriptions.get(world.path("subscriptions", f"{world.topic}-dlq-sub")).made
    letters = world.path("topics", f"{world.topic}-dlq")
    assert (world.path("topics", world.topic), 60) == (live.topic, live.ack_deadline_seconds)
    assert (letters, 6) == (
        live.dead_letter_policy.dead_letter_topic,
        live.dead_letter_policy.max_delivery_attempts,
    )
    retry = live.retry_policy
    assert (dt.timedelta(seconds=10), dt.timedelta(seconds=120)) == (retry.minimum_backoff, retry.maximum_backoff)
    assert letters == dead.topic
    for each in (live, dead):
        assert "expiration_policy" in each  # without a time to live: never
        assert not each.expiration_policy.ttl


async def test_a_subscription_that_is_there_stays_as_it_is_and_says_how_long_its_lock_is(world: World) -> None:
    first = world.broker()
    assert [] == await told(first, True)
    world.server.subscriptions.get(world.subscription).made.ack_deadline_seconds = 25
    made = world.broker()
    assert [] == await made.prepare(True)
    assert 25 == made.limits.lock_s
    assert 25 == world.server.subscriptions.get(world.subscription).made.ack_deadline_seconds
    await made.close()


@pytest.mark.parametrize(
    ("letters", "variables"),
    [
        (
            True,
            [
                "GCP_PUBSUB_DELIVERY_TOPIC",
                "GCP_PUBSUB_DELIVERY_SUBSCRIPTION",
                "GCP_PUBSUB_DELIVERY_DLQ_TOPIC",
                "GCP_PUBSUB_DELIVERY_DLQ_SUBSCRIPTION",
            ],
        ),
        (False, ["PUBLISH_GCP_PUBSUB_TOPIC", "PUBLISH_GCP_PUBSUB_SUBSCRIPTION"]),
    ],
)
async def test_what_is_missing_is_named_with_its_variable(
    world: World, letters: bool, variables: list[str]
) -> None:
    changes = {} if letters else PUBLISH
    problems = await told(pubsub.open_broker(world.named(**changes)))
    assert variables == [problem.split()[-2] for problem in problems]


async def test_a_source_needs_no_topic(world: World, opened: pubsub.PubSubBroker) -> None:
    changes = {"topic": "", "dead_letter_topic": "", "dead_letter_subscription": ""}
    assert [] == await told(pubsub.open_broker(world.named(**changes)))


@pytest.mark.parametrize("provision", [True, False])
async def test_an_account_that_may_do_nothing_is_a_problem_at_the_start(world: World, provision: bool) -> None:
    world.server.owners = set()
    [problem] = await told(world.broker(), provision)
    assert problem.startswith("Pub/Sub: access_denied: ")


async def test_an_account_that_may_look_but_not_consume_is_told_when_it_does(
    world: World, opened: pubsub.PubSubBroker
) -> None:
    world.server.subscriptions.get(world.subscription).consumers.clear()
    with pytest.raises(broker.BrokerError, match="access_denied"):
        await received(opened, 1)


async def test_a_subscription_of_another_topic_is_refused(world: World, opened: pubsub.PubSubBroker) -> None:
    world.server.topics[world.path("topics", "another")] = pubsub_server.Topic({world.account.email})
    [problem] = await told(pubsub.open_broker(world.named(topic="another")))
    assert "GCP_PUBSUB_DELIVERY_SUBSCRIPTION" in problem


async def test_a_throttled_service_is_an_error_until_it_takes_calls_again(
    world: World, opened: pubsub.PubSubBroker
) -> None:
    world.server.answer = ("RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Publisher throughput'.")
    with pytest.raises(broker.BrokerError, match="throttled: Quota"):
        await opened.send([b"x"])
    with pytest.raises(broker.BrokerError, match="throttled: Quota"):
        await received(opened, 1)
    with pytest.raises(broker.BrokerError, match="throttled: Quota"):
        await opened.prepare(True)
    world.server.answer = None
    assert [True] == await opened.send([b"y"])
    assert [b"y"] == [each.body for each in await received(opened, 1)]


async def test_a_part_of_what_is_sent_may_fail(world: World, opened: pubsub.PubSubBroker) -> None:
    bodies = [b"a" * 6_000_000, b"b" * 6_000_000, b"c"]
    world.server.refused = b"c"
    assert [True, False, False] == await opened.send(bodies)
    world.server.refused = None
    assert [bodies[0]] == [each.body for each in await received(opened, 1)]


async def test_a_subscription_that_was_deleted_is_made_again(world: World, opened: pubsub.PubSubBroker) -> None:
    await opened.receive(1, 0.1)  # two calls wait there
    asked = types.DeleteSubscriptionRequest(subscription=world.subscription)
    await world.server.subscriptions._delete(asked, None, "")
    with pytest.raises(broker.BrokerError, match="target_not_found"):
        await received(opened, 1)
    await opened.close()
    assert [] == await opened.prepare(True)
    assert [True] == await opened.send([b"x"])
    assert [b"x"] == [each.body for each in await received(opened, 1)]


async def test_a_topic_that_was_deleted_is_made_again_once_its_subscription_is_gone_too(
    world: World, opened: pubsub.PubSubBroker
) -> None:
    server = world.server.subscriptions
    await server._delete_topic(types.DeleteTopicRequest(topic=world.path("topics", world.topic)), None, "")
    with pytest.raises(broker.BrokerError, match="target_not_found"):
        await opened.send([b"lost"])
    with pytest.raises(broker.BrokerError, match="target_not_found"):
        await opened.receive(1, 0.1)
    await opened.close()
    [problem] = await opened.prepare(True)
    assert "delete the subscription too" in problem
    await server._delete(types.DeleteSubscriptionRequest(subscription=world.subscription), None, "")
    await opened.close()
    assert [] == await opened.prepare(True)
    assert [True] == await opened.send([b"x"])
    assert [b"x"] == [each.body for each in await received(opened, 1)]


async def test_what_is_never_acknowledged_becomes_a_dead_letter(world: World, opened: pubsub.PubSubBroker) -> None:
    await opened.send([b"x"])
    deliveries = []
    for _ in range(6):
        [found] = await received(opened, 1)
        deliveries.append(found.deliveries)
        world.server.subscriptions.end_deadlines(world.subscription)
    assert [1, 2, 3, 4, 5, 6] == deliveries

    async def letters() -> list[tuple[bytes, str]]:
        assert [] == await opened.receive(1, 0.1)
        return await world.dead_letters()

    assert [(b"x", "")] == await eventually(letters)


async def test_without_a_dead_letter_policy_nothing_is_buried(world: World) -> None:
    made = world.broker()
    assert [] == await told(made, True)
    del world.server.subscriptions.get(world.subscription).made.dead_letter_policy
    assert [] == await made.prepare(False)
    await world.put([b"bad"])
    [found] = await received(made, 1)
    assert not await made.bury(found, "a reason")
    await made.give_back([found.receipt], broker.LONGEST_DELAY_S)
    assert [] == await made.receive(1, 0.2)
    await made.close()


async def test_a_dead_letter_keeps_its_attributes_and_a_reason_of_any_length(
    world: World, opened: pubsub.PubSubBroker
) -> None:
    message = types.PubsubMessage(data=b"bad", attributes={f"a{n}": "v" for n in range(100)})
    world.server.subscriptions.publish(world.path("topics", world.topic), [message], ["m-1"])
    [found] = await received(opened, 1)
    assert await opened.bury(found, "ü" * 2_000)
    [letter] = world.server.topics[world.path("topics", f"{world.topic}-dlq")].messages
    assert 100 == len(letter.attributes)
    assert letter.attributes["outpost-reason"].startswith("üü")


async def test_thousands_are_acknowledged_in_calls_of_a_thousand(
    world: World, opened: pubsub.PubSubBroker
) -> None:
    world.server.subscriptions.calls.clear()
    await opened.acknowledge([f"gone-{n}" for n in range(2_500)])
    assert ["Acknowledge"] * 3 == world.server.subscriptions.calls


async def test_what_is_too_much_for_one_answer_comes_in_several(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pubsub_connection, "MAX_ANSWER_BYTES", 300_000)
    made = world.broker()
    assert [] == await made.prepare(True)
    world.server.subscriptions.forwards = False
    bodies = [b"%d" % n * 90_000 for n in range(10)]
    assert [True] * 10 == await made.send(bodies)
    found: set[bytes] = set()

    async def all_there() -> bool:
        world.server.subscriptions.end_deadlines(world.subscription)
        new = await made.receive(64, 0.2)
        await made.acknowledge([each.receipt for each in new]) if new else None
        found.update(each.body for each in new)
        return found == set(bodies)

    await eventually(all_there)
    await made.close()


async def test_a_connection_that_went_silent_is_noticed_and_replaced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pubsub_connection, "KEEPALIVE_MS", 500)
    monkeypatch.setattr(channels, "UNREAD_MS", 500)
    made = world.broker()
    assert [] == await made.prepare(True)
    assert [] == await made.receive(1, 0.1)
    world.proxy.stall()
    with pytest.raises(broker.BrokerError):
        await received(made, 1)
    world.proxy.flow()
    await made.close()
    assert [] == await made.prepare(True)
    await made.close()


async def test_a_send_that_is_cut_off_takes_no_call_with_it_that_waits_for_messages(
    world: World, opened: pubsub.PubSubBroker
) -> None:
    assert [] == await opened.receive(1, 0.1)
    connection: Any = opened._open
    sending, pulling = connection.calls._held._client, connection.pulls._held._client
    world.proxy.stall()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await opened.send([b"x"])
    assert sending is not connection.calls._held._client
    assert pulling is connection.pulls._held._client
    world.proxy.flow()
    assert [True] == await opened.send([b"y"])
    assert b"y" in {each.body for each in await received(opened, 1) + await opened.receive(1, 0.5)}


async def test_an_emulator_is_used_without_tls_and_without_credentials(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pubsub_server.Server() as emulator:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{emulator.port}")
        made = pubsub.open_broker(world.named(credentials=""))
        assert [] == await made.prepare(True)
        assert [True] == await made.send([b"x"])
        assert [b"x"] == [each.body for each in await received(made, 1)]
        await made.close()


async def test_an_emulator_that_is_no_address_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "http://127.0.0.1:1/path")
    assert ["PUBSUB_EMULATOR_HOST must be host:port"] == await told(world.broker())


async def test_nobody_listening_is_an_error_and_no_problem(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    with pytest.raises(broker.BrokerError, match="connection_refused"):
        await told(world.broker(), True)


async def test_a_key_may_be_in_a_file(world: World, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text(destinations.key_file(world.account))
    assert [] == await told(pubsub.open_broker(world.named(credentials=str(path))), True)


@pytest.mark.parametrize(
    ("credentials", "sentence"),
    [
        ("/nowhere/hunter2.json", "names no file that can be read, and is no JSON"),
        ("hunter2\0", "names no file that can be read, and is no JSON"),
        ('{"hunter2": 1', "must be the JSON of a service account's key"),
        ('{"type": "authorized_user", "refresh_token": "hunter2"}', "must be the key of a service account"),
        ('{"type": "service_account", "client_email": "a@b", "private_key": "hunter2"}', "has a private_key that"),
    ],
)
@pytest.mark.parametrize("prefix", ["GCP_PUBSUB_", "PUBLISH_GCP_PUBSUB_"])
async def test_credentials_that_cannot_be_used_are_told_without_them(
    world: World, credentials: str, sentence: str, prefix: str
) -> None:
    letters = {} if prefix.startswith("GCP") else PUBLISH
    [problem] = await told(pubsub.open_broker(world.named(credentials=credentials, **letters)))
    assert problem.startswith(f"{prefix}SERVICE_ACCOUNT_CREDENTIALS {sentence}")
    assert "hunter2" not in problem


class Metadata:
    """The metadata service of a machine at Google, which gives out tokens of its account."""

    def __init__(self, world: World, service: receiver.Receiver) -> None:
        self._world = world
        self._service = service

    def give(self, token: str, seconds: int = 3_600) -> None:
        """The token that is given from now on, which Pub/Sub knows."""
        self._world.server.tokens = {token: self._world.account.email}
        account = self._world.account.email
        told = {
            "access_token": token,
            "expires_in": seconds,
            "token_type": "Bearer",
            "email": account,
            "scopes": ["https://www.googleapis.com/auth/pubsub"],
            "universe_domain": "googleapis.com",
        }
        head = "Metadata-Flavor: Google\r\nContent-Type: application/json"
        self._service.always(receiver.answer(200, json.dumps(told).encode(), head))

    def refuse(self) -> None:
        """It gives out none any more."""
        self._service.always(receiver.answer(404, b"hunter2", "Metadata-Flavor: Google"))


@pytest.fixture
async def metadata(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Metadata]:
    async with receiver.Receiver() as service:
        for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "NO_GCE_CHECK"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "project-1")
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{service.port}")
        # The library reads the other variable when it is imported.
        monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", f"127.0.0.1:{service.port}")
        yield Metadata(world, service)


async def test_the_default_credentials_are_used_and_renewed(
    world: World, metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata.give("token-one")
    made = pubsub.open_broker(world.named(credentials=""))
    assert [] == await made.prepare(True)
    assert [True] == await made.send([b"x"])
    now = time.time
    metadata.give("token-two")
    monkeypatch.setattr(time, "time", lambda: now() + 3_400)  # five minutes before its end
    assert [True] == await made.send([b"y"])
    assert {b"x", b"y"} == {each.body for each in await received(made, 2)}
    await made.close()


async def test_a_token_that_cannot_be_renewed_is_used_to_its_end(
    world: World, metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata.give("token-one")
    made = pubsub.open_broker(world.named(credentials=""))
    assert [] == await made.prepare(True)
    now = time.time
    metadata.refuse()
    monkeypatch.setattr(time, "time", lambda: now() + 3_400)
    assert [True] == await made.send([b"x"])
    monkeypatch.setattr(time, "time", lambda: now() + 3_700)
    with pytest.raises(broker.BrokerError) as failed:
        await made.send([b"y"])
    assert "could not be renewed" in str(failed.value)
    assert "hunter2" not in str(failed.value)
    metadata.give("token-two")
    assert [True] == await made.send([b"z"])
    await made.close()


async def test_without_default_credentials_the_start_says_so(
    world: World, metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    [problem] = await told(pubsub.open_broker(world.named(credentials="")), True)
    assert "no application default credentials" in problem


async def test_a_token_is_asked_for_once_by_all_that_want_one(world: World, metadata: Metadata) -> None:
    metadata.give("token-one")
    asked: list[Any] = []
    with ThreadPoolExecutor(4) as threads:
        tokens = default_tokens.DefaultTokens(threads)
        genuine = tokens._ask

        def counted() -> Any:
            asked.append(1)
            return genuine()

        tokens._ask = counted  # type: ignore[method-assign]
        assert {"token-one"} == set(await asyncio.gather(*(tokens.fresh() for _ in range(20))))
    assert [1] == asked


async def test_what_pubsub_itself_may_not_do_is_advised_with_the_commands(
    world: World, opened: pubsub.PubSubBroker
) -> None:
    assert [] == await opened.advice()
    world.server.subscriptions.forwards = False
    topic, subscription = await opened.advice()
    assert f"gcloud pubsub topics add-iam-policy-binding {world.topic}-dlq" in topic
    assert "--role=roles/pubsub.publisher" in topic
    assert f"gcloud pubsub subscriptions add-iam-policy-binding {world.topic}-sub" in subscription
    assert "--role=roles/pubsub.subscriber" in subscription


async def test_a_short_lock_and_a_missing_dead_letter_policy_are_advised(world: World) -> None:
    made = world.broker()
    assert [] == await told(made, True)
    live = world.server.subscriptions.get(world.subscription).made
    live.ack_deadline_seconds = 10
    del live.dead_letter_policy
    assert [] == await made.prepare(False)
    lock, letters = await made.advice()
    assert "come again after 10 s" in lock
    assert "no dead-letter topic" in letters
    await made.close()
