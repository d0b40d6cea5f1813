"""Destinations over HTTP."""

from __future__ import annotations

import asyncio

import pytest

from tests.harness.api_server import WEBHOOK, Api

ALL = "/tenants/acme/destinations"


@pytest.fixture
async def acme(api: Api) -> Api:
    await api.tenant()
    return api


@pytest.mark.behaviour(40, 54)
async def test_a_destination_is_created_with_a_secret(acme: Api) -> None:
    answer = await acme.http.post(ALL, json=WEBHOOK)
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["X-Outpost-Position"].startswith("cfg.")
    assert made["tenant_id"] == "acme"
    assert made["topics"] == ["user.created"]
    assert made["config"] == {"url": "https://example.com/hook"}
    assert made["target"] == "https://example.com/hook"
    assert made["disabled_at"] is None
    assert made["created_at"] == made["updated_at"]
    assert made["credentials"]["secret"].startswith("whsec_")
    assert {"filter", "metadata", "delivery_metadata", "target_url"}.isdisjoint(made)
    assert (await acme.http.get(f"{ALL}/{made['id']}")).json() == made


async def test_everything_that_is_sent_is_shown(acme: Api) -> None:
    sent = {
        "id": "d-1",
        "filter": {"data": {"n": {"$gt": 1}}},
        "delivery_metadata": {"region": "eu", "n": 7},
        "metadata": {"team": "x"},
        "created_at": "2020-01-01T00:00:00Z",
        "disabled_at": "2021-01-01T01:00:00+01:00",
    }
    made = await acme.destination(**sent)
    assert made["id"] == "d-1"
    assert made["filter"] == sent["filter"]
    assert made["delivery_metadata"] == {"region": "eu", "n": "7"}
    assert made["metadata"] == {"team": "x"}
    assert made["created_at"] == "2020-01-01T00:00:00.000Z"
    assert made["disabled_at"] == "2021-01-01T00:00:00.000Z"


@pytest.mark.behaviour(45)
async def test_imported_times_are_kept(acme: Api) -> None:
    made = await acme.destination(created_at="2020-01-01T00:00:00Z")
    assert made["updated_at"] == "2020-01-01T00:00:00.000Z"
    both = await acme.destination(created_at="2020-01-01T00:00:00Z", updated_at="2020-02-01T00:00:00Z")
    assert both["updated_at"] == "2020-02-01T00:00:00.000Z"


@pytest.mark.behaviour(59)
async def test_secrets_do_not_stand_in_the_log(acme: Api) -> None:
    made = await acme.destination(delivery_metadata={"hidden": "open sesame"})
    partitions = acme.log.keys.partitions
    entries = [await acme.log.command("XRANGE", keys.cfg, "-", "+") for keys in partitions]
    assert made["credentials"]["secret"].encode() not in repr(entries).encode()
    assert "open sesame" not in repr(entries)
    assert made["delivery_metadata"] == {"hidden": "open sesame"}


@pytest.mark.behaviour(40)
async def test_a_taken_id_and_a_full_tenant_are_refused(acme: Api) -> None:
    await acme.destination(id="d1")
    taken = await acme.http.post(ALL, json={**WEBHOOK, "id": "d1"})
    assert (taken.status_code, taken.json()["message"]) == (400, "destination already exists")
    await acme.destination()
    await acme.destination()
    full = await acme.http.post(ALL, json=WEBHOOK)
    assert full.status_code == 400
    assert full.json()["message"] == "maximum number of destinations per tenant reached"
    await acme.http.delete(f"{ALL}/d1")
    assert (await acme.http.post(ALL, json=WEBHOOK)).status_code == 201


@pytest.mark.behaviour(41)
async def test_topics_are_a_list_or_everything(acme: Api) -> None:
    assert (await acme.destination(topics="*"))["topics"] == ["*"]
    assert (await acme.destination(topics=["*"]))["topics"] == ["*"]
    mixed = await acme.http.post(ALL, json={**WEBHOOK, "topics": ["*", "user.created"]})
    assert mixed.status_code == 422


@pytest.mark.behaviour(44)
async def test_topics_are_normalised(acme: Api) -> None:
    made = await acme.destination(topics=["user.created", "order.paid", "user.*", "order.paid"])
    assert made["topics"] == ["order.paid", "user.*"]


@pytest.mark.behaviour(42)
async def test_without_configured_topics_any_but_none_is_allowed(api_without_topics: Api) -> None:
    await api_without_topics.tenant()
    assert (await api_without_topics.destination(topics=["what.ever"]))["topics"] == ["what.ever"]
    assert (await api_without_topics.http.post(ALL, json={**WEBHOOK, "topics": []})).status_code == 422


@pytest.mark.behaviour(46)
@pytest.mark.parametrize(
    ("method", "suffix"),
    [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("PUT", "/enable"), ("PUT", "/disable")],
)
async def test_anothers_destination_is_not_found(acme: Api, method: str, suffix: str) -> None:
    made = await acme.destination()
    await acme.tenant("other")
    for tenant, message in (("other", "destination not found"), ("nobody", "tenant not found")):
        path = f"/tenants/{tenant}/destinations/{made['id']}{suffix}"
        answer = await acme.http.request(method, path, json={})
        assert (answer.status_code, answer.json()) == (404, {"status": 404, "message": message})


async def test_creating_for_nobody_is_not_found(api: Api) -> None:
    answer = await api.http.post("/tenants/nobody/destinations", json=WEBHOOK)
    assert (answer.status_code, answer.json()["message"]) == (404, "tenant not found")


@pytest.mark.behaviour(47)
async def test_the_list_filters_by_type_and_by_every_topic(acme: Api) -> None:
    one = await acme.destination(id="one", topics=["user.created", "order.paid"])
    await acme.destination(id="pattern", topics=["user.*"])
    await acme.destination(id="all", topics="*")

    async def listed(query: str = "") -> list[str]:
        answer = await acme.http.get(f"{ALL}{query}")
        assert answer.status_code == 200
        return [found["id"] for found in answer.json()]

    assert await listed() == ["one", "pattern", "all"]
    assert await listed("?type=webhook&type=kafka") == ["one", "pattern", "all"]
    assert await listed("?type[]=kafka") == []
    assert await listed("?topics=user.created") == ["one", "pattern", "all"]
    assert await listed("?topics[0]=user.created&topics[1]=order.paid") == ["one", "all"]
    assert await listed("?topics=*") == ["all"]
    assert await listed("?topics=") == ["one", "pattern", "all"]
    assert (await acme.http.get(ALL)).json()[0] == one
    await acme.http.delete(f"{ALL}/one")
    assert await listed() == ["pattern", "all"]


async def test_the_list_is_in_the_order_of_creation(acme: Api) -> None:
    await acme.destination(id="new")
    await acme.destination(id="old", created_at="2020-01-01T00:00:00Z")
    answer = await acme.http.get(ALL)
    assert [found["id"] for found in answer.json()] == ["old", "new"]


async def patched(api: Api, destination: object, body: object) -> dict[str, object]:
    answer = await api.http.patch(f"{ALL}/{destination}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.behaviour(48)
async def test_the_type_stays(acme: Api) -> None:
    made = await acme.destination()
    same = await patched(acme, made["id"], {"type": "webhook"})
    assert same["type"] == "webhook"
    answer = await acme.http.patch(f"{ALL}/{made['id']}", json={"type": "kafka"})
    assert (answer.status_code, answer.json()["message"]) == (422, "type cannot be updated")
    assert answer.json()["data"] == ["type failed immutable validation"]


@pytest.mark.behaviour(49)
@pytest.mark.parametrize("field", ["metadata", "delivery_metadata"])
async def test_maps_are_merged(acme: Api, field: str) -> None:
    made = await acme.destination(**{field: {"a": "1", "b": "2"}})
    assert (await patched(acme, made["id"], {}))[field] == {"a": "1", "b": "2"}
    assert (await patched(acme, made["id"], {field: {}}))[field] == {"a": "1", "b": "2"}
    assert (await patched(acme, made["id"], {field: {"b": None, "c": 3}}))[field] == {"a": "1", "c": "3"}
    assert field not in await patched(acme, made["id"], {field: None})


@pytest.mark.behaviour(49)
async def test_config_is_merged_and_checked(acme: Api) -> None:
    made = await acme.destination()
    changed = await patched(acme, made["id"], {"config": {"custom_headers": '{"x-a":"b"}'}})
    assert changed["config"] == {"url": "https://example.com/hook", "custom_headers": '{"x-a":"b"}'}
    assert changed["credentials"] == made["credentials"]
    answer = await acme.http.patch(f"{ALL}/{made['id']}", json={"config": {"url": None}})
    assert (answer.status_code, answer.json()["data"]) == (422, ["config.url is required"])


@pytest.mark.behaviour(50)
@pytest.mark.parametrize("clear", [None, {}])
async def test_a_filter_is_replaced_as_a_whole(acme: Api, clear: object) -> None:
    made = await acme.destination(filter={"data": {"a": 1}})
    assert (await patched(acme, made["id"], {"metadata": {"x": "y"}}))["filter"] == {"data": {"a": 1}}
    assert (await patched(acme, made["id"], {"filter": {"data": {"b": 2}}}))["filter"] == {"data": {"b": 2}}
    assert "filter" not in await patched(acme, made["id"], {"filter": clear})


@pytest.mark.behaviour(51)
async def test_disabled_at_is_kept_cleared_or_set(acme: Api) -> None:
    made = await acme.destination()
    past = "2024-05-06T07:08:09.012Z"
    assert (await patched(acme, made["id"], {"disabled_at": past}))["disabled_at"] == past
    assert (await patched(acme, made["id"], {}))["disabled_at"] == past
    assert (await patched(acme, made["id"], {"disabled_at": None}))["disabled_at"] is None


async def test_topics_of_a_patch_replace_and_null_keeps_them(acme: Api) -> None:
    made = await acme.destination()
    assert (await patched(acme, made["id"], {"topics": None}))["topics"] == ["user.created"]
    assert (await patched(acme, made["id"], {"topics": ["order.paid"]}))["topics"] == ["order.paid"]


async def test_a_patch_that_changes_nothing_still_moves_updated_at(acme: Api) -> None:
    made = await acme.destination()
    acme.ahead_ms += 5
    assert (await patched(acme, made["id"], {}))["updated_at"] > made["updated_at"]


@pytest.mark.behaviour(52)
async def test_disabling_keeps_the_first_time_and_writes_once(acme: Api) -> None:
    made = await acme.destination()
    first = await acme.http.put(f"{ALL}/{made['id']}/disable")
    second = await acme.http.put(f"{ALL}/{made['id']}/disable")
    assert first.json()["disabled_at"] is not None
    assert second.json()["disabled_at"] == first.json()["disabled_at"]
    assert "X-Outpost-Position" in first.headers
    assert "X-Outpost-Position" not in second.headers
    enabled = await acme.http.put(f"{ALL}/{made['id']}/enable")
    assert (enabled.status_code, enabled.json()["disabled_at"]) == (200, None)
    assert (await acme.http.put(f"{ALL}/{made['id']}/enable")).json() == enabled.json()


@pytest.mark.behaviour(53)
async def test_a_deleted_destination_is_gone(acme: Api) -> None:
    made = await acme.destination()
    assert (await acme.http.delete(f"{ALL}/{made['id']}")).json() == {"success": True}
    assert (await acme.http.get(f"{ALL}/{made['id']}")).status_code == 404
    again = await acme.http.delete(f"{ALL}/{made['id']}")
    assert (again.status_code, again.json()["message"]) == (404, "destination not found")


@pytest.mark.behaviour(55)
async def test_a_secret_is_rotated(acme: Api) -> None:
    made = await acme.destination()
    rotated = await patched(acme, made["id"], {"credentials": {"rotate_secret": True}})
    assert rotated["credentials"]["previous_secret"] == made["credentials"]["secret"]
    assert rotated["credentials"]["secret"] != made["credentials"]["secret"]


async def test_two_patches_at_once_lose_neither(acme: Api) -> None:
    made = await acme.destination()
    await asyncio.gather(
        *(patched(acme, made["id"], {"metadata": {f"k{i}": str(i)}}) for i in range(4)),
    )
    shown = (await acme.http.get(f"{ALL}/{made['id']}")).json()
    assert shown["metadata"] == {f"k{i}": str(i) for i in range(4)}


async def test_the_limit_holds_for_creates_at_once(acme: Api) -> None:
    answers = await asyncio.gather(*(acme.http.post(ALL, json=WEBHOOK) for _ in range(5)))
    statuses = sorted(answer.status_code for answer in answers)
    assert set(statuses) <= {201, 400, 503}
    assert statuses.count(201) <= 3
    assert len((await acme.http.get(ALL)).json()) == statuses.count(201)


async def test_many_changes_of_one_tenant_at_once_all_happen(api: Api) -> None:
    await api.tenant()
    answers = await asyncio.gather(
        *(api.http.put("/tenants/acme", json={"metadata": {"n": str(n)}}) for n in range(30))
    )
    assert {200} == {answer.status_code for answer in answers}
    positions = [answer.headers["X-Outpost-Position"] for answer in answers]
    assert 30 == len(set(positions))
