"""Each hostile client alone: the server holds no more than its limits, serves others, and is left with nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import uvloop

from tests.harness import raw_http, stub_http
from tests.harness.polling import eventually
from tests.hostile.attack import Target
from tests.hostile.attackers import clients

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture is deprecated")

ATTACK_S = 1.5
# What each may be answered; nothing but these, and at least one unless the attack is over before that.
ANSWERS = {
    "silent connections": set(),
    "heads that drip": set(),
    "bodies that drip": set(),
    "giant heads": {431},
    "heads of many headers": {431},
    "giant URLs": {414},
    "bodies without a key": {401},
    "bodies beyond the limit": {413},
    "held bodies": {503},
    "bodies in tiny chunks": {400},
    "broken requests": {400, 401, 404, 417},
    "requests sent ahead": {200},
    "refused requests sent ahead": {401},
    "answers that nobody reads": set(),
    "megabytes over one connection": {202},
}
MAY_BE_UNANSWERED = {name for name, statuses in ANSWERS.items() if not statuses}


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoopPolicy]:
    return request.param()


def test_every_client_has_its_answers() -> None:
    assert [one.name for one in clients.ALL] == list(ANSWERS)


@pytest.mark.parametrize("attacker", clients.ALL, ids=lambda attacker: attacker.name)
async def test_a_hostile_client_is_stopped_and_others_are_served(attacker: clients.Clients) -> None:
    async with stub_http.serving(api_max_body_bytes_in_flight=16_000_000) as stub:
        stub.route.path = b"/api/v1/publish"
        target = Target("127.0.0.1", stub.port, stub_http.KEY.removeprefix(b"Bearer ").decode())
        attack = asyncio.create_task(attacker.run(target, ATTACK_S))
        while not attack.done():
            assert 200 == (await raw_http.ask(stub.port, stub_http.get(b"/healthz"))).status
            assert 202 == (await raw_http.ask(stub.port, stub_http.post(path=stub.route.path))).status
            assert stub.server.body_bytes.held <= stub.server.body_bytes.limit
            assert stub.server.waiting_bytes.held <= stub.server.waiting_bytes.limit
            assert len(stub.server.connections.open) <= 400
            await asyncio.sleep(0)
        await attack
        assert attacker.statuses.keys() <= ANSWERS[attacker.name]
        assert attacker.statuses or attacker.name in MAY_BE_UNANSWERED
        await eventually(lambda: not stub.server.connections.open)
        await eventually(lambda: stub.server.body_bytes.held == stub.server.waiting_bytes.held == 0)
        assert 202 == (await raw_http.ask(stub.port, stub_http.post(path=stub.route.path))).status
