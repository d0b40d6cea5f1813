"""What only Service Bus has: management, applications of Entra ID, locks, sessions, its own dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from outpost import telemetry
from outpost.adapters.azure import application, receiving
from outpost.queue import broker, servicebus
from outpost.queue.servicebus import ServiceBusBroker
from outpost.settings import queues
from tests.harness.polling import eventually
from tests.harness.queues.servicebus import CLIENT, DIRECTORY, World

SCOPE = "https://servicebus.azure.net/.default"
Opening = Callable[[queues.ServiceBus], ServiceBusBroker]


@pytest.fixture
async def service() -> AsyncIterator[World]:
    async with World() as made:
        yield made


@pytest.fixture
async def opening(service: World) -> AsyncIterator[Opening]:
    """Closes what a test has opened."""
    found: list[ServiceBusBroker] = []

    def opened(named: queues.ServiceBus) -> ServiceBusBroker:
        found.append(servicebus.open_broker(named, service.cloud))
        return found[-1]

    yield opened
    for each in found:
        await each.close()


async def ready(opening: Opening, named: queues.ServiceBus) -> ServiceBusBroker:
    made = opening(named)
    assert [] == await made.prepare(False)
    return made


async def received(source: ServiceBusBroker, count: int) -> list[broker.Received]:
    found: list[broker.Received] = []

    async def more() -> bool:
        found.extend(await source.receive(count - len(found), 0.5))
        return len(found) >= count

    await eventually(more)
    return found


def lost_locks() -> int:
    return telemetry.counters["queue.lock_lost"]


async def test_an_application_makes_topic_and_subscription_where_they_are_missing(
    service: World, opening: Opening
) -> None:
    await service.asked("application", name=CLIENT, secret="s3cret")
    named = service.by_application(topic=f"{service.topic}-made", subscription="made")
    made = opening(named)
    assert [] == await made.prepare(True)
    assert [True] == await made.send([b"x"])
    (found,) = await received(made, 1)
    assert b"x" == found.body
    await made.close()
    before = await service.asked("asked")
    assert [] == await opening(named).prepare(True)
    after = (await service.asked("asked"))[len(before) :]
    topic = (
        f"/subscriptions/{named.subscription_id}/resourceGroups/group/providers/Microsoft.ServiceBus"
        f"/namespaces/outpost-test/topics/{named.topic}"
    )
    assert [f"PUT {topic}", f"PUT {topic}/subscriptions/made"] == [
        each for each in before if each.startswith("PUT") and f"/{named.topic}" in each
    ]
    assert not [each for each in after if each.startswith("PUT")]
    described = await service.asked("described", path=topic)
    assert {"maxSizeInMegabytes": 1_024, "defaultMessageTimeToLive": "P14D"} == described
    described = await service.asked("described", path=f"{topic}/subscriptions/made")
    assert {"lockDuration": "PT1M", "maxDeliveryCount": 6, "deadLetteringOnMessageExpiration": True} == described


async def test_management_tells_the_depth(service: World, opening: Opening) -> None:
    await service.asked("application", name=CLIENT, secret="s3cret")
    made = opening(service.by_application(topic=f"{service.topic}-deep", subscription="deep"))
    assert [] == await made.prepare(True)
    await made.send([b"good", b"bad", b"good"])
    found = await received(made, 3)
    for each in found:
        if each.body == b"bad":
            await made.bury(each, "because")

    async def told() -> bool:
        return await made.depth() == broker.Depth(ready=2, dead_letters=1)

    await eventually(told)


async def test_without_provisioning_an_application_makes_nothing(service: World, opening: Opening) -> None:
    await service.asked("application", name=CLIENT, secret="s3cret")
    named = service.by_application(topic=f"{service.topic}-not-made")
    problems = await opening(named).prepare(False)
    assert 2 == len(problems)
    assert not [each for each in await service.asked("asked") if each.startswith("PUT") and named.topic in each]


async def test_a_wrong_secret_of_an_application_is_a_problem_that_does_not_show_it(
    service: World, opening: Opening
) -> None:
    await service.asked("application", name=CLIENT, secret="s3cret")
    for provision in (True, False):
        (problem,) = await opening(service.by_application(client_secret="hunter2")).prepare(provision)
        assert "AZURE_SERVICEBUS_CLIENT_ID" in problem
        assert "AADSTS7000215" in problem
        assert "hunter2" not in problem


async def test_an_application_that_may_not_manage_uses_what_is_there(service: World, opening: Opening) -> None:
    name = "44444444-4444-4444-4444-444444444444"
    await service.asked("application", name=name, secret="s3cret", manages=False)
    made = opening(service.by_application(client_id=name))
    assert [] == await made.prepare(True)
    assert await made.depth() is None
    problems = await opening(service.by_application(client_id=name, subscription="nowhere")).prepare(True)
    assert len(problems) == 1
    assert "AZURE_SERVICEBUS_DELIVERY_SUBSCRIPTION" in problems[0]
    assert "AuthorizationFailed" in problems[0]


async def test_a_namespace_that_does_not_exist_is_a_problem(service: World, opening: Opening) -> None:
    await service.asked("application", name=CLIENT, secret="s3cret")
    (problem,) = await opening(service.by_application(namespace="nowhere")).prepare(True)
    assert "_NAMESPACE" in problem


async def test_tokens_are_renewed_before_their_end(service: World, opening: Opening) -> None:
    await service.asked("application", name=CLIENT, secret="s3cret")
    await service.asked("lives", token_s=20)
    made = await ready(opening, service.by_application())
    first = await tokens_asked(service)
    began = asyncio.get_running_loop().time()
    await service.asked("lives", token_s=3_600)
    while asyncio.get_running_loop().time() < began + 22.0:  # beyond the end of the first token
        assert [True] == await made.send([b"x"])
        (found,) = await received(made, 1)
        await made.acknowledge([found.receipt])
    assert len(first) + 1 == len(await tokens_asked(service))


async def tokens_asked(service: World) -> list[str]:
    return [
        each for each in await service.asked("asked") if each == f"POST /{DIRECTORY}/oauth2/v2.0/token {SCOPE}"
    ]


async def test_a_token_is_kept_until_ten_minutes_before_its_end_and_beyond_while_no_other_comes(
    service: World,
) -> None:
    await service.asked("application", name=CLIENT, secret="s3cret")
    await service.asked("lives", token_s=3_600)
    now = 1_000_000.0
    made = application.Application(service.cloud, DIRECTORY, CLIENT, "s3cret", lambda: now)
    first = await made.token()
    assert 1_003_600.0 == first[1]
    now += 2_999
    assert first == await made.token()
    await service.asked("application", name=CLIENT, secret="another")
    now += 1
    assert first == await made.token()
    now = first[1]
    with pytest.raises(application.Failed, match="AADSTS7000215"):
        await made.token()
    await service.asked("application", name=CLIENT, secret="s3cret")
    assert first[0] != (await made.token())[0]
    await made.close()


async def test_a_subscription_that_requires_sessions_is_refused(service: World, opening: Opening) -> None:
    await service.asked("make", topic=service.topic, subscription="in-sessions", sessions=True)
    (problem,) = await opening(service.named(subscription="in-sessions")).prepare(True)
    assert "requires sessions" in problem
    assert "AZURE_SERVICEBUS_DELIVERY_SUBSCRIPTION" in problem


@pytest.mark.parametrize(
    ("changes", "variables"),
    [
        ({"topic": "nowhere"}, ["AZURE_SERVICEBUS_DELIVERY_SUBSCRIPTION", "AZURE_SERVICEBUS_DELIVERY_TOPIC"]),
        ({"subscription": "nowhere"}, ["AZURE_SERVICEBUS_DELIVERY_SUBSCRIPTION"]),
        ({"subscription": "nowhere", "source": True}, ["PUBLISH_AZURE_SERVICEBUS_SUBSCRIPTION"]),
        ({"topic": "nowhere", "source": True}, ["PUBLISH_AZURE_SERVICEBUS_SUBSCRIPTION"]),
        ({"connection_string": "nonsense-hunter2"}, ["AZURE_SERVICEBUS_CONNECTION_STRING"]),
    ],
)
async def test_what_is_missing_is_named_with_its_variable(
    service: World, opening: Opening, changes: dict[str, object], variables: list[str]
) -> None:
    problems = await opening(service.named(**changes)).prepare(False)
    assert len(variables) == len(problems)
    for variable, problem in zip(variables, problems, strict=True):
        assert variable in problem
        assert "hunter2" not in problem


async def test_a_connection_string_of_another_topic_is_a_problem(service: World, opening: Opening) -> None:
    (problem,) = await opening(service.named(connection_string=f"{service.string};EntityPath=other")).prepare(True)
    assert "EntityPath" in problem


async def test_a_key_that_may_not_send_is_enough_for_a_source(service: World, opening: Opening) -> None:
    string = await service.key("listens", send=False)
    (problem,) = await opening(service.named(connection_string=string)).prepare(False)
    assert "does not permit to send" in problem
    made = await ready(opening, service.named(connection_string=string, source=True))
    await service.put([b"{}"])
    (found,) = await received(made, 1)
    assert {"from": "another"} == found.attributes


async def test_a_key_that_may_not_listen_is_a_problem(service: World, opening: Opening) -> None:
    string = await service.key("sends", listen=False)
    (problem,) = await opening(service.named(connection_string=string)).prepare(False)
    assert "does not permit to listen" in problem


async def test_a_service_that_does_not_answer_is_no_problem_but_an_error(service: World, opening: Opening) -> None:
    await service.go_away()
    with pytest.raises(broker.BrokerError) as raised:
        await opening(service.named()).prepare(True)
    assert "connection_refused" == raised.value.code
    await service.come_back()


async def test_what_was_sent_ahead_goes_back_at_a_close_and_counts_as_no_delivery(
    service: World, opening: Opening
) -> None:
    made = await ready(opening, service.named())
    await service.put([b"%d" % number for number in range(20)])
    found = await received(made, 1)
    await made.acknowledge([each.receipt for each in found])
    await made.close()

    async def back() -> bool:
        told = await service.told()
        return told["ready"] == 19 and not told["locked"] and set(told["deliveries"]) == {0}

    await eventually(back)


async def test_no_more_than_64_messages_are_sent_ahead(service: World, opening: Opening) -> None:
    made = await ready(opening, service.named())
    await service.put([b"%d" % number for number in range(300)])
    for _ in range(10):
        await made.receive(1, 0.2)
    told = await service.told()
    assert told["locked"] <= receiving.PREFETCH + 10
    left = {each.body for each in await received(made, 290)}
    assert len(left) == 290


async def test_a_message_that_is_delivered_too_often_is_a_dead_letter_and_these_are_a_queue(
    service: World, opening: Opening
) -> None:
    made = await ready(opening, service.named())
    await made.send([b"again and again"])
    for number in range(6):
        (found,) = await received(made, 1)
        assert number + 1 == found.deliveries
        await made.give_back([found.receipt])
    letters = await ready(opening, service.named(subscription=f"{service.subscription}/$DeadLetterQueue"))
    (letter,) = await received(letters, 1)
    assert b"again and again" == letter.body
    assert not await letters.bury(letter, "again")
    await letters.acknowledge([letter.receipt])
    assert [] == await letters.receive(1, 0.2)


async def test_a_lock_that_is_lost_is_counted_and_its_message_comes_again(
    service: World, opening: Opening
) -> None:
    made = await ready(opening, service.named())
    await made.send([b"lost", b"kept"])
    first = await received(made, 2)
    before = lost_locks()
    await service.asked("end_locks", path=service.path)
    again = await received(made, 2)
    await made.extend([each.receipt for each in (*first[:1], *again)], 60.0)
    assert before + 1 == lost_locks()
    await made.acknowledge([each.receipt for each in first])  # changes nothing
    await made.acknowledge([each.receipt for each in again])

    async def gone() -> bool:
        told = await service.told()
        return not told["ready"] and not told["locked"]

    await eventually(gone)


async def test_receipts_of_an_earlier_connection_change_nothing(service: World, opening: Opening) -> None:
    made = await ready(opening, service.named())
    await made.send([b"x"])
    found = await received(made, 1)
    await made.close()
    assert [] == await made.prepare(False)
    before = lost_locks()
    await made.acknowledge([each.receipt for each in found])
    assert before + 1 == lost_locks()
    assert 1 == (await service.told())["locked"]


async def test_settling_twice_changes_nothing(service: World, opening: Opening) -> None:
    made = await ready(opening, service.named())
    await made.send([b"x"])
    (found,) = await received(made, 1)
    await made.acknowledge([found.receipt])
    await made.acknowledge([found.receipt])
    await made.give_back([found.receipt])
    await made.send([b"y"])
    assert [b"y"] == [each.body for each in await received(made, 1)]


async def test_settling_does_not_wait_for_the_next_message(service: World, opening: Opening) -> None:
    made = await ready(opening, service.named())
    await made.send([b"%d" % number for number in range(64)])
    found = await received(made, 64)
    waiting = asyncio.create_task(made.receive(1, 60.0))
    await made.acknowledge([each.receipt for each in found])

    async def settled() -> bool:
        return len((await service.told())["settled"]) == 64

    await eventually(settled)
    assert not waiting.done()
    await made.send([b"more"])
    assert [b"more"] == [each.body for each in await waiting]


async def test_locks_are_renewed_while_a_receive_waits(service: World, opening: Opening) -> None:
    made = await ready(opening, service.named())
    await made.send([b"x"])
    found = await received(made, 1)
    before = lost_locks()
    waiting = asyncio.create_task(made.receive(1, 60.0))
    for _ in range(3):
        await made.extend([each.receipt for each in found], 60.0)
    assert not waiting.done()
    assert before == lost_locks()
    await made.send([b"more"])
    assert [b"more"] == [each.body for each in await waiting]


async def test_a_message_with_too_many_properties_comes_without_its_content_and_harms_no_other(
    service: World, opening: Opening
) -> None:
    made = await ready(opening, service.named())
    await service.put([b"before"])
    await service.asked("put_large", topic=service.topic, elements=2_000)
    await service.put([b"after"])
    found = await received(made, 3)
    assert [b"before", b"", b"after"] == [each.body for each in found]
    assert await made.bury(found[1], "body required")
    await made.acknowledge([found[0].receipt, found[2].receipt])
    (letter,) = await eventually(service.dead_letters)
    assert (b"large", "body required") == letter


async def test_a_message_that_is_too_long_comes_without_its_content(
    service: World, opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "MAX_MESSAGE_BYTES", 100_000)
    made = await ready(opening, service.named())
    await made.send([b"x" * 150_000, b"y" * 50_000])
    assert {b"", b"y" * 50_000} == {each.body for each in await received(made, 2)}


async def test_a_text_is_a_body_as_well(service: World, opening: Opening) -> None:
    made = await ready(opening, service.named(source=True))
    await service.asked("put", topic=service.topic, bodies=['{"a": "ä"}'], value=True)
    (found,) = await received(made, 1)
    assert '{"a": "ä"}'.encode() == found.body


async def test_a_sender_that_is_refused_is_opened_anew_by_itself(service: World, opening: Opening) -> None:
    made = await ready(opening, service.named())
    for detach in (True, False):
        await service.service.told(
            do="fault", queue=service.topic, condition="com.microsoft:server-busy", detach=detach
        )
        with pytest.raises(broker.BrokerError):
            await made.send([b"refused"])
        await service.service.told(do="fault", queue=service.topic, condition="")
        assert [True] == await made.send([b"taken"])
    assert [b"taken"] * 2 == [each.body for each in await received(made, 2)]


async def test_a_sender_that_was_idle_is_opened_anew(
    service: World, opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await ready(opening, service.named())
    monkeypatch.setattr(servicebus, "IDLE_S", 0.0)
    for body in (b"one", b"two"):
        assert [True] == await made.send([body])
    assert {b"one", b"two"} == {each.body for each in await received(made, 2)}


async def test_what_waits_for_the_link_goes_out_together(service: World, opening: Opening) -> None:
    made = await ready(opening, service.named())
    bodies = [[b"%d-%d" % (sender, number) for number in range(10)] for sender in range(8)]
    assert [[True] * 10] * 8 == await asyncio.gather(*(made.send(each) for each in bodies))
    wanted = {body for each in bodies for body in each}
    assert wanted == {each.body for each in await received(made, 80)}


async def test_a_topic_that_is_deleted_and_made_again_is_used_after_preparing(
    service: World, opening: Opening
) -> None:
    made = await ready(opening, service.named())
    await service.asked("delete", topic=service.topic)
    with pytest.raises(broker.BrokerError):
        await received(made, 1)
    await made.close()
    assert 2 == len(await made.prepare(False))
    await service.asked("make", topic=service.topic, subscription=service.subscription)
    await made.close()
    assert [] == await made.prepare(False)
    assert [True] == await made.send([b"x"])
    assert [b"x"] == [each.body for each in await received(made, 1)]
