"""Filters that never match, as a client hears of them."""

from __future__ import annotations

import pytest

from tests.harness.api_server import WEBHOOK, Api

FILTERS = [
    ({"data.order.total": {"$gt": 10}}, "filter.data.order.total is not known"),
    ({"data": {"a": {"$regex": "^x"}}}, "filter.data.a.$regex is no operator: there are $and, $endsWith, $eq,"),
    ({"data": {"a": {"$exists": True}}}, "filter.data.a.$exists is no operator"),
    ({"data": {"n": {"$gt": [1]}}}, "filter.data.n.$gt must be a text or a number"),
    ({"orders": {}}, "filter.orders is not known"),
    ({"$or": [{"data": {"list": [1, {"$ne": 1}]}}]}, "filter.$or[0].data.list[1].$ne is no operator"),
    ({"data": {"$x\x00" + "y" * 100: 1}}, "filter.data.$x?yyy"),
]


@pytest.mark.case(27)
@pytest.mark.parametrize(("schema", "sentence"), FILTERS)
async def test_a_filter_that_never_matches_is_refused(api: Api, schema: object, sentence: str) -> None:
    await api.tenant()
    await api.destination(id="d1", filter={"data": {"a": 1}})
    one = "/tenants/acme/destinations"
    for answer in (
        await api.http.post(one, json={**WEBHOOK, "filter": schema}),
        await api.http.patch(f"{one}/d1", json={"filter": schema}),
    ):
        assert 422 == answer.status_code
        assert 1 == len(answer.json()["data"])
        assert answer.json()["data"][0].startswith(sentence)
        assert answer.json()["message"].startswith(sentence)
    [kept] = (await api.http.get(one)).json()
    assert {"data": {"a": 1}} == kept["filter"]


async def test_a_field_that_begins_with_a_dollar_sign_is_written_with_two(api: Api) -> None:
    await api.tenant()
    made = await api.destination(filter={"data": {"$$set": {"a": 1}}})
    assert {"data": {"$$set": {"a": 1}}} == made["filter"]
    assert [made["id"]] == (await api.publish(data={"$set": {"a": 1}}))["destination_ids"]
    assert [] == (await api.publish(data={"$set": {"a": 2}}))["destination_ids"]
