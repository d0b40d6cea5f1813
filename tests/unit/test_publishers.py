"""Publishers: one open way a destination and version, built once, bounded, closed only when nobody sends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from outpost import crypto, errors
from outpost.adapters import base, registry
from outpost.commands import sealing
from outpost.dispatch import publishers as module
from outpost.domain import delivery
from outpost.domain import tenant as tenants
from projections.config import apply

SEALER = crypto.Sealer("secret-of-the-test")
KIND = base.DestinationType("fake", "", "", "", "", [], [])
pytestmark = pytest.mark.behaviour(61)


class Publisher:
    max_batch = 1

    def __init__(self, destination: base.OpenDestination) -> None:
        self.destination = destination
        self.closed = False

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        return [delivery.Delivered("200") for _ in batch]

    async def close(self) -> None:
        assert not self.closed
        self.closed = True


class Adapter:
    """A type that connects when `gate` is open, and counts what it connects."""

    description = KIND
    max_open = 10_000

    def __init__(self) -> None:
        self.built: list[Publisher] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    def prepare(self, save: base.Save) -> base.Prepared:
        return base.Prepared(save.config, save.credentials)

    async def verify(self, save: base.Save) -> base.Verified:
        return base.NOT_VERIFIED

    def target(self, destination: base.OpenDestination) -> tuple[str, str | None]:
        return "", None

    def shown_credentials(self, credentials: Mapping[str, str], now_ms: int) -> dict[str, str]:
        return dict(credentials)

    async def connect(self, destination: base.OpenDestination) -> Publisher:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.built.append(Publisher(destination))
        return self.built[-1]

    async def close(self) -> None:
        return


@pytest.fixture
async def adapter() -> Adapter:
    return Adapter()


def opened(adapter: Adapter, most: int = 100) -> module.Publishers:
    return module.Publishers(registry.Registry([adapter]), SEALER, most)


def field(version: int, *, id_: str = "d", type_: str = "fake", url: str = "u", sealer=SEALER) -> bytes:
    """The read model's field of destination `id_` of tenant `t`, as it was changed last by `version`."""
    credentials = sealing.seal(sealer, "t", id_, "credentials", {"key": "k"})
    destination = tenants.Destination(
        id_, type_, ("*",), {"url": url}, credentials, 1, 1, created=1, version=version
    )
    return apply.encode_destination(destination)


async def test_concurrent_first_use_builds_once(adapter: Adapter):
    publishers = opened(adapter)
    adapter.gate.clear()
    uses = [asyncio.create_task(publishers.open("t", "d", field(1))) for _ in range(20)]
    await asyncio.sleep(0)
    adapter.gate.set()
    leases = await asyncio.gather(*uses)
    assert 1 == len(adapter.built)
    assert {id(leases[0])} == {id(lease) for lease in leases}
    assert 20 == leases[0].users


async def test_what_is_open_is_known_by_its_version_and_its_secrets_are_open(adapter: Adapter):
    publishers = opened(adapter)
    assert publishers.known("t", "d") is None
    lease = await publishers.open("t", "d", field(4))
    assert {"key": "k"} == adapter.built[0].destination.credentials
    publishers.give_back(lease)
    known = publishers.known("t", "d")
    assert known is lease
    assert (4, 1) == (known.version, known.users)


async def test_a_changed_destination_gets_a_new_publisher_and_the_old_one_is_closed(adapter: Adapter):
    publishers = opened(adapter)
    publishers.give_back(await publishers.open("t", "d", field(1, url="old")))
    lease = await publishers.open("t", "d", field(2, url="new"))
    await publishers.closed()
    assert [True, False] == [p.closed for p in adapter.built]
    assert lease.publisher is adapter.built[1]
    assert "new" == adapter.built[1].destination.config["url"]
    assert lease is publishers.known("t", "d")


async def test_a_publisher_in_use_is_closed_when_its_last_send_is_over(adapter: Adapter):
    publishers = opened(adapter)
    first = await publishers.open("t", "d", field(1))
    second = publishers.known("t", "d")
    assert second is first
    await publishers.open("t", "d", field(2))
    publishers.give_back(first)
    assert not adapter.built[0].closed
    publishers.give_back(first)
    await publishers.closed()
    assert adapter.built[0].closed


async def test_a_slow_build_of_an_older_state_does_not_displace_the_newer_one(adapter: Adapter):
    publishers = opened(adapter)
    adapter.gate.clear()
    slow = asyncio.create_task(publishers.open("t", "d", field(1)))
    await asyncio.sleep(0)
    adapter.gate, gate = asyncio.Event(), adapter.gate
    adapter.gate.set()
    newer = await publishers.open("t", "d", field(2))
    gate.set()
    older = await slow
    assert (1, 2) == (older.version, newer.version)
    assert newer is publishers.known("t", "d")
    publishers.give_back(older)
    assert older.publisher is None
    assert newer.publisher is not None


async def test_beyond_the_bound_the_least_recently_used_is_closed(adapter: Adapter):
    publishers = opened(adapter, most=2)
    for id_ in ("a", "b"):
        publishers.give_back(await publishers.open("t", id_, field(1, id_=id_)))
    used = publishers.known("t", "a")
    assert used is not None
    publishers.give_back(used)
    await publishers.open("t", "c", field(1, id_="c"))
    await publishers.closed()
    assert {"a": False, "b": True, "c": False} == {p.destination.id: p.closed for p in adapter.built}
    assert publishers.known("t", "b") is None


async def test_what_nobody_used_for_long_is_closed_and_use_extends_it(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
):
    publishers = opened(adapter)
    for id_ in ("idle", "fresh", "busy"):
        await publishers.open("t", id_, field(1, id_=id_))
    for id_ in ("idle", "fresh", "fresh"):  # opened once, and used once more below
        lease = publishers._leases["t", id_]
        if lease.users:
            publishers.give_back(lease)
    loop = asyncio.get_running_loop()
    for id_ in ("idle", "busy"):
        publishers._leases["t", id_].used_at = loop.time() - module.IDLE_S - 1
    publishers.close_idle()
    await publishers.closed()
    assert {"idle": True, "fresh": False, "busy": False} == {p.destination.id: p.closed for p in adapter.built}


async def test_closing_closes_all_that_nobody_uses(adapter: Adapter):
    publishers = opened(adapter)
    for id_ in ("a", "b"):
        publishers.give_back(await publishers.open("t", id_, field(1, id_=id_)))
    await publishers.close()
    assert [True, True] == [p.closed for p in adapter.built]


async def test_a_destination_that_cannot_be_used_is_kept_with_the_reason(adapter: Adapter):
    publishers = opened(adapter)
    adapter.failure = errors.Invalid([errors.Problem("config.url", "pattern")])
    lease = await publishers.open("t", "d", field(1))
    assert (None, "validation_failed") == (lease.publisher, lease.problem)
    other_key = field(1, id_="e", sealer=crypto.Sealer("another"))
    assert "validation_failed" == (await publishers.open("t", "e", other_key)).problem
    unknown = field(1, id_="f", type_="no-such-type")
    assert "client_creation_failed" == (await publishers.open("t", "f", unknown)).problem


async def test_a_build_that_fails_unexpectedly_is_remembered_briefly_and_then_tried_again(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
):
    publishers = opened(adapter)
    adapter.failure = RuntimeError("a bug of an adapter")
    assert "client_creation_failed" == (await publishers.open("t", "d", field(1))).problem
    adapter.failure = None
    assert publishers.known("t", "d") is None
    assert "client_creation_failed" == (await publishers.open("t", "d", field(1))).problem
    later = asyncio.get_running_loop().time() + module.FAILED_S + 1
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: later, raising=False)
    assert (await publishers.open("t", "d", field(1))).publisher is adapter.built[0]
