"""What every delivery client must do, over real sockets, whatever the other side does.

A second implementation is added to `CLIENTS` and nothing else.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable

import msgspec
import psutil
import pytest
import trustme
import uvloop

from outpost.adapters.egress import guard as egress
from outpost.adapters.egress import names
from outpost.adapters.http import client, protocol_client
from tests.harness import aiohttp_client
from tests.harness import receiver as receivers
from tests.harness.polling import eventually
from tests.harness.receiver import Do, Receiver, Take, WaitFor, answer, chunked, head

# The hook that replaces this fixture can only be written in a conftest, for all tests beside this one.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture is deprecated")

CLIENTS = [
    pytest.param(protocol_client.ProtocolClient, id="protocol"),
    pytest.param(aiohttp_client.AiohttpClient, id="aiohttp"),
]
CAP = 1000
LONG = 10.0  # seconds; a deadline that is not meant to be reached
SHORT = 0.3  # seconds; one that is
ENDLESS = 100_000  # repetitions of what the other side does; nobody waits for the last
NAMES = {
    "receiver.test": ["127.0.0.1"],
    "elsewhere.test": ["127.0.0.1"],
    "two.test": ["127.0.0.2", "127.0.0.1"],
    "mixed.test": ["127.0.0.1", "10.0.0.1"],
    "inside.test": ["10.0.0.1"],
    "metadata.test": ["169.254.169.254"],
    "empty.test": [],
}

ClientMaker = Callable[..., client.Client]


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return request.param()


def look_up(name: str) -> list[str]:
    if name not in NAMES:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return NAMES[name]


@pytest.fixture(params=CLIENTS)
async def make(request: pytest.FixtureRequest) -> AsyncIterator[ClientMaker]:
    made: list[client.Client] = []
    known: list[names.Names] = []

    def maker(
        *,
        allowed: tuple[str, ...] = ("127.0.0.0/8",),
        lookup: names.Lookup = look_up,
        **options: object,
    ) -> client.Client:
        chosen = {"max_body_bytes": CAP, "connections": 100} | options
        guard = egress.Guard(allowed)
        known.append(names.Names(guard, lookup))
        made.append(request.param(guard, known[-1], **chosen))
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
    within: float = LONG,
    keep_headers: bool = False,
    **headers: str,
) -> client.Answer | client.Unanswered:
    deadline = asyncio.get_running_loop().time() + within
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    return await sender.post(sender.endpoint(url, keep_headers=keep_headers), lines, body, deadline)


async def test_the_request_carries_the_body_and_the_headers_as_given(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    result = await post(make(), receiver.url("/a%2Fb?x=1#part"), b'{ "z":1,  "a":"\\u00e9" }', custom="Yes")
    assert client.Answer(200, b"") == result
    request = receiver.requests[0]
    assert (request.method, request.target) == ("POST", "/a%2Fb?x=1")
    assert request.body == b'{ "z":1,  "a":"\\u00e9" }'
    assert request.headers["custom"] == "Yes"
    assert f"127.0.0.1:{receiver.port}" == request.headers["host"]
    assert {"host", "custom", "content-length", "accept", "accept-encoding", "user-agent", "content-type"} >= set(
        request.headers
    )


async def test_a_body_of_megabytes_arrives_whole(make: ClientMaker, receiver: Receiver) -> None:
    body = b'"' + b"x" * 3_000_000 + b'"'
    assert client.Answer(200, b"") == await post(make(), receiver.url(), body)
    assert body == receiver.requests[0].body


@pytest.mark.parametrize("status", [200, 204, 299, 302, 304, 400, 404, 410, 500, 503, 599])
async def test_the_status_is_reported_as_it_came(make: ClientMaker, receiver: Receiver, status: int) -> None:
    receiver.then(answer(status) if status not in (204, 304) else [head(status)])
    assert client.Answer(status, b"") == await post(make(), receiver.url())


async def test_when_to_come_again_is_reported_as_it_came(make: ClientMaker, receiver: Receiver) -> None:
    receiver.then(answer(503, b"no", "retry-AFTER: 7"), answer(429, b"x" * (CAP + 1), "Retry-After: 8"))
    sender = make()
    assert client.Answer(503, b"no", "", b"7") == await post(sender, receiver.url())
    assert client.Answer(429, b"", "too_large", b"8") == await post(sender, receiver.url())


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param(answer(200, b"ok", "X-A: 1"), client.Answer(200, b"ok"), id="whole"),
        pytest.param(
            answer(200, b"x" * (CAP + 1), "X-A: 1"), client.Answer(200, b"", "too_large"), id="too large"
        ),
        pytest.param(
            [head(500, "Content-Length: 2", "X-A: 1"), Do.HANG], client.Answer(500, b"", "late"), id="late"
        ),
        pytest.param(
            [head(500, "Content-Length: 2", "X-A: 1"), Do.CLOSE], client.Answer(500, b"", "broken"), id="broken"
        ),
    ],
)
async def test_the_headers_of_an_answer_are_kept_for_an_endpoint_that_wants_them(
    make: ClientMaker,
    receiver: Receiver,
    script: receivers.Script,
    expected: client.Answer,
) -> None:
    receiver.then(script, script)
    sender = make()
    assert expected == await post(sender, receiver.url(), within=SHORT)
    wanted = await post(sender, receiver.url(), within=SHORT, keep_headers=True)
    assert isinstance(wanted, client.Answer)
    assert expected == msgspec.structs.replace(wanted, headers=())
    assert [(b"X-A", b"1")] == [pair for pair in wanted.headers if pair[0] != b"Content-Length"]


async def test_the_headers_kept_are_those_of_one_answer_repeated_ones_in_their_order(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    trailed = b"Trailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"
    receiver.then(
        [head(103, "Link: </a>"), *answer(200, b"", "X-A: 1", "x-a: 2")],
        [b"HTTP/1.1 200 X\r\n" + trailed],
        answer(204, b""),
    )
    sender = make()
    told: list[list[tuple[bytes, bytes]]] = []
    for _ in range(3):
        found = await post(sender, receiver.url(), keep_headers=True)
        assert isinstance(found, client.Answer)
        told.append([(name.lower(), value) for name, value in found.headers])
    assert [(b"content-length", b"0"), (b"x-a", b"1"), (b"x-a", b"2")] == told[0]
    assert [(b"trailer", b"X-T"), (b"transfer-encoding", b"chunked")] == told[1]
    assert [(b"content-length", b"0")] == told[2]
    assert receiver.connections == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(make: ClientMaker, receiver: Receiver, status: int) -> None:
    receiver.then(answer(status, b"", f"Location: {receiver.url('/next')}"))
    assert client.Answer(status, b"") == await post(make(), receiver.url("/first"))
    assert [request.target for request in receiver.requests] == ["/first"]


async def test_a_chunked_answer_is_put_together(make: ClientMaker, receiver: Receiver) -> None:
    receiver.then(chunked(200, [b"one ", b"two ", b"three"]))
    assert client.Answer(200, b"one two three") == await post(make(), receiver.url())


async def test_an_answer_that_comes_byte_by_byte_is_put_together(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    receiver.then([bytes([byte]) for byte in answer(201, b"slowly")[0]])
    assert client.Answer(201, b"slowly") == await post(make(), receiver.url())


async def test_an_answer_without_length_ends_with_the_connection(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    receiver.then([head(200) + b"until the end", Do.CLOSE])
    assert client.Answer(200, b"until the end") == await post(make(), receiver.url())


async def test_interim_answers_are_passed_over(make: ClientMaker, receiver: Receiver) -> None:
    receiver.then([head(100), head(103, "Link: </a>"), head(102), *answer(200, b"final")])
    assert client.Answer(200, b"final") == await post(make(), receiver.url())


async def test_an_answer_of_http_1_0_is_understood(make: ClientMaker, receiver: Receiver) -> None:
    receiver.then([b"HTTP/1.0 200 OK\r\n\r\nold", Do.CLOSE])
    assert client.Answer(200, b"old") == await post(make(), receiver.url())


async def test_a_refusal_before_the_whole_body_was_read_counts(make: ClientMaker) -> None:
    early = [Take(1000), head(413, "Content-Length: 3", "Connection: close") + b"big", WaitFor(asyncio.Event())]
    async with Receiver(greeting=early) as receiver:
        assert client.Answer(413, b"big") == await post(make(), receiver.url(), b"x" * 20_000_000)


async def test_a_switch_of_protocols_is_an_answer_and_ends_the_connection(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    receiver.then([head(101, "Upgrade: websocket", "Connection: Upgrade"), Do.HANG])
    result = await post(make(), receiver.url(), within=SHORT)
    assert isinstance(result, client.Answer)
    assert result.status == 101
    await eventually(lambda: receiver.open == 0)


@pytest.mark.parametrize(
    "answered", [chunked(200, [b"x" * CAP]), answer(200, b"x" * CAP)], ids=["chunked", "plain"]
)
async def test_a_body_of_exactly_the_cap_is_kept(
    make: ClientMaker,
    receiver: Receiver,
    answered: receivers.Script,
) -> None:
    receiver.then(answered)
    assert client.Answer(200, b"x" * CAP) == await post(make(), receiver.url())


@pytest.mark.parametrize(
    "answered", [chunked(200, [b"x" * CAP, b"y"]), answer(200, b"x" * (CAP + 1))], ids=["chunked", "plain"]
)
async def test_a_body_over_the_cap_is_dropped_and_the_status_stands(
    make: ClientMaker,
    receiver: Receiver,
    answered: receivers.Script,
) -> None:
    receiver.then(answered)
    assert client.Answer(200, b"", "too_large") == await post(make(), receiver.url())


async def test_a_giant_body_is_not_read_to_its_end(make: ClientMaker, receiver: Receiver) -> None:
    receiver.then(
        [head(200, "Transfer-Encoding: chunked"), *[b"fff8\r\n" + b"x" * 0xFFF8 + b"\r\n"] * 40, Do.HANG]
    )
    assert client.Answer(200, b"", "too_large") == await post(make(), receiver.url())
    await eventually(lambda: receiver.open == 0)


async def test_a_compressed_body_is_not_unpacked(make: ClientMaker, receiver: Receiver) -> None:
    receiver.then(answer(200, b"\x1f\x8b not really", "Content-Encoding: gzip"))
    outcome = await post(make(), receiver.url())
    assert isinstance(outcome, client.Answer)
    assert (200, b"\x1f\x8b not really") == (outcome.status, outcome.body)


async def test_long_answer_headers_are_no_failure(make: ClientMaker, receiver: Receiver) -> None:
    policy = f"Content-Security-Policy: {'x' * 40_000}"
    receiver.then(answer(200, b"ok", policy, *[f"X-{n}: 1" for n in range(150)]))
    assert client.Answer(200, b"ok") == await post(make(), receiver.url())


async def test_cookies_are_not_kept(make: ClientMaker, receiver: Receiver) -> None:
    receiver.always(answer(200, b"", "Set-Cookie: session=1; Path=/"))
    sender = make()
    await post(sender, receiver.url())
    await post(sender, receiver.url())
    assert ["cookie" in request.headers for request in receiver.requests] == [False, False]


async def test_proxies_of_the_environment_are_not_used(
    make: ClientMaker,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert client.Answer(200, b"") == await post(make(), receiver.url())


async def test_a_user_in_the_url_becomes_basic_authorization(make: ClientMaker, receiver: Receiver) -> None:
    endpoint = make().endpoint(f"http://us%C3%A9r:p%40ss@127.0.0.1:{receiver.port}/x")
    assert endpoint.authorization == "Basic dXPDqXI6cEBzcw=="
    assert receiver.url("/x") == str(endpoint.url)


@pytest.mark.behaviour(89)
async def test_one_connection_is_enough_for_one_sender(make: ClientMaker, receiver: Receiver) -> None:
    receiver.always(answer(200, b"thanks"))
    sender = make()
    for _ in range(50):
        assert client.Answer(200, b"thanks") == await post(sender, receiver.url())
    assert (len(receiver.requests), receiver.connections) == (50, 1)


@pytest.mark.behaviour(89)
async def test_connections_grow_with_concurrency_not_with_deliveries(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    sender = make()

    async def work() -> None:
        for _ in range(20):
            assert client.Answer(200, b"") == await post(sender, receiver.url())

    await asyncio.gather(*(work() for _ in range(8)))
    assert len(receiver.requests) == 160
    assert receiver.connections <= 12


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(answer(200, b"", "Connection: close"), id="asked to close"),
        pytest.param([*answer(200), Do.CLOSE], id="closed at once"),
    ],
)
async def test_a_connection_that_is_no_longer_good_is_not_used_again(
    make: ClientMaker,
    receiver: Receiver,
    script: receivers.Script,
) -> None:
    sender = make()
    for turns in range(20):
        receiver.then(script)
        assert client.Answer(200, b"") == await post(sender, receiver.url())
        for _ in range(turns // 2):  # so that the peer's hang-up is seen at every point of the next send
            await asyncio.sleep(0)
    assert receiver.connections == len(receiver.requests) == 20


async def test_a_connection_that_said_more_than_announced_is_not_used_again(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    """Whether the first answer counts is left to the client."""
    receiver.then([head(200, "Content-Length: 1") + b"1HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n"])
    sender = make()
    await post(sender, receiver.url())
    assert client.Answer(200, b"") == await post(sender, receiver.url())
    assert receiver.connections == 2


@pytest.mark.behaviour(89)
@pytest.mark.parametrize(
    "script",
    [
        pytest.param([head(204)], id="no content"),
        pytest.param([head(304, "Content-Length: 5")], id="not modified"),
        pytest.param(chunked(200, [b"a", b"b"]), id="chunked"),
        pytest.param([head(100), head(103), *answer(500)], id="interim"),
        pytest.param(
            [b"HTTP/1.0 200 X\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"], id="old and kept"
        ),
        pytest.param(answer(200, b"x" * CAP), id="at the cap"),
    ],
)
async def test_a_connection_is_kept_after_every_whole_answer(
    make: ClientMaker,
    receiver: Receiver,
    script: receivers.Script,
) -> None:
    receiver.always(script)
    sender = make()
    results = [await post(sender, receiver.url()) for _ in range(3)]
    assert results[0] == results[1] == results[2]
    assert (len(receiver.requests), receiver.connections) == (3, 1)


async def test_an_old_server_that_does_not_promise_to_stay_gets_a_connection_each(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    receiver.always([b"HTTP/1.0 200 X\r\nContent-Length: 2\r\n\r\nok"])
    sender = make()
    for _ in range(3):
        assert client.Answer(200, b"ok") == await post(sender, receiver.url())
    assert receiver.connections == 3


@pytest.mark.parametrize(
    "later",
    [
        pytest.param([Do.CLOSE], id="a hang-up"),
        pytest.param([Do.RESET], id="a reset"),
    ],
)
async def test_the_end_of_a_kept_connection_is_no_failure_of_the_next_send(
    make: ClientMaker,
    receiver: Receiver,
    later: receivers.Script,
) -> None:
    go_on = asyncio.Event()
    receiver.then([*answer(201), WaitFor(go_on), *later])
    sender = make()
    assert client.Answer(201, b"") == await post(sender, receiver.url())
    go_on.set()
    await eventually(lambda: receiver.open == 0)
    assert client.Answer(200, b"") == await post(sender, receiver.url())
    assert receiver.connections == 2


async def test_lines_that_end_without_carriage_return_are_understood(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    receiver.then([b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"])
    assert client.Answer(200, b"ok") == await post(make(), receiver.url())


async def test_interim_answers_without_end_do_not_outlast_the_deadline(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    receiver.then([*[head(102), receivers.Sleep(0.01)] * ENDLESS])
    assert isinstance(await post(make(), receiver.url(), within=SHORT), client.Unanswered)
    await eventually(lambda: receiver.open == 0)


async def test_connections_in_use_have_a_bound_and_the_rest_waits(make: ClientMaker, receiver: Receiver) -> None:
    go_on = asyncio.Event()
    receiver.always([WaitFor(go_on), *answer(200)])
    sender = make(connections=2)
    patient = [asyncio.ensure_future(post(sender, receiver.url())) for _ in range(6)]
    await eventually(lambda: len(receiver.requests) == 2)
    given_up = asyncio.ensure_future(post(sender, receiver.url()))
    await asyncio.sleep(0)
    given_up.cancel()
    assert client.Unanswered("timeout") == await post(sender, receiver.url(), within=SHORT)
    assert len(receiver.requests) == 2
    go_on.set()
    assert [client.Answer(200, b"")] * 6 == await asyncio.gather(*patient)
    assert receiver.connections == 2
    assert given_up.cancelled()


@pytest.mark.case(12)
async def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.2", receiver.port))
        silent.listen(0)
        filling = [socket.socket() for _ in range(3)]  # a full backlog: further attempts to connect get no answer
        for one in filling:
            one.setblocking(False)
            one.connect_ex(("127.0.0.2", receiver.port))
        sender = make()
        assert client.Answer(200, b"") == await post(sender, receiver.url(host="two.test"), within=2.0)
        for one in filling:
            one.close()


@pytest.mark.behaviour(86)
async def test_a_port_where_nobody_listens_is_connection_refused(make: ClientMaker) -> None:
    async with Receiver() as gone:
        url = gone.url()
    assert client.Unanswered("connection_refused") == await post(make(), url)


@pytest.mark.behaviour(86)
async def test_a_reset_before_the_answer_is_connection_reset(make: ClientMaker, receiver: Receiver) -> None:
    receiver.then([Do.RESET])
    assert client.Unanswered("connection_reset") == await post(make(), receiver.url())


@pytest.mark.behaviour(86)
@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nA: b\r\n"], ids=["nothing", "line", "head"]
)
async def test_a_hang_up_before_the_head_is_complete_is_connection_reset(
    make: ClientMaker,
    receiver: Receiver,
    said: bytes,
) -> None:
    receiver.then([said, Do.CLOSE])
    assert client.Unanswered("connection_reset") == await post(make(), receiver.url())


@pytest.mark.parametrize("end", [Do.CLOSE, Do.RESET])
async def test_a_hang_up_inside_the_body_leaves_the_status(
    make: ClientMaker,
    receiver: Receiver,
    end: Do,
) -> None:
    arrived = asyncio.Event()
    receiver.then([head(200, "Content-Length: 10"), WaitFor(arrived), b"half", end])
    task = asyncio.ensure_future(post(make(), receiver.url()))
    await eventually(lambda: receiver.requests)
    arrived.set()
    assert client.Answer(200, b"", "broken") == await task


@pytest.mark.behaviour(86)
@pytest.mark.parametrize(
    "nonsense",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 abc X\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\n" + b"A" * 300_000,
    ],
)
async def test_what_is_not_http_is_a_network_error(make: ClientMaker, receiver: Receiver, nonsense: bytes) -> None:
    receiver.then([nonsense, Do.HANG])
    outcome = await post(make(), receiver.url())
    assert isinstance(outcome, client.Unanswered)
    assert "network_error" == outcome.code
    await eventually(lambda: receiver.open == 0)


@pytest.mark.behaviour(86)
async def test_a_name_without_address_is_a_dns_error(make: ClientMaker) -> None:
    sender = make()
    assert client.Unanswered("dns_error") == await post(sender, "http://unknown.test/")
    assert client.Unanswered("dns_error") == await post(sender, "http://empty.test/")
    assert client.Unanswered("dns_error") == await post(sender, f"http://{'a' * 64}.test/")


@pytest.mark.behaviour(86, 87)
async def test_no_answer_before_the_deadline_is_a_timeout(make: ClientMaker, receiver: Receiver) -> None:
    receiver.then([Do.HANG])
    began = time.monotonic()
    assert client.Unanswered("timeout") == await post(make(), receiver.url(), within=SHORT)
    assert SHORT * 0.9 < time.monotonic() - began
    await eventually(lambda: receiver.open == 0)


@pytest.mark.behaviour(86, 87)
async def test_an_endless_head_is_a_timeout(make: ClientMaker, receiver: Receiver) -> None:
    receiver.then([head(100), b"HTTP/1.1 200 OK\r\nA: b\r\n", Do.HANG])
    assert client.Unanswered("timeout") == await post(make(), receiver.url(), within=SHORT)


@pytest.mark.behaviour(86, 87)
async def test_a_peer_that_accepts_and_never_reads_is_a_timeout_that_frees_the_socket(make: ClientMaker) -> None:
    never = asyncio.Event()
    async with Receiver(greeting=[WaitFor(never)]) as receiver:
        result = await post(make(), receiver.url(), b"x" * 20_000_000, within=SHORT)
        assert client.Unanswered("timeout") == result
        await eventually(lambda: not _outgoing_sockets(receiver.port))


def _outgoing_sockets(port: int) -> list[object]:
    """The connections of this process to `port`, as the kernel sees them."""
    return [one for one in psutil.Process().net_connections() if one.raddr and one.raddr.port == port]


@pytest.mark.behaviour(86, 87)
async def test_a_body_that_does_not_arrive_leaves_the_status(make: ClientMaker, receiver: Receiver) -> None:
    receiver.then([head(200, "Content-Length: 10") + b"half", Do.HANG])
    assert client.Answer(200, b"", "late") == await post(make(), receiver.url(), within=SHORT)
    await eventually(lambda: receiver.open == 0)


async def test_a_body_that_trickles_does_not_outlast_the_deadline(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    receiver.then([head(503, "Transfer-Encoding: chunked"), *[b"1\r\nx\r\n", receivers.Sleep(0.05)] * ENDLESS])
    assert client.Answer(503, b"", "late") == await post(make(), receiver.url(), within=SHORT)


async def test_a_deadline_that_is_over_is_a_timeout(make: ClientMaker, receiver: Receiver) -> None:
    assert client.Unanswered("timeout") == await post(make(), receiver.url(), within=-1)


async def test_a_name_server_that_does_not_answer_is_a_timeout_for_that_name_only(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    answered = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(name: str) -> list[str]:
        if name == "slow.test":
            asyncio.run_coroutine_threadsafe(answered.wait(), loop).result()
        return ["127.0.0.1"]

    sender = make(lookup=slow)
    stuck = [asyncio.ensure_future(post(sender, receiver.url(host="slow.test"), within=SHORT)) for _ in range(20)]
    assert client.Answer(200, b"") == await post(sender, receiver.url(host="receiver.test"))
    assert [client.Unanswered("timeout")] * 20 == await asyncio.gather(*stuck)
    answered.set()
    assert client.Answer(200, b"") == await post(sender, receiver.url(host="slow.test"))


async def test_a_name_is_looked_up_once_for_all_and_kept(make: ClientMaker, receiver: Receiver) -> None:
    asked: list[str] = []

    def counting(name: str) -> list[str]:
        asked.append(name)
        return ["127.0.0.1"]

    sender = make(lookup=counting)
    receiver.always(answer(200, b"", "Connection: close"))
    await asyncio.gather(*(post(sender, receiver.url(host="once.test")) for _ in range(10)))
    await post(sender, receiver.url(host="once.test"))
    assert asked == ["once.test"]
    assert {f"once.test:{receiver.port}"} == {request.headers["host"] for request in receiver.requests}


async def test_the_next_address_is_tried_where_the_first_refuses(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    assert client.Answer(200, b"") == await post(make(), receiver.url(host="two.test"))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "0",
        "0.0.0.0",
        "[::]",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "127.0.0.1.",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "user@127.0.0.1",
        "receiver.test",
        "mixed.test",
        "metadata.test",
    ],
)
async def test_an_address_that_is_not_public_is_never_connected_to(
    make: ClientMaker,
    receiver: Receiver,
    host: str,
) -> None:
    result = await post(make(allowed=()), receiver.url(host=host))
    assert client.Unanswered("blocked_address", final=not host.endswith(".test")) == result
    assert receiver.connections == 0


async def test_a_name_that_was_refused_is_reached_once_it_has_a_permitted_address(
    make: ClientMaker, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verdict of the resolver's is not final, and is not kept beyond that of a name without an address."""
    monkeypatch.setattr(names, "KEEP_FAILURE_SECONDS", 0.0)
    monkeypatch.setattr(names, "KEEP_FAILURE_FACTOR", 0)
    found = [["10.0.0.1"], ["169.254.169.254"], ["127.0.0.1"]]
    sender = make(lookup=lambda _: found.pop(0))
    refused = client.Unanswered("blocked_address", final=False)
    said = [await post(sender, receiver.url(host="moving.test")) for _ in range(3)]
    assert [refused, refused, client.Answer(200, b"")] == said


async def test_one_bad_address_spoils_a_name_whose_other_address_is_allowed(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    assert client.Unanswered("blocked_address") == await post(make(), receiver.url(host="mixed.test"))
    assert client.Unanswered("blocked_address") == await post(make(), receiver.url(host="inside.test"))
    assert receiver.connections == 0


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.0.0.1", "[::ffff:127.0.0.1]", "receiver.test"])
async def test_an_allowed_address_is_reached_in_every_spelling(
    make: ClientMaker,
    receiver: Receiver,
    host: str,
) -> None:
    assert client.Answer(200, b"") == await post(make(), receiver.url(host=host))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def serving(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


async def test_tls_is_spoken_under_the_name_of_the_url_and_reused(
    make: ClientMaker,
    authority: trustme.CA,
    trust: ssl.SSLContext,
) -> None:
    context = serving(authority, "receiver.test")
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    async with Receiver(tls=context) as receiver:
        sender = make(trust=trust)
        for _ in range(3):
            assert client.Answer(200, b"") == await post(sender, receiver.url(host="receiver.test"))
        assert (len(receiver.requests), receiver.connections, asked) == (3, 1, ["receiver.test"])


async def test_tls_to_an_address_is_checked_against_the_address(
    make: ClientMaker,
    authority: trustme.CA,
    trust: ssl.SSLContext,
) -> None:
    async with Receiver(tls=serving(authority, "127.0.0.1")) as receiver:
        assert client.Answer(200, b"") == await post(make(trust=trust), receiver.url())


def code_of(outcome: client.Answer | client.Unanswered) -> str:
    """How the fault is called, whatever the sentence on it."""
    assert isinstance(outcome, client.Unanswered)
    return outcome.code


@pytest.mark.behaviour(86)
async def test_a_certificate_for_another_name_is_a_tls_error(
    make: ClientMaker,
    authority: trustme.CA,
    trust: ssl.SSLContext,
) -> None:
    async with Receiver(tls=serving(authority, "receiver.test")) as receiver:
        sender = make(trust=trust)
        assert "tls_error" == code_of(await post(sender, receiver.url(host="elsewhere.test")))
        assert "tls_error" == code_of(await post(sender, receiver.url()))
        assert receiver.requests == []


@pytest.mark.behaviour(86)
async def test_an_unknown_authority_is_a_tls_error(make: ClientMaker, authority: trustme.CA) -> None:
    async with Receiver(tls=serving(authority, "receiver.test")) as receiver:
        assert "tls_error" == code_of(await post(make(), receiver.url(host="receiver.test")))


@pytest.mark.behaviour(86)
async def test_plain_text_where_tls_was_expected_is_a_tls_error(make: ClientMaker) -> None:
    async with Receiver(greeting=[b"HTTP/1.1 400 Bad Request\r\n\r\n", Do.HANG]) as receiver:
        url = receiver.url(host="receiver.test").replace("http:", "https:")
        assert "tls_error" == code_of(await post(make(), url))


async def test_a_trailing_dot_is_no_part_of_the_identity(
    make: ClientMaker,
    authority: trustme.CA,
    trust: ssl.SSLContext,
) -> None:
    async with Receiver(tls=serving(authority, "receiver.test")) as receiver:
        sender = make(trust=trust, lookup=lambda _: ["127.0.0.1"])
        assert client.Answer(200, b"") == await post(sender, receiver.url(host="receiver.test."))


@pytest.mark.behaviour(86)
async def test_a_server_that_wants_a_certificate_of_ours_is_a_tls_error(
    make: ClientMaker,
    authority: trustme.CA,
    trust: ssl.SSLContext,
) -> None:
    context = serving(authority, "receiver.test")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    async with Receiver(tls=context) as receiver:
        result = await post(make(trust=trust), receiver.url(host="receiver.test"))
        assert isinstance(result, client.Unanswered)
        assert result.code in ("tls_error", "connection_reset")  # it refuses after our half
        assert receiver.requests == []


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([head(200) + b"until the end", Do.CLOSE], id="until close"),
        pytest.param(
            [head(200, "Connection: close", "Content-Length: 13") + b"until the end", Do.HANG], id="close"
        ),
        pytest.param(chunked(200, [b"until ", b"the end"]), id="chunked"),
    ],
)
async def test_over_tls_an_answer_is_framed_as_without(
    make: ClientMaker,
    authority: trustme.CA,
    trust: ssl.SSLContext,
    script: receivers.Script,
) -> None:
    async with Receiver(tls=serving(authority, "receiver.test")) as receiver:
        receiver.always(script)
        sender = make(trust=trust)
        for _ in range(2):
            result = await post(sender, receiver.url(host="receiver.test"), b"x" * 300_000)
            assert client.Answer(200, b"until the end") == result


async def test_over_tls_a_kept_connection_that_the_peer_closed_is_not_used(
    make: ClientMaker,
    authority: trustme.CA,
    trust: ssl.SSLContext,
) -> None:
    async with Receiver(tls=serving(authority, "receiver.test")) as receiver:
        go_on = asyncio.Event()
        receiver.then([*answer(200), WaitFor(go_on), Do.CLOSE])
        sender = make(trust=trust)
        assert client.Answer(200, b"") == await post(sender, receiver.url(host="receiver.test"))
        go_on.set()
        await eventually(lambda: receiver.open == 0)
        assert client.Answer(200, b"") == await post(sender, receiver.url(host="receiver.test"))
        assert receiver.connections == 2


@pytest.mark.parametrize("steps", range(0, 24, 2))
async def test_over_tls_a_send_can_be_cancelled_at_any_turn_of_the_loop(
    make: ClientMaker,
    authority: trustme.CA,
    trust: ssl.SSLContext,
    steps: int,
) -> None:
    async with Receiver(tls=serving(authority, "receiver.test")) as receiver:
        receiver.always([Do.HANG])
        task = asyncio.ensure_future(post(make(trust=trust), receiver.url(host="receiver.test")))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: receiver.open == 0 and not _outgoing_sockets(receiver.port))
        gc.collect()


async def test_a_hang_up_during_the_handshake_is_a_failure_of_the_network(make: ClientMaker) -> None:
    async with Receiver(greeting=[Do.CLOSE]) as receiver:
        result = await post(make(), receiver.url(host="receiver.test").replace("http:", "https:"))
    assert isinstance(result, client.Unanswered)
    assert result.code in ("connection_reset", "tls_error")


async def test_a_handshake_that_never_ends_is_a_timeout(make: ClientMaker) -> None:
    async with Receiver(greeting=[Do.HANG]) as receiver:
        url = receiver.url(host="receiver.test").replace("http:", "https:")
        assert client.Unanswered("timeout") == await post(make(), url, within=SHORT)
        await eventually(lambda: receiver.open == 0)


async def test_wherever_a_send_is_cut_off_the_next_one_gets_its_own_answer(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    """Every answer names its request, and comes in pieces, so that a cut can fall before, inside and after it."""

    def echo(request: receivers.Request) -> receivers.Script:
        whole = answer(200, request.body)[0]
        return [receivers.Sleep(0.002), whole[:20], receivers.Sleep(0.002), whole[20:-3], whole[-3:]]

    receiver.always(echo)
    sender = make()
    for number in range(60):
        cut = asyncio.ensure_future(post(sender, receiver.url(), b'"cut %d"' % number))
        await asyncio.sleep(number * 0.0002)
        cut.cancel()
        wanted = b'"kept %d"' % number
        kept = await post(sender, receiver.url(), wanted)
        assert client.Answer(200, wanted) == kept
        if isinstance(result := (await asyncio.gather(cut, return_exceptions=True))[0], client.Answer):
            assert client.Answer(200, b'"cut %d"' % number) == result
    await eventually(lambda: receiver.open <= 2)


@pytest.mark.parametrize("steps", range(12))
async def test_a_send_that_is_cancelled_after_any_number_of_turns_of_the_loop_raises_and_frees_its_connection(
    make: ClientMaker,
    receiver: Receiver,
    steps: int,
) -> None:
    receiver.always([Do.HANG])
    task = asyncio.ensure_future(post(make(), receiver.url(host="receiver.test")))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: receiver.open == 0)
    gc.collect()


@pytest.mark.parametrize(
    "script", [[Do.HANG], [head(200, "Content-Length: 9") + b"half", Do.HANG]], ids=["no head", "half a body"]
)
async def test_a_cancelled_connection_is_closed_not_kept(
    make: ClientMaker,
    receiver: Receiver,
    script: receivers.Script,
) -> None:
    receiver.then(script)
    sender = make()
    task = asyncio.ensure_future(post(sender, receiver.url()))
    await eventually(lambda: receiver.requests)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: receiver.open == 0)
    assert client.Answer(200, b"") == await post(sender, receiver.url())
    assert receiver.connections == 2


async def test_after_closing_a_send_fails_at_once(make: ClientMaker, receiver: Receiver) -> None:
    sender = make()
    await post(sender, receiver.url())
    await sender.close()
    assert isinstance(await post(sender, receiver.url()), client.Unanswered)
    await eventually(lambda: receiver.open == 0)


async def test_closing_ends_a_send_under_way(make: ClientMaker, receiver: Receiver) -> None:
    receiver.then([Do.HANG])
    sender = make()
    task = asyncio.ensure_future(post(sender, receiver.url()))
    await eventually(lambda: receiver.requests)
    await sender.close()
    result = await asyncio.wait_for(task, LONG)
    assert isinstance(result, client.Unanswered)


async def test_closing_leaves_no_socket_of_sends_kept_under_way_or_connecting(
    make: ClientMaker,
    receiver: Receiver,
) -> None:
    async with Receiver(greeting=[Do.HANG]) as deaf:
        receiver.always(lambda request: [Do.HANG] if request.body == b"hang" else answer(200))
        sender = make()
        await asyncio.gather(*(post(sender, receiver.url()) for _ in range(10)))
        tasks = [asyncio.ensure_future(post(sender, receiver.url(), b"hang")) for _ in range(3)]
        shaking = (
            receiver.url(host="receiver.test")
            .replace("http:", "https:")
            .replace(str(receiver.port), str(deaf.port))
        )
        tasks.append(asyncio.ensure_future(post(sender, shaking, within=SHORT)))
        await eventually(lambda: deaf.connections == 1 and len(receiver.requests) == 13)
        await sender.close()
        results = await asyncio.gather(*tasks)
        assert all(isinstance(result, client.Unanswered) for result in results)
        await eventually(lambda: not _outgoing_sockets(receiver.port) and not _outgoing_sockets(deaf.port))
