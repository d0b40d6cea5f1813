"""What only our own delivery client promises: which connections it keeps, how long, how many, and in which order.

What it has in common with every client is in `test_webhook_delivery`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from outpost.adapters.egress import guard as egress
from outpost.adapters.egress import names
from outpost.adapters.http import client, connection, failures, protocol_client, reading
from outpost.adapters.http import pool as pools
from outpost.adapters.shared import trust
from tests.harness import receiver as receivers
from tests.harness.polling import eventually
from tests.harness.receiver import Do, Receiver, Take, WaitFor, answer, head

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture is deprecated")

OK = client.Answer(200, b"")
ClientMaker = Callable[..., protocol_client.ProtocolClient]


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return request.param()


@pytest.fixture
async def make() -> AsyncIterator[ClientMaker]:
    made: list[protocol_client.ProtocolClient] = []
    known: list[names.Names] = []

    def maker(
        connections: int = 100,
        lookup: Callable[[str], list[str]] = lambda _: ["127.0.0.1"],
    ) -> protocol_client.ProtocolClient:
        guard = egress.Guard(["127.0.0.0/8"])
        known.append(names.Names(guard, lookup))
        made.append(protocol_client.ProtocolClient(guard, known[-1], max_body_bytes=1000, connections=connections))
        return made[-1]

    yield maker
    for one in made:
        await one.close()
    for each in known:
        each.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as one:
        yield one


async def post(
    sender: client.Client,
    url: str,
    body: bytes = b"{}",
    within: float = 10.0,
) -> client.Answer | client.Unanswered:
    return await sender.post(sender.endpoint(url), b"", body, asyncio.get_running_loop().time() + within)


async def test_the_request_goes_out_byte_for_byte(make: ClientMaker, receiver: Receiver) -> None:
    sender = make()
    await sender.post(
        sender.endpoint(receiver.url("/a?b=c")),
        "X-A: ü\r\n".encode(),
        b"[1]",
        asyncio.get_running_loop().time() + 10,
    )
    assert receiver.requests[0].raw_head == (
        f"POST /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:{receiver.port}\r\nX-A: ü\r\nContent-Length: 3\r\n\r\n".encode()
    )


@pytest.mark.parametrize(
    "later",
    [
        pytest.param(answer(500), id="a whole answer"),
        pytest.param([b"\r\n"], id="a line end"),
        pytest.param([head(408)[:-2]], id="half a head"),
    ],
)
async def test_what_nobody_asked_for_ends_a_kept_connection(
    make: ClientMaker,
    receiver: Receiver,
    later: receivers.Script,
) -> None:
    go_on = asyncio.Event()
    receiver.then([*answer(201), WaitFor(go_on), *later, Do.HANG])
    sender = make()
    assert client.Answer(201, b"") == await post(sender, receiver.url())
    go_on.set()
    await eventually(lambda: receiver.open == 0)
    assert OK == await post(sender, receiver.url())
    assert receiver.connections == 2


@pytest.mark.parametrize("said", [b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", b""], ids=["data", "hang-up"])
async def test_what_the_loop_has_not_seen_yet_is_seen_before_a_kept_connection_is_used(
    make: ClientMaker,
    said: bytes,
) -> None:
    """The peer is a plain socket, written to and closed without a turn of the loop before the next send."""
    loop = asyncio.get_running_loop()
    sender = make()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        for _ in range(3):
            task = asyncio.ensure_future(post(sender, url))
            peer, _ = await loop.sock_accept(server)
            with peer:
                while b"{}" not in await loop.sock_recv(peer, 65_536):
                    pass
                await loop.sock_sendall(peer, answer(201)[0])
                assert client.Answer(201, b"") == await task
                if said:
                    peer.send(said)


LEFT_OVER = b"hello, here is what was left of an answer"


@pytest.mark.parametrize(
    "end",
    [
        pytest.param([Do.CLOSE], id="a hang-up"),
        pytest.param([Do.RESET], id="a reset"),
        pytest.param([LEFT_OVER, *answer(500)], id="the rest of the last answer"),
        pytest.param([b"\r\n", Do.CLOSE], id="a line end"),
        pytest.param(answer(408, b"", "Connection: close"), id="the word for a connection that is closed"),
    ],
)
@pytest.mark.parametrize("kept", [1, 3])
async def test_what_ends_a_kept_connection_instead_of_an_answer_costs_no_attempt(
    make: ClientMaker, receiver: Receiver, end: receivers.Script, kept: int
) -> None:
    """The request goes out once more, on a new connection, whatever else is kept."""
    go_on = asyncio.Event()
    receiver.then(*([[WaitFor(go_on), *answer(201)]] * kept))
    sender = make()
    first = [asyncio.ensure_future(post(sender, receiver.url())) for _ in range(kept)]
    await eventually(lambda: len(receiver.requests) == kept)
    go_on.set()
    await asyncio.gather(*first)
    receiver.then(end, answer(202))
    assert client.Answer(202, b"") == await post(sender, receiver.url(), b"twice")
    assert ([b"twice"] * 2, kept + 1) == ([each.body for each in receiver.requests[kept:]], receiver.connections)


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        ([Do.CLOSE], client.Unanswered("connection_reset")),
        ([LEFT_OVER, Do.CLOSE], failures.unreadable("it does not begin with an HTTP status line")),
        (answer(408, b"", "Connection: close"), client.Answer(408, b"")),
    ],
)
async def test_a_new_connection_that_ends_so_is_the_attempts_outcome(
    make: ClientMaker, receiver: Receiver, end: receivers.Script, outcome: object
) -> None:
    receiver.then(end)
    sender = make()
    assert outcome == await post(sender, receiver.url())
    receiver.then(answer(200), end, end)  # nor is it tried a third time
    assert OK == await post(sender, receiver.url())
    assert outcome == await post(sender, receiver.url())
    assert 4 == len(receiver.requests)


async def test_part_of_an_answer_and_a_408_that_is_meant_are_not_sent_again(
    make: ClientMaker, receiver: Receiver
) -> None:
    receiver.then(answer(200), answer(408), [head(500)[:9], Do.CLOSE])
    sender = make()
    assert OK == await post(sender, receiver.url())
    assert client.Answer(408, b"") == await post(sender, receiver.url())
    assert client.Unanswered("connection_reset") == await post(sender, receiver.url())
    assert (3, 1) == (len(receiver.requests), receiver.connections)


async def test_the_second_sending_has_what_is_left_of_the_time(make: ClientMaker, receiver: Receiver) -> None:
    receiver.then(answer(200), [Do.CLOSE], [Do.HANG])
    sender = make()
    assert OK == await post(sender, receiver.url())
    assert client.Unanswered("timeout") == await post(sender, receiver.url(), within=0.5)
    assert 3 == len(receiver.requests)


@pytest.mark.case(7)
@pytest.mark.parametrize("pieces", [1, 2])
async def test_a_body_that_a_status_does_not_have_harms_no_later_answer(
    make: ClientMaker, receiver: Receiver, pieces: int
) -> None:
    said = head(204, "Content-Length: 5"), b"hello"
    receiver.then([b"".join(said)] if pieces == 1 else list(said))
    sender = make()
    assert client.Answer(204, b"") == await post(sender, receiver.url())
    assert OK == await post(sender, receiver.url())
    assert (2, 2) == (len(receiver.requests), receiver.connections)


EARLY = client.Unanswered("early_answer", "The answer came before the whole request was sent")
BIG = b"x" * 20_000_000  # more than the kernels of both sides hold


@pytest.mark.parametrize("status", [200, 410, 503])
async def test_what_a_peer_says_before_it_is_asked_is_no_answer(make: ClientMaker, status: int) -> None:
    """The greeting is there before the client writes: the test lets the loop see it first."""
    loop = asyncio.get_running_loop()
    sender = make()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        task = asyncio.ensure_future(post(sender, f"http://127.0.0.1:{server.getsockname()[1]}/"))
        peer, _ = await loop.sock_accept(server)
        with peer:
            peer.send(answer(status)[0])
            said = await task
            # Where the request was written first, this is its answer: no client can tell.
            assert said in (EARLY, client.Answer(status, b""))
            if said == EARLY:
                assert b"" == await loop.sock_recv(peer, 65_536)


async def test_a_connection_on_which_the_peer_spoke_first_carries_no_request() -> None:
    """Driven by hand, so that the order is certain."""
    loop = asyncio.get_running_loop()
    for wait_for_the_loop in (True, False):
        one = connection.Connection(loop, "http://x:1", reading.Reader(1000), lambda _: None)
        with socket.create_server(("127.0.0.1", 0)) as server:
            await loop.create_connection(lambda one=one: one, *server.getsockname())
            peer, _ = server.accept()
            with peer:
                peer.send(answer(200)[0])
                if wait_for_the_loop:
                    await eventually(lambda one=one: not one._usable)
                assert EARLY == await one.exchange(b"POST / HTTP/1.1\r\n\r\n", loop.time() + 10)
                assert not one.keep()
                peer.setblocking(False)
                with contextlib.suppress(ConnectionResetError):
                    assert b"" == await loop.sock_recv(peer, 65_536)


@pytest.mark.parametrize("later", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["at once", "after an interim"])
@pytest.mark.parametrize("status", [200, 204])
async def test_a_success_before_the_request_was_out_is_none(make: ClientMaker, status: int, later: bytes) -> None:
    never = asyncio.Event()
    greeting = [Take(1000), later + head(status, "Content-Length: 0"), WaitFor(never)]
    async with Receiver(greeting=greeting) as impatient:
        assert EARLY == await post(make(), impatient.url(), BIG)


@pytest.mark.parametrize("ending", [[Do.CLOSE], [WaitFor(asyncio.Event())]], ids=["hang-up", "no more time"])
async def test_nor_does_it_count_however_the_answer_ends(make: ClientMaker, ending: receivers.Script) -> None:
    async with Receiver(greeting=[Take(1000), head(200) + b"begun", *ending]) as impatient:
        said = await post(make(), impatient.url(), BIG, within=1.0)
    # A hang-up with unread bytes is a reset, which may overtake the answer.
    assert said in (EARLY, client.Unanswered("connection_reset"))


async def test_a_refusal_before_the_request_was_out_counts_and_ends_the_connection(make: ClientMaker) -> None:
    never = asyncio.Event()
    async with Receiver(greeting=[Take(1000), *answer(413), WaitFor(never)]) as impatient:
        sender = make()
        for number in (1, 2):
            assert client.Answer(413, b"") == await post(sender, impatient.url(), BIG)
            assert number == impatient.connections


async def test_a_success_after_a_large_request_was_read_counts_and_the_connection_is_kept(
    make: ClientMaker, receiver: Receiver
) -> None:
    sender = make()
    for _ in range(5):
        assert OK == await post(sender, receiver.url(), b"x" * 3_000_000)
    assert receiver.connections == 1


async def test_what_the_peers_machine_has_not_taken_is_not_out() -> None:
    """The request fits into the buffers of our kernel, so that nothing is left in the process."""
    loop = asyncio.get_running_loop()
    one = connection.Connection(loop, "http://x:1", reading.Reader(1000), lambda _: None)
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.listen()
        transport, _ = await loop.create_connection(lambda: one, *server.getsockname())
        peer, _ = server.accept()
        with peer:
            task = asyncio.ensure_future(one.exchange(b"x" * 100_000, loop.time() + 60))
            await eventually(lambda: not task.done() and connection._unacknowledged_bytes(one._file) > 0)
            await eventually(lambda: transport.get_write_buffer_size() == 0)
            peer.send(answer(200)[0])
            assert EARLY == await task
            transport.abort()


async def test_what_was_not_used_for_long_is_closed_by_one_timer(
    make: ClientMaker,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.2)
    sender = make()
    receiver.always(receivers.after(0.05, answer(200)))
    await asyncio.gather(*(post(sender, receiver.url()) for _ in range(5)))
    assert receiver.open == 5
    await eventually(lambda: receiver.open == 0)
    assert OK == await post(sender, receiver.url())
    assert receiver.connections == 6


async def test_a_connection_is_not_used_for_longer_than_its_peer_keeps_it(
    make: ClientMaker,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receiver.then(answer(200, b"", "Keep-Alive: timeout=1"), answer(200, b"", "Keep-Alive: timeout=30"))
    sender = make()
    for _ in range(3):
        assert OK == await post(sender, receiver.url())
    assert [0, 1, 1] == [request.connection for request in receiver.requests]


async def test_a_kept_connection_holds_nothing_of_the_last_answer(receiver: Receiver) -> None:
    loop = asyncio.get_running_loop()
    receiver.always(answer(200, b"x" * 900, "Retry-After: 5"))
    pool = pools.Pool(loop, 10, 1000)
    for keep_headers in (False, True):
        one = pool.new("http://x:1", keep_headers=keep_headers)
        await loop.create_connection(lambda one=one: one, "127.0.0.1", receiver.port)
        said = await one.exchange(b"POST / HTTP/1.1\r\n\r\n", loop.time() + 60)
        assert isinstance(said, client.Answer)
        pool.give_back(one)
        assert one.fit()
        held = gc.get_referents(one._reader)
        assert not [each for each in held if each is said or (isinstance(each, bytes | list) and each)]
    await pool.close()


async def test_a_connection_is_renewed_when_it_is_old(
    make: ClientMaker,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sender = make()
    monkeypatch.setattr(connection, "MAX_AGE_SECONDS", 0.0)
    for _ in range(2):
        assert OK == await post(sender, receiver.url())
    assert receiver.connections == 2


async def test_the_connection_used_last_is_used_first(make: ClientMaker, receiver: Receiver) -> None:
    receiver.always(receivers.after(0.02, answer(200)))
    sender = make()
    await asyncio.gather(*(post(sender, receiver.url()) for _ in range(5)))
    for _ in range(5):
        await post(sender, receiver.url())
    assert 1 == len({request.connection for request in receiver.requests[5:]})


async def test_kept_connections_make_room_the_one_unused_for_longest_first(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    sender = make(connections=3)
    for host in ("a", "b", "c", "a", "d"):
        assert OK == await post(sender, receiver.url(host=f"{host}.test"))
    await eventually(lambda: receiver.open == 3)
    for host in ("c", "a", "d", "b"):
        await post(sender, receiver.url(host=f"{host}.test"))
    assert [0, 1, 2, 0, 3, 2, 0, 3, 4] == [request.connection for request in receiver.requests]


async def test_a_burst_to_one_origin_keeps_its_connections_for_the_next_one(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    go_on = asyncio.Event()
    receiver.always([WaitFor(go_on), *answer(200)])
    sender = make(connections=300)
    for _ in range(2):
        tasks = [asyncio.ensure_future(post(sender, receiver.url())) for _ in range(300)]
        go_on.set()
        await asyncio.gather(*tasks)
    assert 300 >= receiver.connections


async def test_every_request_on_a_connection_has_its_own_deadline(make: ClientMaker, receiver: Receiver) -> None:
    """The timer outlives requests: a later deadline must not be cut short by it, nor an earlier one missed."""
    sender = make()
    for before, within in ((0.2, 5.0), (5.0, 0.2)):
        receiver.then(answer(200), receivers.after(0.4, answer(200)))
        assert OK == await post(sender, receiver.url(), within=before)
        late = await post(sender, receiver.url(), within=within)
        assert (OK if within == 5.0 else client.Unanswered("timeout")) == late
    assert receiver.connections == 1


@pytest.mark.case(12)
async def test_of_eight_addresses_the_last_is_reached_and_asked_first_next_time(
    make: ClientMaker, receiver: Receiver
) -> None:
    receiver.always(answer(200, b"", "Connection: close"))
    sender = make(lookup=lambda _: [*(f"127.0.0.{last}" for last in range(2, 9)), "127.0.0.1"])
    tried: list[str] = []
    assert OK == await post(sender, receiver.url(host="many.test"))
    assert sender._bound is not None
    attempt = sender._bound.connector._attempt

    async def counted(endpoint: object, address: str, seconds: float) -> connection.Connection:
        tried.append(address)
        return await attempt(endpoint, address, seconds)  # type: ignore[arg-type]

    sender._bound.connector._attempt = counted  # type: ignore[method-assign,assignment]
    assert OK == await post(sender, receiver.url(host="many.test"))
    assert ["127.0.0.1"] == tried


@pytest.mark.case(12)
async def test_the_address_that_answered_is_asked_first_next_time(make: ClientMaker, receiver: Receiver) -> None:
    asked: list[str] = []
    receiver.always(answer(200, b"", "Connection: close"))
    sender = make(lookup=lambda _: ["127.0.0.2", "127.0.0.1"])
    with socket.create_server(("127.0.0.2", receiver.port)) as other:
        other.close()
        for _ in range(2):
            assert OK == await post(sender, receiver.url(host="two.test"))
    with socket.create_server(("127.0.0.2", receiver.port)) as other:
        other.setblocking(False)
        assert OK == await post(sender, receiver.url(host="two.test"))
        with pytest.raises(BlockingIOError):
            asked.append(str(other.accept()))
    assert [] == asked


async def test_closing_unused_or_twice_does_nothing(make: ClientMaker, receiver: Receiver) -> None:
    sender = make()
    await sender.close()
    await sender.close()
    assert client.Unanswered("network_error") == await post(sender, receiver.url())
    assert receiver.connections == 0


async def test_a_send_that_waits_for_a_slot_ends_when_the_client_is_closed(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    receiver.always([Do.HANG])
    sender = make(connections=1)
    tasks = [asyncio.ensure_future(post(sender, receiver.url())) for _ in range(3)]
    await eventually(lambda: receiver.requests)
    await sender.close()
    assert all(isinstance(one, client.Unanswered) for one in await asyncio.wait_for(asyncio.gather(*tasks), 60))
    assert len(receiver.requests) == 1


def test_the_systems_authorities_are_loaded_once_and_certificates_are_checked() -> None:
    for context in (trust.http, trust.plain):
        assert context() is context()
        assert context().verify_mode == ssl.CERT_REQUIRED
        assert context().check_hostname
