"""Tenants over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from outpost.log import position as positions
from tests.harness.api_server import Api, RedisServer


@pytest.mark.behaviour(28)
async def test_put_creates_then_updates(api: Api) -> None:
    assert (await api.http.put("/tenants/acme")).status_code == 201
    assert (await api.http.put("/tenants/acme", json={})).status_code == 200


@pytest.mark.behaviour(28)
async def test_a_deleted_tenant_is_made_anew(api: Api) -> None:
    await api.tenant()
    await api.destination()
    await api.http.delete("/tenants/acme")
    again = await api.http.put("/tenants/acme")
    assert again.status_code == 201
    assert again.json()["destinations_count"] == 0


@pytest.mark.behaviour(29)
async def test_metadata_is_kept_as_text_and_replaced_as_a_whole(api: Api) -> None:
    sent = {"n": 42, "b": True, "f": 3.14, "z": None, "o": {"e": 1}}
    made = await api.http.put("/tenants/acme", json={"metadata": sent})
    assert made.json()["metadata"] == {"n": "42", "b": "true", "f": "3.14", "z": "", "o": '{"e":1}'}
    assert (await api.http.get("/tenants/acme")).json()["metadata"] == made.json()["metadata"]
    assert "metadata" not in (await api.http.put("/tenants/acme")).json()


@pytest.mark.behaviour(30)
async def test_a_tenant_shows_the_union_of_its_topics(api: Api) -> None:
    made = (await api.http.put("/tenants/acme")).json()
    assert (made["destinations_count"], made["topics"]) == (0, [])
    await api.destination(topics=["user.deleted"])
    await api.destination(topics=["user.created"])
    shown = (await api.http.get("/tenants/acme")).json()
    assert (shown["destinations_count"], shown["topics"]) == (2, ["user.created", "user.deleted"])
    await api.destination(topics="*")
    assert (await api.http.get("/tenants/acme")).json()["topics"] == ["*"]


@pytest.mark.behaviour(31)
async def test_delete_takes_the_destinations_along(api: Api) -> None:
    await api.tenant()
    made = await api.destination()
    assert (await api.http.delete("/tenants/acme")).json() == {"success": True}
    assert (await api.http.get("/tenants/acme")).status_code == 404
    assert (await api.http.delete("/tenants/acme")).status_code == 404
    await api.tenant()
    assert (await api.http.get(f"/tenants/acme/destinations/{made['id']}")).status_code == 404


@pytest.mark.behaviour(39)
async def test_updated_at_moves_with_every_put(api: Api) -> None:
    made = (await api.http.put("/tenants/acme")).json()
    assert made["updated_at"] == made["created_at"]
    api.ahead_ms += 5
    changed = (await api.http.put("/tenants/acme")).json()
    assert changed["created_at"] == made["created_at"]
    assert changed["updated_at"] > made["updated_at"]


async def test_writes_say_where_they_stand_in_the_log(api: Api) -> None:
    first = await api.http.put("/tenants/acme")
    second = await api.http.put("/tenants/acme")
    places = [positions.parse(answer.headers["X-Outpost-Position"]) for answer in (first, second)]
    assert places[0] is not None
    assert places[1] is not None
    assert places[0].stream == "cfg"
    assert places[0] < places[1]
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]
    assert "position" not in first.text


@pytest.mark.behaviour(33)
async def test_the_list_is_newest_first_with_a_count(api: Api) -> None:
    for name in ("a", "b", "c"):
        await api.tenant(name)
        api.ahead_ms += 5
    page = (await api.http.get("/tenants")).json()
    assert [tenant["id"] for tenant in page["models"]] == ["c", "b", "a"]
    assert page["count"] == 3
    assert page["pagination"] == {
        "order_by": "created_at",
        "dir": "desc",
        "limit": 20,
        "next": None,
        "prev": None,
    }


@pytest.mark.behaviour(33, 36)
@pytest.mark.parametrize("direction", ["asc", "desc"])
async def test_pages_neither_repeat_nor_skip_and_lead_back(api: Api, direction: str) -> None:
    names = [f"t{i}" for i in range(10)]
    await asyncio.gather(*(api.tenant(name) for name in names))  # several within one millisecond
    whole = await page_of(api, dir=direction, limit=100)
    pages = [await page_of(api, dir=direction, limit=3)]
    assert pages[0]["pagination"]["prev"] is None
    await api.tenant("t99" if direction == "desc" else "t98")
    while cursor := pages[-1]["pagination"]["next"]:
        pages.append(await page_of(api, dir=direction, limit=3, next=cursor))
    seen = [tenant["id"] for page in pages for tenant in page["models"]]
    expected = [tenant["id"] for tenant in whole["models"]]
    assert seen == (expected if direction == "desc" else [*expected, "t98"])
    assert pages[-1]["pagination"]["next"] is None
    back = await page_of(api, dir=direction, limit=3, prev=pages[2]["pagination"]["prev"])
    assert back["models"] == pages[1]["models"]
    assert back["pagination"]["next"] is not None


async def test_paging_back_to_the_first_page_ends_there(api: Api) -> None:
    for name in ("a", "b", "c"):
        await api.tenant(name)
    first = await page_of(api, limit=2)
    second = await page_of(api, limit=2, next=first["pagination"]["next"])
    back = await page_of(api, limit=2, prev=second["pagination"]["prev"])
    assert back["models"] == first["models"]
    assert back["pagination"]["prev"] is None


@pytest.mark.behaviour(34)
async def test_deleted_tenants_are_neither_listed_nor_counted(api: Api) -> None:
    await api.tenant("a")
    await api.tenant("b")
    await api.http.delete("/tenants/a")
    page = await page_of(api)
    assert ([tenant["id"] for tenant in page["models"]], page["count"]) == (["b"], 1)


ODD = ["a b", 'q"uote', "{brace}", "pi|pe", "back\\slash", "-dash", "@tag:{x}", "*", "日本", "a,b", "50%", "a+b"]


@pytest.mark.behaviour(35)
async def test_the_id_filter_is_exact_for_any_id(api: Api) -> None:
    for name in (*ODD, "other"):
        answer = await api.http.put(
            f"/tenants/{httpx.QueryParams({'x': name})!s}".replace("x=", "").replace("+", "%20")
        )
        assert answer.json()["id"] == name
    for name in ODD:
        page = await page_of(api, id=name)
        assert ([tenant["id"] for tenant in page["models"]], page["count"]) == ([name], 1)
    page = await page_of(api, id=[*ODD, "unknown"])
    assert page["count"] == len(ODD)
    assert (await page_of(api, id="unknown"))["models"] == []


@pytest.mark.behaviour(35, 7)
@pytest.mark.parametrize("query", ["id=a&id=b", "id[]=a&id[]=b", "id[7]=b&id[0]=a", "id[0]=a&id[1]=b&id=c"])
async def test_lists_are_understood_in_every_spelling(api: Api, query: str) -> None:
    for name in ("a", "b", "c"):
        await api.tenant(name)
    page = (await api.http.get(f"/tenants?{query}&dir=asc")).json()
    assert {tenant["id"] for tenant in page["models"]} == {"a", "b"}
    assert page["count"] == 2


async def test_the_id_filter_pages_too(api: Api) -> None:
    for name in ("a", "b", "c", "d"):
        await api.tenant(name)
    first = await page_of(api, id=["a", "b", "c"], limit=2)
    second = await page_of(api, id=["a", "b", "c"], limit=2, next=first["pagination"]["next"])
    seen = [tenant["id"] for page in (first, second) for tenant in page["models"]]
    assert sorted(seen) == ["a", "b", "c"]
    assert second["count"] == 3


async def test_two_apis_over_one_log_see_each_others_writes(
    api: Api, redis70: RedisServer, start: Callable[..., Api]
) -> None:
    other = start(api.deps.settings, redis70)
    await api.tenant()
    assert (await other.http.get("/tenants/acme")).status_code == 200
    await other.http.delete("/tenants/acme")
    assert (await api.http.get("/tenants/acme")).status_code == 404


async def page_of(api: Api, **params: object) -> dict[str, object]:
    answer = await api.http.get("/tenants", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()
