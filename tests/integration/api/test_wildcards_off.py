"""TOPICS_ALLOW_WILDCARDS turned off, with patterns that were stored before."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from tests.harness.api_server import SETTINGS, Api
from tests.harness.servers import RedisServer

ALL = "/tenants/acme/destinations"


@pytest.mark.case(28)
@pytest.mark.parametrize("topics", [(), SETTINGS.topics])
async def test_stored_patterns_sleep_while_wildcards_are_off(
    start: Callable[..., Api], redis70: RedisServer, topics: tuple[str, ...]
) -> None:
    on = start(msgspec.structs.replace(SETTINGS, topics=topics), redis70)
    off = start(msgspec.structs.replace(SETTINGS, topics=topics, topics_allow_wildcards=False), redis70)
    await on.tenant()
    for id_, subscribed in [("p", ["user.*"]), ("m", ["user.*", "order.paid"]), ("a", ["*"])]:
        await on.destination(id=id_, topics=subscribed)

    async def seen(api: Api) -> dict[str, object]:
        found = (await api.http.get(ALL)).json()
        listed = (await api.http.get(f"{ALL}?topics=user.created")).json()
        return {
            "user": sorted((await api.publish())["destination_ids"]),
            "order": sorted((await api.publish(topic="order.paid"))["destination_ids"]),
            "shown": {each["id"]: each["topics"] for each in found},
            "listed": sorted(each["id"] for each in listed),
            "to one": (await api.publish(destination_id="p"))["destination_ids"],
        }

    both = {"order": ["a", "m"]}
    asleep = {"user": ["a"], "shown": {"p": [], "m": ["order.paid"], "a": ["*"]}, "listed": ["a"], "to one": []}
    awake = {
        "user": ["a", "m", "p"],
        "shown": {"p": ["user.*"], "m": ["user.*", "order.paid"], "a": ["*"]},
        "listed": ["a", "m", "p"],
        "to one": ["p"],
    }
    assert both | awake == await seen(on)
    assert both | asleep == await seen(off)
    assert 200 == (await off.http.patch(f"{ALL}/p", json={"metadata": {"a": "b"}})).status_code
    assert 422 == (await off.http.patch(f"{ALL}/p", json={"topics": ["order.*"]})).status_code
    assert both | awake == await seen(on)


@pytest.mark.case(28)
async def test_the_topics_of_a_tenant_are_those_that_count(
    start: Callable[..., Api], redis70: RedisServer
) -> None:
    on = start(SETTINGS, redis70)
    off = start(msgspec.structs.replace(SETTINGS, topics_allow_wildcards=False), redis70)
    await on.tenant()
    await on.destination(topics=["user.*", "order.paid"])
    assert ["order.paid", "user.*"] == (await on.http.get("/tenants/acme")).json()["topics"]
    assert ["order.paid"] == (await off.http.get("/tenants/acme")).json()["topics"]
    assert ["order.paid"] == (await off.http.get("/tenants")).json()["models"][0]["topics"]
