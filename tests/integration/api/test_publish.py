"""Publishing over HTTP: what is answered, and what stands in the log afterwards."""

from __future__ import annotations

import asyncio

import pytest

from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log import read
from tests.harness.api_server import KEY, Api

BODY = {"tenant_id": "acme", "topic": "user.created", "data": {"n": 1}}


@pytest.fixture
async def acme(api: Api) -> Api:
    await api.tenant()
    return api


async def entries(api: Api, tenant: str = "acme") -> list[read.Read]:
    return await read.between(api.log, "evt", partitions.partition_of(tenant))


@pytest.mark.behaviour(14)
async def test_a_publish_is_answered_with_its_destinations(acme: Api) -> None:
    made = await acme.destination()
    answer = await acme.http.post("/publish", json={**BODY, "id": "e1"})
    assert answer.status_code == 202
    assert answer.json() == {"id": "e1", "duplicate": False, "destination_ids": [made["id"]]}
    position = positions.parse(answer.headers["X-Outpost-Position"])
    (entry,) = await entries(acme)
    assert entry.position == position
    assert entry.fields[b"id"] == b"e1"


async def test_an_event_is_stored_with_zero_matches_and_for_an_unknown_tenant(acme: Api) -> None:
    for tenant in ("acme", "nobody"):
        answer = await acme.publish(tenant)
        assert answer["destination_ids"] == []
        assert len(await entries(acme, tenant)) == 1


@pytest.mark.behaviour(27)
async def test_data_stands_in_the_log_as_it_was_sent(acme: Api) -> None:
    data = b'{ "z": 1.0, "a":"\\u00e9",  "a": [ ] }'
    body = b'{"tenant_id":"acme","topic":"user.created","data":' + data + b"}"
    assert (await acme.http.post("/publish", content=body)).status_code == 202
    (entry,) = await entries(acme)
    assert entry.fields[b"d"] == data


async def test_publishing_an_id_again_gets_the_first_answer(acme: Api) -> None:
    first = await acme.publish(id="e1")
    await acme.destination()
    again = await acme.publish(id="e1", data={"other": True})
    assert again == {**first, "duplicate": True}
    assert len(await entries(acme)) == 1


async def test_an_id_belongs_to_its_tenant(acme: Api) -> None:
    assert (await acme.publish("acme", id="e1"))["duplicate"] is False
    assert (await acme.publish("other", id="e1"))["duplicate"] is False


async def test_one_id_published_by_many_at_once_is_one_event(acme: Api) -> None:
    answers = await asyncio.gather(*(acme.publish(id="e1") for _ in range(20)))
    assert sum(not answer["duplicate"] for answer in answers) == 1
    assert len(await entries(acme)) == 1


@pytest.mark.behaviour(21)
async def test_the_topic_of_everything_reaches_every_enabled_destination(acme: Api) -> None:
    one = await acme.destination(topics=["user.created"])
    two = await acme.destination(topics=["order.paid"])
    await acme.destination(disabled_at="2024-01-01T00:00:00Z")
    answer = await acme.publish(topic="*")
    assert set(answer["destination_ids"]) == {one["id"], two["id"]}


@pytest.mark.behaviour(23)
async def test_a_named_destination_still_has_to_match(acme: Api) -> None:
    made = await acme.destination(id="d1", filter={"data": {"n": 1}})
    await acme.destination(id="d2")
    assert (await acme.publish(destination_id="d1"))["destination_ids"] == [made["id"]]
    assert (await acme.publish(destination_id="unknown"))["destination_ids"] == []
    assert (await acme.publish(destination_id="d1", topic="order.paid"))["destination_ids"] == []
    assert (await acme.publish(destination_id="d1", data={"n": 2}))["destination_ids"] == []
    await acme.http.put("/tenants/acme/destinations/d1/disable")
    assert (await acme.publish(destination_id="d1"))["destination_ids"] == []


@pytest.mark.behaviour(22)
async def test_a_change_is_seen_by_the_very_next_publish(acme: Api) -> None:
    made = await acme.destination()
    path = f"/tenants/acme/destinations/{made['id']}"
    for action, expected in (("disable", []), ("enable", [made["id"]])):
        await acme.http.put(f"{path}/{action}")
        assert (await acme.publish())["destination_ids"] == expected
    await acme.http.delete(path)
    assert (await acme.publish())["destination_ids"] == []


async def test_a_path_with_a_slash_at_its_end_is_the_same_route(acme: Api) -> None:
    answer = await acme.http.post("/publish/", json=BODY)
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"id", "duplicate", "destination_ids"}


@pytest.mark.behaviour(2)
@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer ",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY}x",
    ],
)
@pytest.mark.parametrize(
    "path", ["/publish", "/publish/", "/tenants/acme", "/topics", "/destination-types/webhook"]
)
async def test_without_the_api_key_nobody_gets_in(acme: Api, header: str | None, path: str) -> None:
    headers = {} if header is None else {"Authorization": header}
    method = "POST" if path.startswith("/publish") else "GET"
    async with acme.client(headers) as http:
        answer = await http.request(method, path, json=BODY if method == "POST" else None)
    assert (answer.status_code, answer.json()) == (401, {"status": 401, "message": "unauthorized"})
    assert await entries(acme) == []


@pytest.mark.parametrize("path", ["/publish", "/publish/"])
async def test_an_id_counts_once_for_each_destination_that_is_named(acme: Api, path: str) -> None:
    """The second of two was answered 202 with the first one's id, and got nothing."""
    for id_ in ("d1", "d2"):
        await acme.destination(id=id_)

    async def publish(**named: str) -> tuple[bool, list[str]]:
        answer = await acme.http.post(path, json={**BODY, "id": "e1", **named})
        assert answer.status_code == 202
        return answer.json()["duplicate"], sorted(answer.json()["destination_ids"])

    for duplicate in (False, True):
        assert (duplicate, ["d1"]) == await publish(destination_id="d1")
        assert (duplicate, ["d2"]) == await publish(destination_id="d2")
        assert (duplicate, []) == await publish(destination_id="d3")
        assert (duplicate, ["d1", "d2"]) == await publish()
    assert 4 == len(await entries(acme))
