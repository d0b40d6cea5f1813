"""SQS as a queue beyond the suite of all brokers: what it refuses in part, credentials of this process, dead
letters."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from outpost.queue import broker, chunk, sqs, sqs_text
from tests.harness import receiver
from tests.harness.destinations import moto
from tests.harness.polling import eventually
from tests.harness.queues.sqs import World

# What IAM asks for; moto knows the calls of batches by names of their own.
CONSUMER = ("GetQueueUrl", "SendMessage", "ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility")
BATCHES = ("SendMessageBatch", "DeleteMessageBatch", "ChangeMessageVisibilityBatch")


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    yield
    moto.AwsWorld.end_session()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as made:
        yield made


@pytest.fixture
async def opened(world: World) -> AsyncIterator[sqs.SQSBroker]:
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


def policy(*actions: str) -> str:
    allowed = {"Effect": "Allow", "Action": [f"sqs:{each}" for each in actions], "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [allowed]})


async def test_what_is_made_redrives_after_six_receives_and_locks_for_a_minute(
    world: World, opened: sqs.SQSBroker
) -> None:
    asked = {"QueueUrl": await world.url(world.queue), "AttributeNames": ["All"]}
    made = (await world.call("get_queue_attributes", **asked))["Attributes"]
    redrive = json.loads(made["RedrivePolicy"])
    assert "60" == made["VisibilityTimeout"]
    assert 6 == int(redrive["maxReceiveCount"])
    assert redrive["deadLetterTargetArn"].endswith(f":{world.letters}")


async def test_a_queue_that_is_there_stays_as_it_is(world: World) -> None:
    await world.call("create_queue", QueueName=world.queue, Attributes={"VisibilityTimeout": "17"})
    made = world.broker()
    assert [] == await made.prepare(True)
    asked = {"QueueUrl": await world.url(world.queue), "AttributeNames": ["All"]}
    assert "17" == (await world.call("get_queue_attributes", **asked))["Attributes"]["VisibilityTimeout"]
    await made.close()


async def test_a_queue_may_be_named_by_its_url(world: World, opened: sqs.SQSBroker) -> None:
    url, letters = await world.url(world.queue), await world.url(world.letters)
    named = sqs.open_broker(world.named(queue=url, dead_letters=letters))
    assert [] == await named.prepare(False)
    assert [True] == await named.send([b"x"])
    [found] = await received(opened, 1)
    assert b"x" == found.body
    await named.close()


@pytest.mark.parametrize(
    ("changes", "variables"),
    [
        ({}, ["AWS_SQS_DELIVERY_QUEUE", "AWS_SQS_DELIVERY_DLQ"]),
        ({"dead_letters": "", "variable": "PUBLISH_AWS_SQS_QUEUE"}, ["PUBLISH_AWS_SQS_QUEUE"]),
    ],
)
@pytest.mark.parametrize("url", [False, True])
async def test_what_is_missing_is_named_with_its_variable(
    world: World, changes: dict[str, str], variables: list[str], url: bool
) -> None:
    queue = f"{world.aws.url}/{moto.ACCOUNT}/nowhere" if url else "nowhere"
    made = sqs.open_broker(world.named(queue=queue, **changes))
    problems = await made.prepare(False)
    assert variables == [problem.split()[-2] for problem in problems]
    await made.close()


@pytest.mark.parametrize("provision", [True, False])
async def test_a_role_that_may_do_nothing_is_a_problem_at_the_start(world: World, provision: bool) -> None:
    keys = await asyncio.to_thread(world.aws.moto.user, moto.NOTHING)
    made = sqs.open_broker(world.named(access_key_id=keys.id, secret_access_key=keys.secret))
    [problem] = await made.prepare(provision)
    assert problem.startswith("SQS: access_denied: ")
    assert keys.secret not in problem
    await made.close()


async def test_a_role_that_may_only_use_the_queue_uses_it(world: World, opened: sqs.SQSBroker) -> None:
    keys = await asyncio.to_thread(world.aws.moto.user, policy(*CONSUMER, *BATCHES))
    made = sqs.open_broker(world.named(access_key_id=keys.id, secret_access_key=keys.secret))
    assert [] == await made.prepare(False)
    assert [True] == await made.send([b"x"])
    [found] = await received(made, 1)
    assert await made.bury(found, "no reason")
    assert [(b"x", "no reason")] == await eventually(world.dead_letters)
    assert await made.depth() is None
    await made.close()


async def test_a_throttled_queue_is_an_error_until_it_takes_calls_again(
    world: World, opened: sqs.SQSBroker
) -> None:
    await world.aws.throttle(None)  # type: ignore[arg-type]
    with pytest.raises(broker.BrokerError, match="throttled"):
        await opened.send([b"x"])
    with pytest.raises(broker.BrokerError, match="throttled"):
        await opened.receive(10, 1.0)
    with pytest.raises(broker.BrokerError, match="throttled"):
        await sqs.SQSBroker.prepare(opened, True)
    await world.aws.heal()
    assert [True] == await opened.send([b"y"])
    assert [b"y"] == [each.body for each in await received(opened, 1)]


async def test_each_message_of_a_batch_has_an_outcome_of_its_own(world: World, opened: sqs.SQSBroker) -> None:
    async def one_failed(asked: moto.Asked) -> moto.Reply | None:
        if not asked.target.endswith("SendMessageBatch"):
            return None
        told = json.loads(asked.body)
        good = [entry for entry in told["Entries"] if entry["MessageBody"] != "bad"]
        reply = await world.aws.front.passed(asked, json.dumps({**told, "Entries": good}).encode())
        failed = [
            {"Id": entry["Id"], "SenderFault": False, "Code": "InternalError", "Message": "try again"}
            for entry in told["Entries"]
            if entry not in good
        ]
        return moto.Reply(
            reply.status, json.dumps({**json.loads(reply.body), "Failed": failed}).encode(), reply.headers
        )

    world.aws.front.hook = one_failed
    bodies = [b"bad" if n % 5 == 3 else b"%d" % n for n in range(23)]
    assert [body != b"bad" for body in bodies] == await opened.send(bodies)
    world.aws.front.hook = None
    assert sorted(body for body in bodies if body != b"bad") == sorted(
        each.body for each in await received(opened, len(bodies) - bodies.count(b"bad"))
    )


async def test_an_acknowledgement_that_fails_alone_costs_the_others_nothing(
    world: World, opened: sqs.SQSBroker
) -> None:
    await opened.send([b"%d" % n for n in range(12)])
    found = await received(opened, 12)
    receipts = [each.receipt for each in found]
    await opened.acknowledge(receipts[:1])
    await world.call("purge_queue", QueueUrl=await world.url(world.queue))
    await opened.acknowledge(receipts)
    await opened.give_back(receipts)


async def test_a_queue_that_was_deleted_is_made_again_once_its_name_is_free(
    world: World, opened: sqs.SQSBroker
) -> None:
    await world.call("delete_queue", QueueUrl=await world.url(world.queue))

    async def receiving_fails() -> bool:
        try:
            await opened.receive(10, 1.0)
        except broker.BrokerError as exc:
            return exc.code == "target_not_found"
        return False

    await eventually(receiving_fails)
    with pytest.raises(broker.BrokerError, match="target_not_found"):
        await opened.send([b"lost"])

    async def too_soon(asked: moto.Asked) -> moto.Reply | None:
        if not asked.target.endswith("CreateQueue"):
            return None
        text = "You must wait 60 seconds after deleting a queue before you can create another with the same name."
        return moto.refusal(asked, "AWS.SimpleQueueService.QueueDeletedRecently", text)

    world.aws.front.hook = too_soon
    await opened.close()
    with pytest.raises(broker.BrokerError, match="wait 60 seconds"):
        await opened.prepare(True)
    world.aws.front.hook = None
    assert [] == await opened.prepare(True)
    assert [True] == await opened.send([b"x"])
    assert [b"x"] == [each.body for each in await received(opened, 1)]


async def test_a_queue_says_how_long_its_messages_may_be(world: World) -> None:
    await world.call("create_queue", QueueName=world.queue, Attributes={"MaximumMessageSize": "32768"})
    made = world.broker()
    assert [] == await made.prepare(True)
    longest = made.limits.message_bytes
    assert 24_000 < longest < 32_768
    assert [True] == await made.send([b"\xff" * longest])
    with pytest.raises(broker.BrokerError):
        await made.send([b"\xff" * (longest + sqs_text.MARK_BYTES)])
    await made.close()


async def test_a_queue_that_takes_too_little_for_a_chunk_is_refused(world: World) -> None:
    await world.call("create_queue", QueueName=world.queue, Attributes={"MaximumMessageSize": "1024"})
    made = world.broker()
    [problem] = await made.prepare(True)
    assert "AWS_SQS_DELIVERY_QUEUE" in problem
    await made.close()
    source = sqs.open_broker(world.named(dead_letters=""))
    assert [] == await source.prepare(False)
    await source.close()


def test_a_chunk_fits_into_the_messages_of_an_older_queue() -> None:
    assert chunk.CHUNK_BYTES - 64 < sqs_text.room(sqs.OLDER_QUEUE_BYTES) < chunk.CHUNK_BYTES


async def test_xml_with_declarations_is_a_body_like_any_other(world: World, opened: sqs.SQSBroker) -> None:
    body = b"<!DOCTYPE html><p>hello</p>"
    await world.put([body])
    assert [body] == [each.body for each in await received(opened, 1)]


async def test_without_a_target_nothing_is_buried(world: World) -> None:
    await world.call("create_queue", QueueName=world.queue)
    source = sqs.open_broker(world.named(dead_letters=""))
    assert [] == await source.prepare(False)
    await world.put([b"bad"])
    [found] = await received(source, 1)
    assert not await source.bury(found, "a reason")
    await source.give_back([found.receipt], broker.LONGEST_DELAY_S)
    assert [] == await source.receive(1, 1.0)
    await source.close()


async def test_a_fifo_queue_is_a_source_and_its_dead_letters_keep_their_group(world: World) -> None:
    fifo = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
    queue, letters = f"{world.queue}.fifo", f"{world.queue}-dead.fifo"
    dead = await world.call("create_queue", QueueName=letters, Attributes={"FifoQueue": "true"})
    target = await world.call("get_queue_attributes", QueueUrl=dead["QueueUrl"], AttributeNames=["QueueArn"])
    redrive = json.dumps({"deadLetterTargetArn": target["Attributes"]["QueueArn"], "maxReceiveCount": 3})
    made = await world.call("create_queue", QueueName=queue, Attributes=fifo | {"RedrivePolicy": redrive})
    for number in range(3):
        body = f"{number}"
        await world.call("send_message", QueueUrl=made["QueueUrl"], MessageBody=body, MessageGroupId="g-1")
    source = sqs.open_broker(world.named(queue=queue, dead_letters=""))
    assert [] == await source.prepare(False)
    found = await received(source, 3)
    assert [b"0", b"1", b"2"] == [each.body for each in found]
    assert await source.bury(found[0], "not JSON")
    await source.acknowledge([each.receipt for each in found[1:]])
    [letter] = await eventually(lambda: world.letters_in(letters))
    assert ("0", "g-1") == (letter["Body"], letter["Attributes"]["MessageGroupId"])
    assert "not JSON" == letter["MessageAttributes"]["outpost-reason"]["StringValue"]
    await source.close()


async def test_a_dead_letter_keeps_the_attributes_that_fit_and_the_bytes_it_had(
    world: World, opened: sqs.SQSBroker
) -> None:
    several = {f"a-{n}": {"DataType": "String", "StringValue": f"v-{n}"} for n in range(10)}
    url = await world.url(world.queue)
    await world.call("send_message", QueueUrl=url, MessageBody="bad", MessageAttributes=several)
    [found] = await received(opened, 1)
    assert {f"a-{n}": f"v-{n}" for n in range(10)} == found.attributes
    assert await opened.bury(found, "no\x00reason")
    [letter] = await eventually(lambda: world.letters_in(world.letters))
    assert 10 == len(letter["MessageAttributes"])
    assert "no?reason" == letter["MessageAttributes"]["outpost-reason"]["StringValue"]


async def test_what_nobody_took_before_a_close_is_free_for_others(world: World, opened: sqs.SQSBroker) -> None:
    await world.put([b"one", b"two"])
    first = await received(opened, 1)
    await opened.acknowledge([first[0].receipt])
    await opened.close()
    other = world.broker()
    assert [] == await other.prepare(False)
    [found] = await received(other, 1)
    assert {b"one", b"two"} == {first[0].body, found.body}
    await other.close()


class Container:
    """The credentials that a container has, from an endpoint as ECS and EKS have one; they end soon. Without a
    session token, which moto knows only of roles."""

    def __init__(self, service: receiver.Receiver) -> None:
        self._service = service

    def give(self, keys: moto.Keys) -> None:
        ends = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)
        told = {
            "AccessKeyId": keys.id,
            "SecretAccessKey": keys.secret,
            "Token": "",
            "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        self._service.always(receiver.answer(200, json.dumps(told).encode()))


@pytest.fixture
def nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials anywhere on this machine."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.usefixtures("nothing_known")
async def test_without_any_credentials_the_start_says_so(world: World) -> None:
    made = sqs.open_broker(world.named(access_key_id="", secret_access_key=""))
    [problem] = await made.prepare(True)
    assert problem.startswith("SQS: invalid_credentials: ")
    await made.close()


@pytest.mark.usefixtures("nothing_known")
async def test_the_environment_of_this_process_is_used_where_no_keys_are_set(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", world.aws.permitted.id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", world.aws.permitted.secret)
    made = sqs.open_broker(world.named(access_key_id="", secret_access_key=""))
    assert [] == await made.prepare(True)
    assert [True] == await made.send([b"x"])
    assert [b"x"] == [each.body for each in await received(made, 1)]
    await made.close()


@pytest.mark.usefixtures("nothing_known")
async def test_credentials_of_a_container_are_renewed_before_they_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = await asyncio.to_thread(world.aws.moto.key, world.aws.permitted.user)
    async with receiver.Receiver() as service:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{service.port}/v2/credentials")
        container = Container(service)
        container.give(world.aws.permitted)
        made = sqs.open_broker(world.named(access_key_id="", secret_access_key=""))
        assert [] == await made.prepare(True)
        assert [True] == await made.send([b"x"])
        asked = len(service.requests)
        container.give(second)
        assert [True] == await made.send([b"y"])
        assert asked < len(service.requests)
        await asyncio.to_thread(world.aws.moto.forget, world.aws.permitted)
        assert [True] == await made.send([b"z"])
        await made.close()


@pytest.mark.usefixtures("nothing_known")
async def test_the_secrets_of_the_chain_are_in_no_text(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", world.aws.permitted.id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", world.aws.permitted.secret)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-this-process")

    async def echoing(asked: moto.Asked) -> moto.Reply | None:
        text = f"The Canonical String was {asked.headers['X-Amz-Security-Token']} {world.aws.permitted.secret}"
        return moto.refusal(asked, "SignatureDoesNotMatch", text, 403)

    world.aws.front.hook = echoing
    made = sqs.open_broker(world.named(access_key_id="", secret_access_key=""))
    [problem] = await made.prepare(True)
    assert "Canonical String was *** ***" in problem
    await made.close()


async def test_keys_that_were_withdrawn_are_named_while_it_runs(world: World, opened: sqs.SQSBroker) -> None:
    await asyncio.to_thread(world.aws.moto.forget, world.aws.permitted)
    with pytest.raises(broker.BrokerError) as told:
        await opened.send([b"x"])
    assert "invalid_credentials" == told.value.code
    shown: Any = str(told.value)
    assert world.aws.permitted.secret not in shown


async def test_what_a_queue_lacks_is_advised(world: World, opened: sqs.SQSBroker) -> None:
    assert [] == await opened.advice()
    url = await world.url(world.queue)
    arn = (await world.call("get_queue_attributes", QueueUrl=url, AttributeNames=["QueueArn"]))["Attributes"]
    redrive = json.dumps({"deadLetterTargetArn": arn["QueueArn"] + "-dlq", "maxReceiveCount": 1})
    changed = {"RedrivePolicy": redrive, "MaximumMessageSize": "65536"}
    await world.call("set_queue_attributes", QueueUrl=url, Attributes=changed)
    assert [] == await opened.prepare(False)
    receives, size = await opened.advice()
    assert "after 1 receives" in receives
    assert "65,536 bytes" in size
