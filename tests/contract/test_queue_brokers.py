"""One suite for every broker: what `outpost.queue.broker` promises, on each service or its stand-in."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from outpost.queue import broker, chunk, chunked
from tests.harness.destinations import moto
from tests.harness.polling import eventually
from tests.harness.queues import memory, pubsub, rabbitmq, servicebus, sqs, world
from tests.unit.test_chunk import SECRET, an_event, tasks_of
from tests.unit.test_chunked_queue import Lanes

WORLDS: dict[str, type[world.World]] = {
    "memory": memory.World,
    "rabbitmq": rabbitmq.World,
    "sqs": sqs.World,
    "pubsub": pubsub.World,
    "servicebus": servicebus.World,
}


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    yield
    moto.AwsWorld.end_session()


@pytest.fixture(params=WORLDS)
async def service(request: pytest.FixtureRequest) -> AsyncIterator[world.World]:
    async with WORLDS[request.param]() as made:
        yield made


@pytest.fixture
async def opened() -> AsyncIterator[Callable[[broker.Broker], broker.Broker]]:
    """Closes what a test has opened."""
    found: list[broker.Broker] = []

    def remember(each: broker.Broker) -> broker.Broker:
        found.append(each)
        return each

    yield remember
    for each in found:
        await each.close()


Opened = Callable[[broker.Broker], broker.Broker]


async def ready(service: world.World, opened: Opened) -> broker.Broker:
    made = opened(service.broker())
    assert [] == await made.prepare(True)
    return made


async def received(source: broker.Broker, count: int) -> list[broker.Received]:
    """Exactly so many, whoever sent them."""
    found: list[broker.Received] = []

    async def more() -> bool:
        found.extend(await source.receive(count - len(found), 0.2))
        return len(found) >= count

    await eventually(more)
    assert count == len(found)
    return found


async def none_left(source: broker.Broker) -> bool:
    return not await source.receive(10, 0.2)


BODIES = [b"", b"\x00\xff\xfe", b"hello", bytes(range(256)) * 16, "日本".encode()]


async def test_bytes_arrive_as_they_were_sent_and_are_gone_once_acknowledged(
    service: world.World, opened: Opened
) -> None:
    made = await ready(service, opened)
    bodies = [each for each in BODIES if each] + [random.Random(7).randbytes(service.most_bytes)]
    assert [True] * len(bodies) == await made.send(bodies)
    found = await received(made, len(bodies))
    assert sorted(bodies) == sorted(each.body for each in found)
    await made.acknowledge([each.receipt for each in found])
    await service.end_locks(made)
    other = opened(service.broker())
    assert [] == await other.prepare(False)
    assert await none_left(other)


async def test_more_messages_than_a_call_carries_are_sent_and_received(
    service: world.World, opened: Opened
) -> None:
    made = await ready(service, opened)
    bodies = [b"%d " % n + b"x" * (n * 97 % 5_000) for n in range(150)]
    assert [True] * len(bodies) == await made.send(bodies)
    found: list[broker.Received] = []
    while len(found) < len(bodies):
        part = await made.receive(64, 2.0)
        assert len(part) <= 64
        found += part
        await made.acknowledge([each.receipt for each in part])
    assert sorted(bodies) == sorted(each.body for each in found)


async def test_an_empty_queue_answers_after_the_wait(service: world.World, opened: Opened) -> None:
    made = await ready(service, opened)
    assert [] == await made.receive(10, 0.05)


async def test_a_producer_of_another_client_is_understood(service: world.World, opened: Opened) -> None:
    made = await ready(service, opened)
    await service.put([b'{"a":1}', b'{"b":2}'])
    found = await received(made, 2)
    assert [b'{"a":1}', b'{"b":2}'] == sorted(each.body for each in found)
    if service.told_ids:
        assert 2 == len({each.message_id for each in found} - {""})


async def test_what_is_not_acknowledged_comes_again_under_its_message_id(
    service: world.World, opened: Opened
) -> None:
    one, other = await ready(service, opened), await ready(service, opened)
    await service.put([b"one", b"two"])
    first = await received(one, 2)
    await one.acknowledge([each.receipt for each in first if each.body == b"one"])
    await service.end_locks(one)
    (again,) = await received(other, 1)
    assert b"two" == again.body
    assert [again.message_id] == [each.message_id for each in first if each.body == b"two"]
    await other.acknowledge([again.receipt])
    assert await none_left(other)


async def test_what_is_given_back_comes_again_at_once(service: world.World, opened: Opened) -> None:
    made = await ready(service, opened)
    await made.send([b"x"])
    found = await received(made, 1)
    await made.give_back([each.receipt for each in found])
    (again,) = await received(made, 1)
    assert b"x" == again.body
    await made.acknowledge([again.receipt])
    assert await none_left(made)


async def test_what_is_buried_lies_with_the_dead_letters_and_comes_no_more(
    service: world.World, opened: Opened
) -> None:
    made = await ready(service, opened)
    await made.send([b"bad", b"good"])
    found = {each.body: each for each in await received(made, 2)}
    assert await made.bury(found[b"bad"], "not a chunk")
    await made.acknowledge([found[b"good"].receipt])
    (letter,) = await eventually(service.dead_letters)
    assert (b"bad", "not a chunk" if service.dead_letter_reasons else "") == letter
    assert await none_left(made)


async def test_what_has_a_lock_is_kept_by_extending_it(service: world.World, opened: Opened) -> None:
    if not service.locks:
        pytest.skip(f"{service.name} has no locks: a message is ours as long as the connection stands")
    made = await ready(service, opened)
    await made.send([b"x"])
    found = await received(made, 1)
    await made.extend([each.receipt for each in found], 600.0)
    await made.acknowledge([each.receipt for each in found])
    assert await none_left(made)


async def test_without_provisioning_a_missing_queue_is_named(service: world.World, opened: Opened) -> None:
    (problem, *_) = await opened(service.missing()).prepare(False)
    assert problem


async def test_a_wrong_secret_is_a_problem_that_does_not_show_it(service: world.World, opened: Opened) -> None:
    made = opened(service.unauthorized())
    try:
        told = "; ".join(await made.prepare(True))
    except broker.BrokerError as exc:
        told = str(exc)
    assert told
    assert "hunter2" not in told


async def test_preparing_twice_and_side_by_side_changes_nothing(service: world.World, opened: Opened) -> None:
    several = [opened(service.broker()) for _ in range(4)]
    assert [[]] * 4 == await asyncio.gather(*(each.prepare(True) for each in several))
    await several[0].send([b"x"])
    assert [] == await several[1].prepare(True)
    assert 1 == len(await received(several[1], 1))


async def test_a_service_that_goes_away_is_an_error_and_used_again_after_preparing(
    service: world.World, opened: Opened
) -> None:
    made = await ready(service, opened)
    await made.send([b"before"])
    await service.go_away()
    try:
        async with asyncio.timeout(broker.SEND_S):
            assert [False] == await made.send([b"lost"])
    except (broker.BrokerError, TimeoutError):
        pass
    with pytest.raises(broker.BrokerError):
        await received(made, 10)
    await service.come_back()

    async def prepared() -> bool:
        await made.close()
        try:
            return [] == await made.prepare(True)
        except broker.BrokerError:
            return False

    await eventually(prepared)
    assert [True] == await made.send([b"after"])
    found: set[bytes] = set()

    async def all_there() -> bool:
        found.update(each.body for each in await made.receive(10, 0.2))
        return {b"before", b"after"} <= found

    await eventually(all_there)
    assert found <= {b"before", b"after", b"lost"}


async def test_a_closed_broker_leaves_no_task_behind(service: world.World) -> None:
    before = asyncio.all_tasks()
    made = service.broker()
    assert [] == await made.prepare(True)
    await made.send([b"x"])
    await made.receive(1, 0.5)
    await made.close()
    await made.close()
    await eventually(lambda: {task for task in asyncio.all_tasks() if not service.is_of_stand_in(task)} <= before)


async def test_depth_counts_what_waits_or_is_not_told(service: world.World, opened: Opened) -> None:
    made = await ready(service, opened)
    await made.send([b"x", b"y", b"z"])
    if await made.depth() is None:
        pytest.skip(f"{service.name} does not tell")

    async def three() -> bool:
        depth = await made.depth()
        return depth is not None and depth.ready == 3

    await eventually(three)


async def test_a_queue_over_it_delivers_every_task_between_two_processes(service: world.World) -> None:
    stop = asyncio.Event()
    lanes = [Lanes(), Lanes()]

    async def hold(tasks: object, delay_ms: int) -> None:
        raise AssertionError("nobody is fed for so long")

    made = [
        chunked.ChunkedQueue(
            service.broker(),
            chunk.Codec("log-1", SECRET, 16_384),
            each,
            hold,
            lambda: 1_000_000,
            watchdog_ms=30_000,
            enough=500,
            provision=True,
        )
        for each in lanes
    ]
    assert [[], []] == [await each.prepare() for each in made]
    running = [asyncio.create_task(each.run(stop)) for each in made]
    tasks = [t for n in range(300) for t in tasks_of(an_event(data=b'"%d"' % n), 5, n % 16, f"{n}-0")]
    for at in range(0, len(tasks), 100):
        await made[at // 100 % 2].publish(tasks[at : at + 100])
    wanted = {task.text for task in tasks}
    await eventually(lambda: wanted == {name for each in lanes for name in each.names})
    stop.set()
    await asyncio.gather(*running)
