"""The judged addresses of a host, on the loop and in a thread: permitted ones, or why there are none."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Awaitable, Callable

import pytest

from outpost.adapters import addresses, egress

NAMES = {
    "public.test": ["8.8.8.8", "2606:4700::1"],
    "inside.test": ["10.0.0.1"],
    "mixed.test": ["8.8.8.8", "169.254.169.254"],
    "allowed.test": ["10.1.0.1"],
    "trusted.test": ["10.9.9.9", "127.0.0.1"],
    "empty.test": [],
}
Ask = Callable[[addresses.Addresses, str], Awaitable[tuple[str, ...]] | tuple[str, ...]]


def look_up(name: str) -> list[str]:
    if name not in NAMES:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return NAMES[name]


def known(*, hosts: tuple[str, ...] = ("Trusted.test.",)) -> addresses.Addresses:
    return addresses.Addresses(egress.Guard(["10.1.0.0/16"]), hosts, look_up)


@pytest.fixture(params=[addresses.Addresses.of, addresses.Addresses.of_blocking], ids=["loop", "thread"])
def ask(request: pytest.FixtureRequest) -> Ask:
    found: Ask = request.param
    return found


async def of(ask: Ask, host: str, **options: tuple[str, ...]) -> tuple[str, ...]:
    one = known(**options)
    try:
        answer = ask(one, host)
        return await answer if inspect.isawaitable(answer) else answer
    finally:
        one.close()


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("public.test", ("8.8.8.8", "2606:4700::1")),
        ("PUBLIC.test.", ("8.8.8.8", "2606:4700::1")),
        ("8.8.8.8", ("8.8.8.8",)),
        ("0x08080808", ("8.8.8.8",)),
        ("[2606:4700::1]", ("2606:4700::1",)),
        ("10.1.2.3", ("10.1.2.3",)),
        ("allowed.test", ("10.1.0.1",)),
        ("trusted.test", ("10.9.9.9", "127.0.0.1")),
        ("TRUSTED.TEST.", ("10.9.9.9", "127.0.0.1")),
    ],
)
async def test_the_addresses_of_a_host_are_those_that_are_permitted(ask: Ask, host: str, found: tuple[str, ...]):
    assert found == await of(ask, host)


@pytest.mark.parametrize(
    "host",
    [
        "inside.test",
        "mixed.test",
        "10.0.0.1",
        "127.1",
        "2130706433",
        "169.254.169.254",
        "[::1]",
        "[::ffff:10.0.0.1]",
        "fe80::1%eth0",
        "",
    ],
)
async def test_a_host_that_may_not_be_spoken_to_is_blocked_one_bad_address_is_enough(ask: Ask, host: str):
    with pytest.raises(addresses.Blocked):
        await of(ask, host)


@pytest.mark.parametrize("host", ["no-such.test", "empty.test"])
async def test_a_host_without_an_address_is_unknown(ask: Ask, host: str):
    with pytest.raises(addresses.Unknown):
        await of(ask, host)


async def test_an_address_is_not_trusted_for_standing_among_the_hosts(ask: Ask):
    with pytest.raises(addresses.Blocked):
        await of(ask, "10.0.0.1", hosts=("10.0.0.1",))


def test_what_the_operator_lists_is_trusted_by_its_whole_name():
    one = known()
    told = {host: one.trusted(host) for host in ("trusted.test", "Trusted.TEST.", "x.trusted.test", "test")}
    assert {"trusted.test": True, "Trusted.TEST.": True, "x.trusted.test": False, "test": False} == told


async def test_a_verdict_on_a_trusted_name_does_not_make_another_one_trusted():
    one = known()
    assert ("10.9.9.9", "127.0.0.1") == await one.of("trusted.test")
    with pytest.raises(addresses.Blocked):
        await one.of("inside.test")
    one.close()


async def test_after_closing_nothing_is_known():
    one = known()
    await one.of("public.test")
    one.close()
    with pytest.raises(addresses.Unknown):
        await one.of("allowed.test")


def test_the_first_address_that_answers_is_connected_to():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with addresses.connect_blocking(("127.0.0.2", "127.0.0.1"), port, 5.0) as connected:
            assert ("127.0.0.1", port) == connected.getpeername()
            assert 5.0 == connected.gettimeout()


def test_where_none_answers_the_last_error_is_told():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        addresses.connect_blocking(("127.0.0.1",), port, 5.0)
    with pytest.raises(addresses.Unknown):
        addresses.connect_blocking((), port, 5.0)


def test_addresses_that_do_not_answer_share_the_time(monkeypatch: pytest.MonkeyPatch):
    given: list[float] = []
    now = 100.0

    def hang(_: object, timeout: float) -> socket.socket:
        nonlocal now
        given.append(timeout)
        now += timeout
        raise TimeoutError

    monkeypatch.setattr(addresses.socket, "create_connection", hang)
    monkeypatch.setattr(addresses.time, "monotonic", lambda: now)
    with pytest.raises(TimeoutError):
        addresses.connect_blocking(("a", "b", "c"), 1, 3.0)
    assert [1.0, 1.0, 1.0] == given


async def test_one_who_gives_up_looking_a_name_up_leaves_it_to_the_others():
    asked, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(_: str) -> list[str]:
        loop.call_soon_threadsafe(asked.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(5)
        return ["8.8.8.8"]

    one = addresses.Addresses(egress.Guard(), (), slow)
    first, second = (asyncio.create_task(one.of("slow.test")) for _ in range(2))
    await asked.wait()
    first.cancel()
    go_on.set()
    assert ("8.8.8.8",) == await second
    assert first.cancelled()
    one.close()
