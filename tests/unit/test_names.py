"""Names in destinations: fair between tenants, bounded for each, failures remembered, on account of who asks."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from outpost import settings as settings_
from outpost.adapters import base, registry
from outpost.adapters.egress import guard as egress
from outpost.adapters.egress import lookup_turns, names
from tests.harness.polling import eventually

GOOD = names.Resolved(("8.8.8.8",))
LIMIT_S = 60.0


class Resolver:
    """Blocks on names that begin with `slow` until `go_on`, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go_on = threading.Event()

    def __call__(self, name: str) -> list[str]:
        self.asked.append(name)
        if name.startswith("slow"):
            self.go_on.wait(LIMIT_S)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if name.startswith("none"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ["8.8.8.8"]


@pytest.fixture
def resolver() -> Resolver:
    return Resolver()


@pytest.fixture
async def known(resolver: Resolver) -> AsyncIterator[names.Names]:
    made = names.Names(egress.Guard(), resolver)
    yield made
    resolver.go_on.set()
    made.close()


def ask_all(known: names.Names, tenant: str, count: int, kind: str = "slow") -> list[asyncio.Task[names.Verdict]]:
    return [asyncio.create_task(known.resolve(f"{kind}{number}.{tenant}.test", tenant)) for number in range(count)]


async def give_up(tasks: list[asyncio.Task[names.Verdict]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_hundred_slow_names_of_one_tenant_hold_up_no_name_of_another(
    known: names.Names, resolver: Resolver
):
    slow = ask_all(known, "hostile", 100)
    await eventually(lambda: len(resolver.asked) == lookup_turns.TENANT_THREADS)
    async with asyncio.timeout(LIMIT_S):
        found = await asyncio.gather(*ask_all(known, "healthy", 280, "good"))
    assert [GOOD] * 280 == found
    assert lookup_turns.TENANT_THREADS == len([name for name in resolver.asked if name.startswith("slow")])
    await give_up(slow)


async def test_slow_names_of_a_hundred_tenants_hold_up_no_name_that_was_prompt_before(
    known: names.Names, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(names, "KEEP_SECONDS", 0.0)
    assert [GOOD] * 5 == await asyncio.gather(*ask_all(known, "healthy", 5, "good"))
    slow = [task for number in range(100) for task in ask_all(known, f"hostile-{number}", 5)]
    await eventually(lambda: len(resolver.asked) == 5 + lookup_turns.UNPROVEN_THREADS)
    async with asyncio.timeout(LIMIT_S):
        assert [GOOD] * 5 == await asyncio.gather(*ask_all(known, "healthy", 5, "good"))
    await give_up(slow)


async def test_what_nobody_waits_for_any_more_is_not_looked_up(known: names.Names, resolver: Resolver):
    tasks = ask_all(known, "hostile", 100)
    await eventually(lambda: len(resolver.asked) == lookup_turns.TENANT_THREADS)
    await give_up(tasks)
    resolver.go_on.set()
    await eventually(lambda: not known._turns.running)
    assert lookup_turns.TENANT_THREADS == len(resolver.asked)
    assert {} == known._asked


async def test_who_has_too_many_waiting_is_told_that_there_is_no_address(
    known: names.Names, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lookup_turns, "MAX_TENANT_WAITING", 10)
    tasks = ask_all(known, "hostile", 100)
    await eventually(lambda: sum(task.done() for task in tasks) == 100 - 10 - lookup_turns.TENANT_THREADS)
    assert GOOD == await known.resolve("good.test", "healthy")
    await give_up(tasks)


async def test_a_look_up_has_a_deadline_after_which_its_name_has_no_address_and_no_second_thread(
    known: names.Names, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(names, "SLOW_SECONDS", 0.01)
    monkeypatch.setattr(names, "LOOKUP_SECONDS", 0.05)
    monkeypatch.setattr(names, "KEEP_FAILURE_SECONDS", 0.0)
    monkeypatch.setattr(names, "KEEP_FAILURE_FACTOR", 0)
    async with asyncio.timeout(LIMIT_S):
        for _ in range(3):
            assert names.UNRESOLVED == await known.resolve("slow.test", "t")
    assert ["slow.test"] == resolver.asked
    resolver.go_on.set()
    await eventually(lambda: not known._turns.running)
    assert names.UNRESOLVED == await known.resolve("slow.test", "t")
    assert ["slow.test"] * 2 == resolver.asked


async def test_new_names_of_a_tenant_that_had_a_slow_one_are_doubted(
    known: names.Names, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
):
    assert GOOD == await known.resolve("good.t.test", "t")
    monkeypatch.setattr(names, "SLOW_SECONDS", 0.01)
    tasks = ask_all(known, "t", 1)
    await eventually(lambda: "t" in known._doubted)
    loop = asyncio.get_running_loop()

    def level(name: str, tenant: str) -> lookup_turns.Level:
        return known._level(loop, known._kept.get(name), tenant)

    assert lookup_turns.Level.DOUBTFUL == level("new.test", "t")
    assert lookup_turns.Level.PROMPT == level("good.t.test", "t")
    assert lookup_turns.Level.UNPROVEN == level("new.test", "other")
    resolver.go_on.set()
    await asyncio.gather(*tasks)
    assert lookup_turns.Level.DOUBTFUL == level("slow0.t.test", "other")


async def test_a_failure_is_remembered_the_longer_the_longer_it_took(known: names.Names, resolver: Resolver):
    for _ in range(5):
        assert names.UNRESOLVED == await known.resolve("none.test", "t")
    assert ["none.test"] == resolver.asked
    loop = asyncio.get_running_loop()
    kept = {}
    for seconds in (0.1, 5.0, 100.0):
        job: names.Job = lookup_turns.Job(f"{seconds}.test")
        job.started = loop.time() - seconds
        known._learn(loop, job, names.UNRESOLVED)
        entry = known._kept.get(job.name)
        assert entry is not None
        kept[seconds] = entry.until - loop.time()
    assert {0.1: 3.0, 5.0: 15.0, 100.0: 30.0} == pytest.approx(kept, abs=1.0)


async def test_threads_that_have_nothing_to_do_are_ended_and_begun_again_when_needed(
    known: names.Names, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(names, "IDLE_THREAD_SECONDS", 0.05)
    before = {*threading.enumerate()}  # some of which end meanwhile

    def new() -> int:
        return len({*threading.enumerate()} - before)

    slow = ask_all(known, "slow", 1)
    assert [GOOD] * 30 == await asyncio.gather(*ask_all(known, "t", 30, "good"))
    await eventually(lambda: (1, 1) == (known._threads, new()), LIMIT_S)
    assert [GOOD] * 30 == await asyncio.gather(*ask_all(known, "u", 30, "good"))
    resolver.go_on.set()
    await asyncio.gather(*slow)
    await eventually(lambda: (0, 0) == (known._threads, new()), LIMIT_S)
    assert known._trimmer is None


async def test_closing_answers_all_who_wait(known: names.Names, resolver: Resolver):
    tasks = ask_all(known, "t", 20)
    await eventually(lambda: resolver.asked)
    known.close()
    assert [names.UNRESOLVED] * 20 == await asyncio.gather(*tasks)
    assert names.UNRESOLVED == await known.resolve("good.test", "t")


async def test_a_resolver_that_finds_fault_with_a_name_leaves_its_thread_alive(known: names.Names):
    def broken(name: str) -> list[str]:
        raise ValueError("embedded null character") if name == "bad.test" else UnicodeError("label too long")

    known._lookup = broken
    for name in ("bad.test", "long.test") * 3:
        assert names.UNRESOLVED == await known.resolve(name, "t")


# What each type needs to open a connection to `name.test`: its config, its credentials, settings.
KEYS = {"key": "k", "secret": "s", "session": ""}
TYPES: dict[str, tuple[dict[str, str], dict[str, str], dict[str, str]]] = {
    "webhook": ({"url": "https://name.test/"}, {"secret": "s" * 16}, {}),
    "hookdeck": (
        {},
        {"token": base64.b64encode(b"src:key").decode()},
        {"hookdeck_events_url": "https://name.test"},
    ),
    "aws_sqs": ({"queue_url": "https://name.test/1/q", "endpoint": "https://name.test"}, KEYS, {}),
    "aws_kinesis": ({"stream_name": "x", "region": "eu-west-1", "endpoint": "https://name.test"}, KEYS, {}),
    "aws_s3": ({"bucket": "bucket", "region": "eu-west-1", "endpoint": "https://name.test"}, KEYS, {}),
    "aws_eventbridge": ({"event_bus_name": "x", "region": "eu-west-1", "endpoint": "https://name.test"}, KEYS, {}),
    "azure_servicebus": (
        {"name": "q"},
        {
            "connection_string": "Endpoint=sb://name.test/;SharedAccessKeyName=n;SharedAccessKey="
            + base64.b64encode(b"k" * 32).decode()
        },
        {},
    ),
    "gcp_pubsub": ({"project_id": "project", "topic": "topic", "endpoint": "name.test:443"}, {}, {}),
    "rabbitmq": ({"server_url": "name.test:5672", "exchange": "x"}, {"username": "u", "password": "p"}, {}),
    "kafka": (
        {"brokers": "name.test:9092", "topic": "topic", "sasl_mechanism": "plain", "tls": "false"},
        {"username": "u", "password": "p"},
        {},
    ),
}


def test_every_type_is_asked():
    assert set(TYPES) == {each.type for each in registry.build(settings_.Settings()).types()}


@pytest.mark.parametrize("type_", sorted(TYPES))
async def test_every_type_looks_names_up_on_account_of_its_tenant(
    type_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[tuple[str, str]] = set()

    async def resolve(_: names.Names, name: str, tenant: str) -> names.Verdict:
        asked.add((name, tenant))
        return names.UNRESOLVED

    monkeypatch.setattr(names.Names, "resolve", resolve)
    monkeypatch.setattr(socket, "getaddrinfo", _forbidden)
    config, credentials, settings = TYPES[type_]
    types = registry.build(settings_.Settings(**settings))  # type: ignore[arg-type]
    adapter = types.get(type_)
    assert adapter is not None
    publisher = await adapter.connect(base.OpenDestination("acme", "d", type_, config, credentials, {}, ("*",)))
    event = base.Delivery("evt", "topic", "2026-01-02T03:04:05.678Z", {}, b"{}", 1)
    await publisher.send([event], asyncio.get_running_loop().time() + 10)
    assert {("name.test", "acme")} == asked
    await publisher.close()
    await types.close()


def _forbidden(*_: object, **__: object) -> Callable[..., object]:
    raise AssertionError("a library looked a name up by itself")
