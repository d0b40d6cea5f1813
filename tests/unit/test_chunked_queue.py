"""A queue over a broker: what the broker does with messages changes when a task is begun, and never whether."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from outpost import errors
from outpost.queue import base, broker, chunk, chunked, receiving, sending
from tests.harness.polling import eventually
from tests.harness.queues.memory import MemoryBroker, MemoryQueue
from tests.unit.test_chunk import SECRET, an_event, tasks_of

WATCHDOG_MS = 30_000


class Lanes:
    """What arrives at a process, and whether it wants more."""

    def __init__(self) -> None:
        self.got: list[base.Task] = []
        self.full = False
        self.eats = True

    def receive(self, tasks: Sequence[base.Task]) -> None:
        self.got.extend(tasks)

    def hungry(self, enough: int) -> bool:
        return self.eats

    @property
    def names(self) -> list[str]:
        return [task.text for task in self.got]


class Process:
    """One process on the queue, by a clock of its own."""

    def __init__(self, queue: MemoryQueue, log: str = "log-1", limits: broker.Limits | None = None) -> None:
        self.lanes = Lanes()
        self.now_ms: int | None = 1_000_000
        self.released: list[tuple[str, int]] = []
        self.redis_away = False
        self.tried = 0
        self.broker = MemoryBroker(queue, limits)
        self.codec = chunk.Codec(log, SECRET, 16_384)
        self.queue = chunked.ChunkedQueue(
            self.broker,
            self.codec,
            self.lanes,
            self._hold,
            lambda: self.now_ms,
            watchdog_ms=WATCHDOG_MS,
            enough=500,
            provision=True,
        )

    async def _hold(self, tasks: Sequence[base.Task], delay_ms: int) -> None:
        self.tried += 1
        if self.redis_away:
            raise errors.StoreUnavailable("redis", "away")
        self.released += [(task.text, delay_ms) for task in tasks]

    def count(self, what: str) -> int:
        return self.queue.state().counts.get(what, 0)


Run = Callable[[Process], asyncio.Future[None]]


@pytest.fixture
async def running() -> AsyncIterator[Run]:
    """Runs processes until the test ends."""
    stop = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    def run(process: Process) -> asyncio.Future[None]:
        tasks.append(asyncio.create_task(process.queue.run(stop)))
        return tasks[-1]

    yield run
    stop.set()
    await asyncio.gather(*tasks)


async def reached(*processes: Process) -> None:
    await eventually(lambda: all(p.queue.state().through == "broker" for p in processes))


def some(count: int, entry: str = "1-0") -> list[base.Task]:
    return tasks_of(an_event(), count, entry=entry)


async def test_what_is_published_arrives_once_and_is_acknowledged(running: Run) -> None:
    queue = MemoryQueue()
    one, other = Process(queue), Process(queue)
    running(one), running(other)
    await reached(one, other)
    tasks = [task for n in range(40) for task in some(30, f"{n}-0")]
    for at in range(0, len(tasks), 90):
        await one.queue.publish(tasks[at : at + 90])
    await eventually(lambda: len(one.lanes.got) + len(other.lanes.got) >= len(tasks))
    assert sorted(t.text for t in tasks) == sorted(one.lanes.names + other.lanes.names)
    assert tasks[0] in one.lanes.got + other.lanes.got
    await eventually(lambda: not queue.taken)
    assert not queue.ready


async def test_a_process_that_is_fed_leaves_the_work_to_another(running: Run) -> None:
    queue = MemoryQueue()
    one, other = Process(queue), Process(queue)
    one.lanes.eats = False
    running(one), running(other)
    await reached(other)
    one.lanes.eats = True
    await reached(one)
    one.lanes.eats = False
    await eventually(lambda: not one.broker.receiving)
    assert not one.queue.hungry
    await one.queue.publish(some(200))
    await eventually(lambda: len(other.lanes.got) == 200)
    assert not one.lanes.got


async def test_a_full_buffer_makes_the_dispatcher_wait_and_not_for_ever(
    running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = MemoryQueue()
    process = Process(queue)
    gate = asyncio.Event()
    send = process.broker.send

    async def slowly(bodies: Sequence[bytes]) -> list[bool]:
        await gate.wait()
        return await send(bodies)

    monkeypatch.setattr(process.broker, "send", slowly)
    monkeypatch.setattr(broker, "SEND_S", 60.0)
    running(process)
    await reached(process)
    for number in range(2):
        await process.queue.publish(some(sending.FLUSH_TASKS, f"{number}-0"))
    publishing = asyncio.create_task(process.queue.publish(some(sending.FLUSH_TASKS, "3-0")))
    await eventually(lambda: not process.queue.hungry)
    assert not publishing.done()
    gate.set()
    await publishing
    await eventually(lambda: len(process.lanes.got) == 3 * sending.FLUSH_TASKS)


FAULTS = {
    "away": lambda queue: setattr(queue, "away", True),
    "refuses": lambda queue: setattr(queue, "refuses", True),
    "eats confirms": lambda queue: setattr(queue, "eats_confirms", True),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_what_the_broker_does_not_confirm_goes_into_the_lanes_and_later_chunks_through_it_again(
    running: Run, fault: Callable[[MemoryQueue], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "LONGEST_PAUSE_S", 0.2)
    queue = MemoryQueue()
    process = Process(queue)
    running(process)
    await reached(process)
    fault(queue)
    for number in range(20):
        await process.queue.publish(some(10, f"{number}-0"))
    await eventually(lambda: len(set(process.lanes.names)) == 200)
    assert "process" == process.queue.state().through
    assert process.queue.state().last_error
    assert not process.queue.health.healthy
    queue.away = queue.refuses = queue.eats_confirms = False
    await reached(process)
    before = process.count("confirmed")
    await process.queue.publish(some(1, "99-0"))
    await eventually(lambda: "1/99-0/des_0@1" in process.lanes.names)
    assert process.count("confirmed") > before
    assert process.queue.health.healthy


async def test_a_send_that_does_not_end_is_given_up(running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "SEND_S", 0.05)
    process = Process(MemoryQueue())
    running(process)
    await reached(process)

    async def hangs(bodies: Sequence[bytes]) -> list[bool]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(process.broker, "send", hangs)
    await process.queue.publish(some(10))
    await eventually(lambda: len(process.lanes.got) == 10)


async def test_before_a_broker_is_reached_everything_is_delivered_here(running: Run) -> None:
    queue = MemoryQueue()
    queue.away = True
    process = Process(queue)
    running(process)
    await process.queue.publish(some(10))
    assert 10 == len(process.lanes.got)


async def test_before_the_clock_of_redis_is_known_everything_is_delivered_here(running: Run) -> None:
    process = Process(MemoryQueue())
    process.now_ms = None
    running(process)
    await reached(process)
    await process.queue.publish(some(10))
    await eventually(lambda: len(process.lanes.got) == 10)
    assert 0 == process.count("published")


async def test_a_stale_chunk_is_acknowledged_unread_and_new_tasks_do_not_queue_up_behind_a_backlog(
    running: Run,
) -> None:
    queue = MemoryQueue()
    process = Process(queue)
    old = process.codec.pack(some(50), 1_000_000 - WATCHDOG_MS - 1)
    for _ in range(100):
        queue.put(old[0].body)
    process.lanes.eats = False
    running(process)
    process.lanes.eats = True
    await eventually(lambda: process.count("stale") == 100)
    assert not process.lanes.got
    await eventually(lambda: queue.acknowledged == 100)


async def test_while_what_arrives_is_late_new_tasks_stay_here(running: Run) -> None:
    queue = MemoryQueue()
    process = Process(queue)
    running(process)
    await reached(process)
    queue.mute = True
    (late,) = process.codec.pack(some(5), 1_000_000 - 6_000)
    queue.mute = False
    queue.put(late.body)
    await eventually(lambda: len(process.lanes.got) == 5)
    await eventually(lambda: process.queue.state().through == "broker")  # nothing more waits there


async def test_copies_losses_and_disorder_change_nothing_but_when(running: Run) -> None:
    chance = random.Random(7)
    queue = MemoryQueue()
    queue.copies = lambda: chance.choice((0, 1, 1, 2, 3))
    queue.places = lambda size: chance.randint(0, size)
    process = Process(queue)
    running(process)
    await reached(process)
    for number in range(200):
        await process.queue.publish(some(3, f"{number}-0"))
    await eventually(lambda: not queue.ready and not queue.taken)
    assert set(process.lanes.names) <= {task.text for n in range(200) for task in some(3, f"{n}-0")}


async def test_an_acknowledgement_that_is_lost_brings_a_copy(running: Run) -> None:
    queue = MemoryQueue()
    queue.eats_acknowledgements = True
    process = Process(queue)
    running(process)
    await reached(process)
    await process.queue.publish(some(3))
    await eventually(lambda: len(process.lanes.got) == 3)
    queue.eats_acknowledgements = False
    queue.redeliver()
    await eventually(lambda: len(process.lanes.got) == 6)
    await eventually(lambda: queue.acknowledged == 1)


async def test_two_logs_on_one_queue_deliver_their_own(running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "NOT_OURS_PAUSE_S", 0.01)
    queue = MemoryQueue()
    one, other = Process(queue, "log-1"), Process(queue, "log-2")
    running(one), running(other)
    await reached(one, other)
    for number in range(10):
        await one.queue.publish(some(1, f"{number}-1"))
        await other.queue.publish(some(1, f"{number}-2"))
    await eventually(lambda: len(one.lanes.got) == len(other.lanes.got) == 10)
    assert all(task.id.event.endswith("-1") for task in one.lanes.got)
    assert all(task.id.event.endswith("-2") for task in other.lanes.got)


async def test_what_is_no_chunk_is_buried_with_its_reason(running: Run) -> None:
    queue = MemoryQueue()
    process = Process(queue)
    forged = chunk.Codec("log-1", "another secret..", 0).probe(5)
    for body in (b"", b"hello", forged, bytes(2_000_000)):
        queue.put(body)
    running(process)
    await eventually(lambda: len(queue.dead) == 4)
    assert {"unreadable", "forged"} == {reason.rpartition(" ")[2] for _, reason in queue.dead}
    assert 4 == process.count("unreadable")


async def test_without_dead_letters_it_is_acknowledged(running: Run) -> None:
    queue = MemoryQueue()
    process = Process(queue)
    process.broker._dead_letters = False
    queue.put(b"hello")
    running(process)
    await eventually(lambda: queue.acknowledged == 1)


async def test_what_was_sent_ahead_goes_to_others_by_due_before_its_lock_ends(
    running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "AHEAD_S", 0.05)
    queue = MemoryQueue()
    ahead = broker.Limits(message_bytes=262_144, call_messages=10, call_bytes=1 << 20, lock_s=60, ahead=64)
    process = Process(queue, limits=ahead)
    running(process)
    await reached(process)
    process.lanes.eats = False
    await eventually(lambda: not process.broker.receiving)
    process.redis_away = True
    queue.put(process.codec.pack(some(5), 1_000_000)[0].body)
    await eventually(lambda: bool(queue.taken) and process.tried > 1)
    assert not queue.acknowledged
    process.redis_away = False
    await eventually(lambda: queue.acknowledged == 1)
    assert {(task.text, 0) for task in some(5)} == set(process.released)
    assert not process.lanes.got


async def test_a_consumer_that_hears_nothing_of_what_it_sends_is_opened_anew(
    running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "SILENT_S", 0.1)
    monkeypatch.setattr(receiving, "SILENT_CHUNKS", 10)
    queue = MemoryQueue()
    process = Process(queue)
    running(process)
    await reached(process)
    queue.mute = True
    for number in range(20):
        await process.queue.publish(some(1, f"{number}-0"))
        await asyncio.sleep(0)
    await eventually(lambda: process.broker.prepared >= 2)


async def test_at_a_stop_what_was_published_is_confirmed_or_in_the_lanes() -> None:
    queue = MemoryQueue()
    process = Process(queue)
    stop = asyncio.Event()
    run = asyncio.create_task(process.queue.run(stop))
    await reached(process)
    queue.mute = True
    await process.queue.publish(some(120))
    stop.set()
    await run
    lying = {task.text for message in queue.ready for task in process.codec.read(message.body).tasks}
    assert {task.text for task in some(120)} == lying | set(process.lanes.names)


async def test_a_run_that_is_cancelled_leaves_no_task_behind() -> None:
    process = Process(MemoryQueue())
    before = asyncio.all_tasks()
    run = asyncio.create_task(process.queue.run(asyncio.Event()))
    await reached(process)
    await process.queue.publish(some(120))
    run.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await run
    assert before == asyncio.all_tasks()
