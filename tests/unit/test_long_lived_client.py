"""A held client: opened once for all, thrown away when it broke; who gives up waiting takes no other with it."""

from __future__ import annotations

import asyncio

import pytest

from outpost.adapters.shared import long_lived_client
from tests.harness import cycles
from tests.harness.polling import eventually


class Client:
    def __init__(self, number: int) -> None:
        self.number = number


class Service:
    """Opens and shuts clients as far as the test lets it."""

    def __init__(self) -> None:
        self.opened = 0
        self.shut: list[int] = []
        self.opening, self.shutting = asyncio.Event(), asyncio.Event()
        self.opening.set()
        self.shutting.set()
        self.failure: Exception | None = None

    async def open(self) -> Client:
        self.opened += 1
        number = self.opened
        await self.opening.wait()
        if self.failure is not None:
            raise self.failure
        return Client(number)

    async def close(self, client: Client) -> None:
        await self.shutting.wait()
        self.shut.append(client.number)

    def held(self, limit_s: float = 600.0) -> long_lived_client.LongLivedClient[Client]:
        return long_lived_client.LongLivedClient(self.open, self.close, limit_s)


@pytest.fixture
async def service() -> Service:
    return Service()


async def waiting(
    client: long_lived_client.LongLivedClient[Client], service: Service, count: int
) -> list[asyncio.Task[Client]]:
    """That many who wait for an opening that has begun."""
    service.opening.clear()
    tasks = [asyncio.create_task(client.get()) for _ in range(count)]
    while not service.opened:
        await asyncio.sleep(0)
    return tasks


async def test_it_is_opened_once_under_concurrent_first_use(service: Service):
    client = service.held()
    tasks = await waiting(client, service, 20)
    service.opening.set()
    got = await asyncio.gather(*tasks)
    assert {got[0]} == set(got)
    assert got[0] is await client.get()
    assert 1 == service.opened
    await client.close()


async def test_one_who_gives_up_does_not_take_the_others_with_it(service: Service):
    client = service.held()
    first, *others = await waiting(client, service, 3)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    service.opening.set()
    assert [1, 1] == [(await other).number for other in others]
    await client.close()


async def test_opening_goes_on_when_all_who_asked_have_given_up(service: Service):
    client = service.held()
    [only] = await waiting(client, service, 1)
    only.cancel()
    await asyncio.gather(only, return_exceptions=True)
    service.opening.set()
    assert 1 == (await client.get()).number
    assert 1 == service.opened
    await client.close()


async def test_a_failed_opening_answers_for_a_while_and_is_then_tried_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    client = service.held()
    service.failure = ConnectionRefusedError(111, "refused")
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await client.get()
    assert 1 == service.opened
    service.failure = None
    now = long_lived_client.time.monotonic()
    monkeypatch.setattr(long_lived_client.time, "monotonic", lambda: now + long_lived_client.REMEMBERED_S + 0.1)
    assert 2 == (await client.get()).number
    await client.close()


async def test_all_who_wait_for_an_opening_that_fails_hear_of_it(service: Service):
    client = service.held()
    tasks = await waiting(client, service, 3)
    service.failure = ConnectionRefusedError(111, "refused")
    service.opening.set()
    got = await asyncio.gather(*tasks, return_exceptions=True)
    assert [ConnectionRefusedError] * 3 == [type(each) for each in got]
    await client.close()


async def test_opening_has_a_limit(service: Service):
    client = service.held(limit_s=0.05)
    service.opening.clear()
    with pytest.raises(TimeoutError):
        await client.get()
    await client.close()


async def test_what_broke_is_ended_and_the_next_one_opened(service: Service):
    client = service.held()
    first = await client.get()
    client.discard(first)
    second = await client.get()
    assert (1, 2) == (first.number, second.number)
    client.discard(first)  # another send had it too: the new one stays
    assert second is await client.get()
    await client.close()
    assert [1, 2] == sorted(service.shut)


async def test_ending_one_holds_up_nobody(service: Service):
    client = service.held()
    service.shutting.clear()
    client.discard(await client.get())
    assert 2 == (await asyncio.wait_for(client.get(), 60)).number
    service.shutting.set()
    await client.close()
    assert [1, 2] == sorted(service.shut)


async def test_closing_while_it_is_opened_ends_the_opening_and_who_waits_gets_an_error(service: Service):
    """An error of the connection: they were not cancelled themselves."""
    client = service.held()
    tasks = await waiting(client, service, 3)
    await asyncio.wait_for(client.close(), 60)
    got = await asyncio.gather(*tasks, return_exceptions=True)
    assert [ConnectionAbortedError] * 3 == [type(each) for each in got]
    assert [] == service.shut


async def test_closing_ends_a_client_that_was_opened_all_the_same(service: Service):
    """A library that does not hear of its end returns a client after all."""

    async def deaf() -> Client:
        service.opened += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return Client(7)
        raise AssertionError

    client = long_lived_client.LongLivedClient(deaf, service.close, 600.0)
    task = asyncio.create_task(client.get())
    while not service.opened:
        await asyncio.sleep(0)
    await asyncio.wait_for(client.close(), 60)
    await asyncio.gather(task, return_exceptions=True)
    assert [7] == service.shut


async def test_a_failed_opening_leaves_no_cycle_and_is_forgotten(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(long_lived_client, "REMEMBERED_S", 0.01)
    client = service.held()

    async def open_() -> Client:
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(client, "_open", open_)

    async def send(payload: bytes) -> bytes:
        await client.get()
        return payload

    async def fail() -> None:
        tasks = [asyncio.ensure_future(send(bytes(100_000))) for _ in range(3)]
        assert [ConnectionRefusedError] * 3 == [
            type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)
        ]
        del tasks
        await eventually(lambda: client._failure is None)

    left = await cycles.left_behind(fail)
    assert ({}, 0) == (dict(left.types), left.payload_bytes)
    await client.close()


async def test_closing_forgets_the_last_failure(service: Service):
    client = service.held()
    service.failure = ConnectionRefusedError(111, "refused")
    with pytest.raises(ConnectionRefusedError):
        await client.get()
    await client.close()
    assert (None, None) == (client._failure, client._forgetting)


async def test_after_closing_there_is_no_client(service: Service):
    client = service.held()
    await client.get()
    await client.close()
    with pytest.raises(ConnectionError):
        await client.get()
    await client.close()
    assert ([1], 1) == (service.shut, service.opened)


async def test_closing_does_not_wait_for_one_that_hangs(service: Service):
    client = service.held(limit_s=0.05)
    await client.get()
    service.shutting.clear()
    await asyncio.wait_for(client.close(), 60)
    assert [] == service.shut


async def test_what_goes_wrong_while_closing_is_nobodys_concern(service: Service):
    async def broken(_: Client) -> None:
        raise RuntimeError("a bug of the library")

    client = long_lived_client.LongLivedClient(service.open, broken, 1.0)
    await client.get()
    await client.close()
