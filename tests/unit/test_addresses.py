"""The judged addresses of a host, permitted ones, or why there are none."""

from __future__ import annotations

import asyncio
import socket

import pytest

from outpost.adapters.egress import addresses
from outpost.adapters.egress import guard as egress

NAMES = {
    "public.test": ["8.8.8.8", "2606:4700::1"],
    "inside.test": ["10.0.0.1"],
    "mixed.test": ["8.8.8.8", "169.254.169.254"],
    "allowed.test": ["10.1.0.1"],
    "trusted.test": ["10.9.9.9", "127.0.0.1"],
    "x.trusted.test": ["10.9.9.9"],
    "empty.test": [],
}


def look_up(name: str) -> list[str]:
    if name not in NAMES:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return NAMES[name]


def known(*, hosts: tuple[str, ...] = ("Trusted.test.",)) -> addresses.Addresses:
    return addresses.Addresses(egress.Guard(["10.1.0.0/16"], hosts), look_up)


async def of(host: str, **options: tuple[str, ...]) -> tuple[str, ...]:
    one = known(**options)
    try:
        return await one.of(host)
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
async def test_the_addresses_of_a_host_are_those_that_are_permitted(host: str, found: tuple[str, ...]):
    assert found == await of(host)


@pytest.mark.parametrize(
    "host",
    [
        "inside.test",
        "mixed.test",
        "x.trusted.test",
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
async def test_a_host_that_may_not_be_spoken_to_is_blocked_one_bad_address_is_enough(host: str):
    with pytest.raises(addresses.Blocked):
        await of(host)


@pytest.mark.parametrize("host", ["no-such.test", "empty.test"])
async def test_a_host_without_an_address_is_unknown(host: str):
    with pytest.raises(addresses.Unknown):
        await of(host)


async def test_an_address_is_not_trusted_for_standing_among_the_hosts():
    with pytest.raises(addresses.Blocked):
        await of("10.0.0.1", hosts=("10.0.0.1",))


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


async def test_one_who_gives_up_looking_a_name_up_leaves_it_to_the_others():
    asked, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(_: str) -> list[str]:
        loop.call_soon_threadsafe(asked.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(5)
        return ["8.8.8.8"]

    one = addresses.Addresses(egress.Guard(), slow)
    first, second = (asyncio.create_task(one.of("slow.test")) for _ in range(2))
    await asked.wait()
    first.cancel()
    go_on.set()
    assert ("8.8.8.8",) == await second
    assert first.cancelled()
    one.close()
