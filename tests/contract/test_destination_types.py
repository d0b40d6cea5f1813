"""One suite for all destination types, against real or wire-true servers: what arrives, and what every failure is
called. A case that a type cannot have is skipped with the reason."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import resource
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from outpost import crypto
from outpost import settings as settings_
from outpost.adapters import base, codes, registry
from outpost.commands import sealing
from outpost.dispatch import publishers
from outpost.domain import delivery
from outpost.domain import tenant as tenants
from projections.config import apply
from tests.harness import destinations, servers
from tests.harness.destinations import world as worlds

DATA = b'{"b": 1.0,  "a":"<\xc3\xa9>&", "n":12345678901234567890}'  # neither compacted, sorted nor escaped
LIMIT_S = 60.0  # only what fails waits so long
SLACK_S = 30.0  # what a busy machine may add: a stalled service never answers
SEALER = crypto.Sealer("secret-of-the-test")
GOOD, BAD = 95, 5
CROWD = 5_000
SENDS = int(os.environ.get("OUTPOST_CROWD_SENDS", "50"))  # 5000: every one of them
MOST_FILES, MOST_MB = 2_000, 400  # of one type


@pytest.fixture(params=sorted(destinations.WORLDS), scope="session")
def kind(request: pytest.FixtureRequest) -> Iterator[type[worlds.World]]:
    found = destinations.world_of(request.param)
    if missing := found.missing():
        servers.leave_out(missing)
    yield found
    found.end_session()


@pytest.fixture
async def world(kind: type[worlds.World]) -> AsyncIterator[worlds.World]:
    async with kind() as started:
        yield started


class Sender:
    """One type as the dispatcher uses it."""

    def __init__(self, type_: str, **settings: Any) -> None:
        chosen = {"destinations_allowed_cidrs": ("127.0.0.0/8",), **settings}
        self.registry = registry.build(settings_.Settings(**chosen))
        adapter = self.registry.get(type_)
        assert adapter is not None
        self.adapter = adapter
        self._type = type_
        self._publishers: list[base.Publisher] = []
        self.secrets: set[str] = set()
        self._events = 0

    async def save(self, target: worlds.Target) -> base.Prepared:
        self.secrets |= {secret for key, secret in target.credentials.items() if key != "username" and secret}
        save = base.Save(target.config, target.credentials, None, target.credentials, True, 1_700_000_000_000)
        verified = await self.adapter.verify(save)
        return self.adapter.prepare(
            base.Save(
                target.config, target.credentials, None, target.credentials, True, 1_700_000_000_000, verified
            )
        )

    async def connect(
        self, target: worlds.Target, delivery_metadata: dict[str, str] | None = None
    ) -> base.Publisher:
        saved = await self.save(target)
        assert [] == saved.problems
        opened = base.OpenDestination(
            "tenant-1", "d", self._type, saved.config, saved.credentials, delivery_metadata or {}, ("*",)
        )
        publisher = await self.adapter.connect(opened)
        self._publishers.append(publisher)
        return publisher

    def event(self, data: bytes = DATA, metadata: dict[str, str] | None = None) -> base.Delivery:
        self._events += 1
        return base.Delivery(
            f"evt-{self._events}", "order.created", "2026-01-02T03:04:05.678Z", metadata or {}, data, 1
        )

    async def send(
        self, publisher: base.Publisher, *events: base.Delivery, limit_s: float = LIMIT_S
    ) -> list[delivery.Outcome]:
        began = asyncio.get_running_loop().time()
        outcomes = await publisher.send(events or [self.event()], began + limit_s)
        assert asyncio.get_running_loop().time() - began < limit_s + SLACK_S, "a deadline was not kept"
        assert len(events or [1]) == len(outcomes)
        return outcomes

    async def close(self) -> None:
        for publisher in self._publishers:
            await publisher.close()
        await self.registry.close()


@pytest.fixture
async def sender(
    world: worlds.World, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> AsyncIterator[Sender]:
    """Whatever a test does, no secret of it is in what the process says: ours and the libraries' lines alike."""
    made = Sender(world.type, **world.settings)
    yield made
    await made.close()
    said = "".join(capfd.readouterr()) + caplog.text
    assert not [secret for secret in made.secrets if secret in said]


def _needs(world: worlds.World, case: worlds.Case) -> None:
    if reason := world.cannot.get(case):
        pytest.skip(f"{world.type} has no {case}: {reason}")


def _failed(world: worlds.World, case: worlds.Case, target: worlds.Target, outcome: delivery.Outcome) -> None:
    """The outcome is the failure of this case, and holds no credential."""
    assert isinstance(outcome, delivery.Failed), outcome
    assert world.codes[case] == outcome.code, outcome
    final = case == "refused_address" or outcome.code in codes.NOT_RETRIED
    assert final != outcome.retryable
    told = json.dumps(outcome.response)
    assert not [key for key, secret in target.credentials.items() if key != "username" and secret in told]


@pytest.mark.behaviour(130)
async def test_the_body_arrives_byte_for_byte_with_its_metadata(world: worlds.World, sender: Sender):
    target = await world.target()
    publisher = await sender.connect(target, {"team": "blue", "region": "eu"})
    event = sender.event(metadata={"region": "us", "trace": "t-1"})
    [outcome] = await sender.send(publisher, event)
    assert isinstance(outcome, delivery.Delivered), outcome
    assert world.success == outcome.code
    [message] = await world.arrived(target, 1)
    assert DATA == message.body
    timestamp = message.metadata.pop("timestamp")
    assert time.strptime(timestamp, "%Y-%m-%dT%H:%M:%SZ")
    assert {
        "event-id": event.event_id,
        "topic": "order.created",
        "team": "blue",
        "region": "us",
        "trace": "t-1",
    } == message.metadata


async def test_fifty_at_once_over_one_publisher_all_arrive_once(world: worlds.World, sender: Sender):
    target = await world.target()
    publisher = await sender.connect(target)
    bodies = [json.dumps({"n": n}).encode() for n in range(50)]
    outcomes = await asyncio.gather(*(sender.send(publisher, sender.event(body), limit_s=30.0) for body in bodies))
    assert {world.success} == {outcome.code for [outcome] in outcomes}
    assert sorted(bodies) == sorted(message.body for message in await world.arrived(target, 50))


async def test_a_batch_arrives_whole_with_an_outcome_each(world: worlds.World, sender: Sender):
    target = await world.target()
    publisher = await sender.connect(target)
    assert world.batches == (publisher.max_batch > 1)
    bodies = [json.dumps({"n": n}).encode() for n in range(min(publisher.max_batch, 64))]
    outcomes = await sender.send(publisher, *(sender.event(body) for body in bodies))
    assert [world.success] * len(bodies) == [outcome.code for outcome in outcomes]
    assert sorted(bodies) == sorted(m.body for m in await world.arrived(target, len(bodies)))


async def test_one_bad_entry_of_a_batch_fails_alone(world: worlds.World, sender: Sender):
    _needs(world, "partial")
    target = await world.target()
    publisher = await sender.connect(target)
    await sender.send(publisher)  # whatever is asked once is asked before
    await world.arrived(target, 1)
    bad = await world.refuse_one(target)
    events = [sender.event(b'{"n":1}'), sender.event(bad or b'{"n":2}'), sender.event(b'{"n":3}')]
    first, second, third = await sender.send(publisher, *events)
    assert (world.success, world.success) == (first.code, third.code)
    _failed(world, "partial", target, second)
    assert {b'{"n":1}', b'{"n":3}', DATA} == {message.body for message in await world.arrived(target, 3)}


async def test_bad_ones_among_many_good_ones_are_refused_alone(world: worlds.World, sender: Sender):
    """All at once, in sends of one and of several: each good one arrives once, whatever becomes of others."""
    target = await world.target()
    events = [sender.event(json.dumps({"n": n}).encode()) for n in range(GOOD)]
    bodies = sorted(event.data for event in events)
    bad = [await world.bad(target, sender.event()) for _ in range(BAD)]
    for place, event in enumerate(bad):
        events.insert(1 + place * (GOOD // BAD), event)
    publisher = await sender.connect(target)
    sizes = [1, min(publisher.max_batch, 7)]
    sends: list[list[base.Delivery]] = []
    while events:
        size = sizes[len(sends) % 2]
        sends.append(events[:size])
        del events[:size]
    refused = {event.event_id for event in bad}
    outcomes = await asyncio.gather(*(sender.send(publisher, *batch, limit_s=60.0) for batch in sends))
    for batch, told in zip(sends, outcomes, strict=True):
        for event, outcome in zip(batch, told, strict=True):
            if event.event_id in refused:
                assert isinstance(outcome, delivery.Failed), outcome
            else:
                assert world.success == outcome.code, outcome
    assert bodies == sorted(message.body for message in await world.arrived(target, GOOD))


@pytest.mark.parametrize("case", ["wrong_credentials", "missing_target", "no_permission"])
async def test_what_the_service_refuses_has_a_code_of_its_own(
    world: worlds.World, sender: Sender, case: worlds.Case
):
    _needs(world, case)
    target = await world.target()
    changed = await getattr(world, case)(target)
    [outcome] = await sender.send(await sender.connect(changed))
    _failed(world, case, changed, outcome)
    [outcome] = await sender.send(await sender.connect(target))
    assert world.success == outcome.code  # the one beside it is none the worse


async def test_too_much_is_throttled_and_tried_again(world: worlds.World, sender: Sender):
    _needs(world, "throttled")
    target = await world.target()
    publisher = await sender.connect(target)
    await world.throttle(target)
    [outcome] = await sender.send(publisher)
    _failed(world, "throttled", target, outcome)
    await world.heal()
    [outcome] = await sender.send(publisher)
    assert world.success == outcome.code


async def test_what_is_too_large_is_not_tried_again_and_stops_nobody_else(world: worlds.World, sender: Sender):
    _needs(world, "too_large")
    target = await world.target()
    publisher = await sender.connect(target)
    [outcome] = await sender.send(publisher, sender.event(await world.too_large(target)))
    _failed(world, "too_large", target, outcome)
    [outcome] = await sender.send(publisher)
    assert world.success == outcome.code


async def test_what_does_not_answer_is_given_up_at_the_deadline(world: worlds.World, sender: Sender):
    _needs(world, "stalled")
    target = await world.target()
    publisher = await sender.connect(target)
    await sender.send(publisher)
    await world.stall(target)
    [outcome] = await sender.send(publisher, limit_s=1.0)
    _failed(world, "stalled", target, outcome)
    await world.heal()
    await _comes_back(world, sender, publisher)


async def test_a_service_that_cannot_be_reached_at_first_is_given_up_at_the_deadline(
    world: worlds.World, sender: Sender
):
    _needs(world, "stalled")
    target = await world.target()
    await world.stall(target)
    publisher = await sender.connect(target)
    [outcome] = await sender.send(publisher, limit_s=1.0)
    _failed(world, "stalled", target, outcome)
    await world.heal()
    await _comes_back(world, sender, publisher)


async def test_a_connection_cut_while_sending_is_a_failed_attempt_and_is_not_used_again(
    world: worlds.World, sender: Sender
):
    _needs(world, "cut")
    target = await world.target()
    publisher = await sender.connect(target)
    await sender.send(publisher)
    await world.cut(target)
    [outcome] = await sender.send(publisher)
    _failed(world, "cut", target, outcome)
    await _comes_back(world, sender, publisher)


async def test_a_server_that_restarts_between_two_sends_is_used_again(world: worlds.World, sender: Sender):
    _needs(world, "restarted")
    target = await world.target()
    publisher = await sender.connect(target)
    await sender.send(publisher)
    await world.restart(target)
    await _comes_back(world, sender, publisher)


async def _comes_back(world: worlds.World, sender: Sender, publisher: base.Publisher) -> None:
    async def sent() -> bool:
        [outcome] = await sender.send(publisher)
        return outcome.code == world.success

    await servers.eventually(sent)


async def test_a_publisher_of_rotated_credentials_delivers_and_the_old_one_does_not(
    world: worlds.World, sender: Sender
):
    _needs(world, "rotated")
    target = await world.target()
    old = await sender.connect(target)
    await sender.send(old)
    rotated = await world.rotate(target)
    [outcome] = await sender.send(await sender.connect(rotated))
    assert world.success == outcome.code
    fresh = await sender.connect(target)
    [outcome] = await sender.send(fresh)
    _failed(world, "rotated", target, outcome)


async def test_a_publisher_closed_while_sending_ends_its_sends_within_the_deadline(
    world: worlds.World, sender: Sender
):
    _needs(world, "stalled")
    target = await world.target()
    publisher = await sender.connect(target)
    await sender.send(publisher)
    await world.stall(target)
    sending = asyncio.create_task(sender.send(publisher, limit_s=2.0))
    await asyncio.sleep(0.1)
    await asyncio.wait_for(publisher.close(), 60)
    [outcome] = await sending
    assert isinstance(outcome, delivery.Failed)
    await world.heal()


async def test_a_send_that_is_cancelled_ends_at_once_and_the_next_one_works(world: worlds.World, sender: Sender):
    _needs(world, "stalled")
    target = await world.target()
    publisher = await sender.connect(target)
    await sender.send(publisher)
    await world.stall(target)
    sending = asyncio.create_task(sender.send(publisher, limit_s=600.0))
    await asyncio.sleep(0.2)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(sending, 60)
    await world.heal()
    await _comes_back(world, sender, publisher)


async def test_a_host_that_the_guard_refuses_is_never_connected_to(world: worlds.World, sender: Sender):
    _needs(world, "refused_address")
    target = world.refused_address(await world.target())
    publisher = await sender.connect(target)
    [outcome] = await sender.send(publisher)
    _failed(world, "refused_address", target, outcome)


async def test_an_allowed_network_is_what_lets_loopback_be_spoken_to(world: worlds.World):
    _needs(world, "refused_address")
    target = await world.target()
    closed = Sender(world.type, **{**world.settings, "destinations_allowed_cidrs": ()})
    try:
        [outcome] = await closed.send(await closed.connect(target))
        _failed(world, "refused_address", target, outcome)
    finally:
        await closed.close()


async def test_secrets_are_masked_and_in_no_repr(world: worlds.World, sender: Sender):
    target = await world.target()
    saved = await sender.save(target)
    opened = base.OpenDestination("t", "d", world.type, saved.config, saved.credentials, {})
    declared = {field.key for field in sender.adapter.description.credential_fields if field.sensitive}
    shown = sender.adapter.shown_credentials(saved.credentials, 0)
    publisher = await sender.connect(target)
    told = [repr(opened), repr(saved), repr(publisher), str(sender.adapter.target(opened)), repr(target)]
    for key in declared & saved.credentials.keys():
        assert saved.credentials[key] != shown[key]
        assert not [text for text in told if saved.credentials[key] in text]


async def test_five_thousand_destinations_stay_within_the_bounds_and_the_busy_one_stays_open(
    world: worlds.World, sender: Sender
):
    """As the dispatcher keeps them. All are opened, and `SENDS` of them send, since that is what takes time."""
    target = await world.target()
    saved = await sender.save(target)
    opened = publishers.Publishers(sender.registry, SEALER)
    files, memory = _files(), _memory_mb()
    busy = await opened.open("t", "busy", _field("busy", world.type, saved))
    opened.give_back(busy)
    most_files = 0
    for number in range(CROWD):
        lease = await opened.open("t", f"d{number}", _field(f"d{number}", world.type, saved))
        assert lease.publisher is not None
        if number % (CROWD // SENDS) == 0:
            assert [world.success] == [
                outcome.code for outcome in await sender.send(lease.publisher, limit_s=60.0)
            ]
            again = opened.known("t", "busy")
            assert again is busy, "what is used was closed for what is not"
            assert again.publisher is not None
            assert [world.success] == [outcome.code for outcome in await sender.send(again.publisher)]
            opened.give_back(again)
            most_files = max(most_files, _files())
        opened.give_back(lease)
    told = f"{most_files - files} files, {_memory_mb() - memory:.0f} MB"
    assert most_files - files < MOST_FILES, told
    assert _memory_mb() - memory < MOST_MB, told
    print(world.type, told)
    await opened.close()
    await servers.eventually(lambda: _files() <= files + 20)


def _field(id_: str, type_: str, saved: base.Prepared) -> bytes:
    credentials = sealing.seal(SEALER, "t", id_, "credentials", saved.credentials)
    config = sealing.seal(SEALER, "t", id_, "config", saved.config)
    return apply.encode_destination(
        tenants.Destination(id_, type_, ("*",), config, credentials, 1, 1, created=1, version=1)
    )


def _files() -> int:
    return len(os.listdir("/proc/self/fd"))


def _memory_mb() -> float:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1_000_000
