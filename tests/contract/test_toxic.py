"""The misbehaving proxy of the harness misbehaves as it says, and passes everything otherwise."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.harness.polling import eventually
from tests.harness.toxic import Toxic

LIMIT_S = 60.0  # only what fails waits so long


@pytest.fixture
async def proxy() -> AsyncIterator[Toxic]:
    """In front of a server that answers every byte by itself."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65_536):
                writer.write(piece)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Toxic(*server.sockets[0].getsockname()[:2]) as running:
        yield running


class Peer:
    """A connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def of(cls, proxy: Toxic) -> Peer:
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def ask(self, said: bytes) -> bytes:
        self.writer.write(said)
        return await asyncio.wait_for(self.reader.readexactly(len(said)), LIMIT_S)

    async def close(self) -> None:
        self.writer.transport.abort()


async def test_a_slow_link_carries_so_many_bytes_a_second_of_all_connections_together(proxy: Toxic) -> None:
    proxy.rate = 400_000
    peers = [await Peer.of(proxy) for _ in range(2)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert [b"x" * 100_000] * 2 == [*await asyncio.gather(*(peer.ask(b"x" * 100_000) for peer in peers))]
    assert loop.time() - began >= 0.5
    for peer in peers:
        await peer.close()


async def test_connections_to_come_are_led_to_another_server(proxy: Toxic) -> None:
    async def says(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"another")
        writer.close()

    server = await asyncio.start_server(says, "127.0.0.1", 0)
    async with server:
        proxy.lead_to(*server.sockets[0].getsockname()[:2])
        peer = await Peer.of(proxy)
        assert b"another" == await asyncio.wait_for(peer.reader.read(), LIMIT_S)
        await peer.close()


async def test_everything_passes_both_ways_and_so_does_the_end(proxy: Toxic) -> None:
    peer = await Peer.of(proxy)
    said = b"x" * 300_000
    assert said == await peer.ask(said)
    peer.writer.write_eof()
    assert b"" == await asyncio.wait_for(peer.reader.read(), LIMIT_S)
    await peer.close()
    await eventually(lambda: 0 == proxy.open)


async def test_a_reset_ends_what_is_open_and_lets_in_what_comes(proxy: Toxic) -> None:
    peer = await Peer.of(proxy)
    assert b"a" == await peer.ask(b"a")
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await peer.ask(b"b")
    again = await Peer.of(proxy)
    assert b"c" == await again.ask(b"c")
    await again.close()


async def test_a_cut_lets_so_many_bytes_of_an_answer_through(proxy: Toxic) -> None:
    peer = await Peer.of(proxy)
    proxy.cut_after(5)
    assert b"abc" == await peer.ask(b"abc")
    peer.writer.write(b"defg")
    assert b"de" == await asyncio.wait_for(peer.reader.readexactly(2), LIMIT_S)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(peer.reader.read(), LIMIT_S)
    again = await Peer.of(proxy)
    assert b"once" == await again.ask(b"once")
    await again.close()


async def test_a_stall_accepts_and_answers_nobody_until_it_ends(proxy: Toxic) -> None:
    before = await Peer.of(proxy)
    assert b"a" == await before.ask(b"a")
    proxy.stall()
    during = await Peer.of(proxy)
    asked = [asyncio.create_task(peer.ask(b"late")) for peer in (before, during)]
    done, _ = await asyncio.wait(asked, timeout=0.1)
    assert set() == done
    proxy.flow()
    assert [b"late", b"late"] == await asyncio.gather(*asked)
    await before.close()
    await during.close()


async def test_refusing_is_a_port_where_nobody_listens_until_it_accepts_again(proxy: Toxic) -> None:
    await proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await Peer.of(proxy)
    await proxy.accept()
    peer = await Peer.of(proxy)
    assert b"a" == await peer.ask(b"a")
    await peer.close()


async def test_latency_delays_each_way(proxy: Toxic) -> None:
    proxy.latency_s = 0.05
    peer = await Peer.of(proxy)
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert b"a" == await peer.ask(b"a")
    assert loop.time() - started >= 0.1
    proxy.heal()
    assert b"b" == await peer.ask(b"b")
    await peer.close()
