"""Types whose service is asked about what is to be saved: when it is, and what becomes of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx
import msgspec
import pytest

from outpost.log import partition as partitions
from outpost.log import read
from tests.harness.api_server import SETTINGS, Api
from tests.harness.destinations import hookdeck
from tests.harness.polling import eventually
from tests.harness.receiver import Do, WaitFor, answer
from tests.harness.servers import RedisServer
from tests.integration.api.conftest import Start

ALL = "/tenants/acme/destinations"
pytestmark = pytest.mark.behaviour(137)
REFUSED = "credentials.token failed token_verification_failed validation"
DOWN = f"{REFUSED}: Hookdeck could not be reached or did not answer; try again later"


class Scene(NamedTuple):
    api: Api
    world: hookdeck.World

    async def create(self, token: str) -> httpx.Response:
        body = {"id": "d", "type": "hookdeck", "topics": "*", "credentials": {"token": token}}
        return await self.api.http.post(ALL, json=body)

    async def patch(self, **changes: object) -> httpx.Response:
        return await self.api.http.patch(f"{ALL}/d", json=changes)

    @property
    def asked(self) -> int:
        return len(self.world.api.requests)

    async def changes(self) -> int:
        """How many changes stand in the log."""
        return len(await read.between(self.api.log, "cfg", partitions.partition_of("acme")))


@pytest.fixture
async def scene(start: Start, redis70: RedisServer) -> AsyncIterator[Scene]:
    async with hookdeck.World() as world:
        api = start(msgspec.structs.replace(SETTINGS, **world.settings), redis70)
        await api.tenant()
        yield Scene(api, world)


async def test_a_new_token_is_verified_and_its_source_is_shown(scene: Scene):
    token = scene.world.token("src_1")
    made = (await scene.create(token)).json()
    assert {"source_name": "name of src_1", "source_id": "src_1"} == made["config"]
    assert ("name of src_1", "https://dashboard.hookdeck.com/sources/src_1") == (
        made["target"],
        made["target_url"],
    )
    assert {"token": token[:4] + "*" * (len(token) - 4)} == made["credentials"]
    assert 1 == scene.asked


async def test_a_changed_token_is_verified_again_and_brings_its_source(scene: Scene):
    await scene.create(scene.world.token("src_1"))
    changed = await scene.patch(credentials={"token": scene.world.token("src_2")})
    assert (200, {"source_name": "name of src_2", "source_id": "src_2"}) == (
        changed.status_code,
        changed.json()["config"],
    )
    assert 2 == scene.asked


async def test_what_leaves_the_token_alone_is_not_verified(scene: Scene):
    token = scene.world.token("src_1")
    made = (await scene.create(token)).json()
    for changes in (
        {"topics": ["user.created"]},
        {"config": {"source_id": "src_9", "source_name": None}},
        {"config": None},
        {"credentials": {"token": token}},
        {"credentials": {}},
    ):
        patched = await scene.patch(**changes)
        assert (200, made["config"]) == (patched.status_code, patched.json()["config"]), patched.text
    assert 1 == scene.asked


@pytest.mark.parametrize("down", [[Do.RESET], answer(503)], ids=["away", "broken"])
async def test_while_hookdeck_is_down_a_token_is_422_and_nothing_is_stored(scene: Scene, down: list[object]):
    await scene.create(scene.world.token("src_1"))
    before = (await scene.api.http.get(f"{ALL}/d")).json()
    stored = await scene.changes()
    scene.world.api.always(down)
    patched = await scene.patch(credentials={"token": scene.world.token("src_2")}, topics=["user.created"])
    assert (422, [DOWN]) == (patched.status_code, patched.json()["data"])
    body = {"id": "e", "type": "hookdeck", "topics": "*", "credentials": {"token": scene.world.token("src_3")}}
    made = await scene.api.http.post(ALL, json=body)
    assert (422, [DOWN]) == (made.status_code, made.json()["data"])
    assert [before] == (await scene.api.http.get(ALL)).json()
    assert stored == await scene.changes()


async def test_a_token_that_hookdeck_refuses_is_422_in_the_published_words(scene: Scene):
    made = await scene.create("c3JjXzE6Zm9yZ2Vk")
    assert (422, [REFUSED]) == (made.status_code, made.json()["data"])
    assert [] == (await scene.api.http.get(ALL)).json()


async def test_a_token_that_is_none_is_refused_without_asking(scene: Scene):
    for token, rule in (("", "token_required"), ("x", "invalid_token_format")):
        made = await scene.create(token)
        assert (422, [f"credentials.token failed {rule} validation"]) == (made.status_code, made.json()["data"])
    assert 0 == scene.asked


async def test_what_is_wrong_beside_the_token_is_told_without_asking(scene: Scene):
    body = {"type": "hookdeck", "topics": ["nope"], "credentials": {"token": scene.world.token("src_1")}}
    assert 422 == (await scene.api.http.post(ALL, json=body)).status_code
    assert 0 == scene.asked


async def test_the_tenant_is_free_while_hookdeck_is_asked(scene: Scene):
    await scene.create(scene.world.token("src_1"))
    go_on = asyncio.Event()
    said = answer(200, b'{"name":"second"}')
    scene.world.api.then([WaitFor(go_on), *said])
    patching = asyncio.create_task(scene.patch(credentials={"token": scene.world.token("src_2")}))
    await eventually(lambda: scene.asked == 2)
    other = await asyncio.wait_for(scene.patch(metadata={"team": "blue"}), 60)
    assert 200 == other.status_code
    go_on.set()
    patched = (await patching).json()
    assert ("second", {"team": "blue"}) == (patched["config"]["source_name"], patched["metadata"])


async def test_a_token_that_was_replaced_while_hookdeck_was_asked_keeps_its_own_source(scene: Scene):
    first, second, third = (scene.world.token(f"src_{n}") for n in (1, 2, 3))
    await scene.create(first)
    go_on = asyncio.Event()
    scene.world.api.then([WaitFor(go_on), *answer(200, b'{"name":"second"}')])
    patching = asyncio.create_task(scene.patch(credentials={"token": second}))
    await eventually(lambda: scene.asked == 2)
    assert "src_3" == (await scene.patch(credentials={"token": third})).json()["config"]["source_id"]
    go_on.set()
    assert {"source_name": "second", "source_id": "src_2"} == (await patching).json()["config"]
