"""What clients of the published server see alike: queries that are empty, cursors of log lists, slashes at the end
of a path, metadata that is none."""

from __future__ import annotations

from typing import Any

import pytest

from outpost import cursor
from tests.harness.api_server import WEBHOOK, Api
from tests.integration.api.test_logs import LogApi, logs  # noqa: F401 - a fixture

DESTINATIONS = "/tenants/acme/destinations"
LISTS: dict[str, cursor.Resource] = {"/events": "evt", "/attempts": "att", f"{DESTINATIONS}/d1/attempts": "att"}
EMPTY = ["limit=", "dir=", "order_by=", "next=", "prev=", "next=&prev="]
EMPTY_TIMES = ["time[gte]=", "time[lte]=", "time[gt]=", "time[lt]=", "time[any]=", "time="]
VERSION = "invalid cursor: cursor version mismatch: expected version 01"


@pytest.mark.behaviour(33)
@pytest.mark.parametrize("query", ["", *EMPTY])
async def test_an_empty_parameter_of_the_tenants_says_nothing(api: Api, query: str) -> None:
    await api.tenant()
    answer = await api.http.get(f"/tenants?{query}")
    assert answer.status_code == 200
    assert [tenant["id"] for tenant in answer.json()["models"]] == ["acme"]
    none = {"order_by": "created_at", "dir": "desc", "limit": 20, "next": None, "prev": None}
    assert answer.json()["pagination"] == none


@pytest.mark.behaviour(115)
async def test_an_empty_parameter_of_a_log_list_says_nothing(logs: LogApi) -> None:  # noqa: F811
    await logs.destination(id="d1")
    at = await logs.event("e1")
    await logs.attempt("e1", at=at, destination="d1")
    await logs.project()
    none = {"order_by": "time", "dir": "desc", "limit": 100, "next": None, "prev": None}
    for path in LISTS:
        for query in ("", *EMPTY, *EMPTY_TIMES, *(["status=", "include="] if "attempts" in path else [])):
            found: dict[str, Any] = await logs.get(f"{path}?{query}")
            assert (len(found["models"]), found["pagination"]) == (1, none), (path, query)
    assert (await logs.get("/events/e1?tenant_id="))["id"] == "e1"
    for query in ("topic=", "tenant_id=", "topic[]=", "topic[0]="):  # a value like any other, as published
        assert (await logs.get(f"/events?{query}"))["models"] == [], query


@pytest.mark.behaviour(117)
async def test_a_cursor_of_a_log_list_that_it_cannot_read_is_told_alike(logs: LogApi) -> None:  # noqa: F811
    await logs.destination(id="d1")
    for path, resource in LISTS.items():
        other: cursor.Resource = "att" if resource == "evt" else "evt"
        for text, message in (
            ("garbage!", "invalid cursor"),
            ("abc123", "invalid cursor"),
            (cursor.encode_cursor(other, "1::1-1.1"), "invalid cursor"),
            (cursor.encode_cursor("tnt", "1::acme"), "invalid cursor"),
            (cursor.base62(f"{resource}v02:1::x".encode()), VERSION),
        ):
            for name in ("next", "prev"):
                answer = await logs.http.get(path, params={name: text})
                assert (answer.status_code, answer.json()) == (400, {"status": 400, "message": message}), path


async def test_a_path_with_a_slash_at_its_end_is_the_path_without(api: Api) -> None:
    await api.tenant()
    await api.destination(id="d1")
    for method, path, body, status in (
        ("GET", "/topics", None, 200),
        ("GET", "/tenants", None, 200),
        ("GET", "/tenants/acme", None, 200),
        ("PUT", "/tenants/acme", {}, 200),
        ("GET", DESTINATIONS, None, 200),
        ("POST", DESTINATIONS, WEBHOOK, 201),
        ("PATCH", f"{DESTINATIONS}/d1", {}, 200),
        ("PUT", f"{DESTINATIONS}/d1/disable", None, 200),
        ("POST", "/publish", {"tenant_id": "acme", "topic": "user.created", "data": {}}, 202),
        ("DELETE", f"{DESTINATIONS}/d1", None, 200),
    ):
        assert (await api.http.request(method, f"{path}/", json=body)).status_code == status, path
        gone = await api.http.request(method, f"{path}//", json=body)
        assert (gone.status_code, gone.json()["message"]) == (404, "not found"), path
    nameless = await api.http.put("/tenants/", json={})
    assert (nameless.status_code, nameless.json()) == (404, {"status": 404, "message": "not found"})


@pytest.mark.parametrize("said", [{}, {"metadata": None}, {"metadata": {}}])
async def test_a_tenant_and_a_destination_without_metadata_show_none(api: Api, said: dict[str, object]) -> None:
    made = [await api.http.put("/tenants/acme", json=said), await api.http.get("/tenants/acme")]
    made += [await api.http.put("/tenants/acme", json=said)]
    created = await api.http.post(DESTINATIONS, json={**WEBHOOK, "id": "d1", **said})
    kept = await api.http.patch(f"{DESTINATIONS}/d1", json={"metadata": {"a": "b"}})
    emptied = await api.http.patch(f"{DESTINATIONS}/d1", json={"metadata": {"a": None}})
    assert [answer.status_code for answer in (*made, created, kept, emptied)] == [201, 200, 200, 201, 200, 200]
    assert kept.json()["metadata"] == {"a": "b"}
    for answer in (*made, created, emptied):
        assert not {"metadata", "delivery_metadata", "filter"} & answer.json().keys()


@pytest.mark.behaviour(42, 62)
async def test_an_empty_topic_is_one_where_any_is_allowed(api_without_topics: Api) -> None:
    api = api_without_topics
    await api.tenant()
    created = await api.http.post(DESTINATIONS, json={**WEBHOOK, "id": "d1", "topics": [""]})
    assert (created.status_code, created.json()["topics"]) == (201, [""])
    assert (await api.http.get("/tenants/acme")).json()["topics"] == [""]
    for said, matched in (({}, ["d1"]), ({"topic": ""}, ["d1"]), ({"topic": "*"}, ["d1"]), ({"topic": "a"}, [])):
        answer = await api.http.post("/publish", json={"tenant_id": "acme", "data": {}, **said})
        assert (answer.status_code, answer.json()["destination_ids"]) == (202, matched), said


LABELS = {
    "webhook": "Webhook",
    "aws_sqs": "AWS SQS",
    "aws_kinesis": "AWS Kinesis",
    "aws_s3": "AWS S3",
    "gcp_pubsub": "GCP Pub/Sub",
    "rabbitmq": "RabbitMQ",
    "kafka": "Apache Kafka",
}
KEYS = {"key": "Access Key ID", "secret": "Secret Access Key"}
TEMPLATE = {"partition_key_template": "Partition Key Template"}
LOGIN = {"username": "Username", "password": "Password"}
FIELDS = {
    "webhook": {"url": "Webhook URL", "custom_headers": "Custom Headers"},
    "aws_sqs": {"queue_url": "Queue URL", **KEYS},
    "aws_kinesis": {
        "stream_name": "Stream Name",
        "region": "AWS Region",
        "endpoint": "Endpoint",
        **TEMPLATE,
        **KEYS,
        "session": "Session Token",
    },
    "aws_s3": {
        "bucket": "Bucket Name",
        "region": "AWS Region",
        "key_template": "Object Key Template",
        "storage_class": "S3 Storage Class",
        **KEYS,
        "session": "Session Token",
    },
    "gcp_pubsub": {
        "project_id": "Project ID",
        "topic": "Topic",
        "endpoint": "Endpoint",
        "service_account_json": "Service Account JSON",
    },
    "rabbitmq": {"server_url": "Server URL", "exchange": "Exchange", "tls": "TLS", **LOGIN},
    "kafka": {
        "brokers": "Brokers",
        "topic": "Topic",
        "tls": "TLS",
        **TEMPLATE,
        "sasl_mechanism": "SASL Mechanism",
        **LOGIN,
    },
}


@pytest.mark.behaviour(13)
async def test_types_and_their_fields_have_the_published_labels(api: Api) -> None:
    types = {each["type"]: each for each in (await api.http.get("/destination-types")).json()}
    for name, label in LABELS.items():
        assert types[name]["label"] == label
        fields = [*types[name]["config_fields"], *types[name]["credential_fields"]]
        labels = {field["key"]: field["label"] for field in fields}
        assert FIELDS[name].items() <= labels.items(), name


async def test_an_event_has_its_time_in_milliseconds(logs: LogApi) -> None:  # noqa: F811
    await logs.event("e1", time="2026-01-02T03:04:05.678999Z")
    await logs.project()
    assert (await logs.get("/events/e1"))["time"] == "2026-01-02T03:04:05.678Z"


async def test_a_topic_with_a_comma_stays_one(api_without_topics: Api) -> None:
    api = api_without_topics
    await api.tenant()
    await api.http.post(DESTINATIONS, json={**WEBHOOK, "id": "d1", "topics": ["a,b"]})
    assert (await api.http.get(f"{DESTINATIONS}/d1")).json()["topics"] == ["a,b"]
    for topic, matched in (("a,b", ["d1"]), ("a", []), ("b", [])):
        answer = await api.http.post("/publish", json={"tenant_id": "acme", "topic": topic, "data": {}})
        assert answer.json()["destination_ids"] == matched


async def test_the_cursors_of_the_published_server_are_refused(logs: LogApi) -> None:  # noqa: F811
    await logs.destination(id="d1")
    for path, text in (
        ("/tenants", cursor.encode_cursor("tnt", "1700000000000")),
        *((path, cursor.encode_cursor(resource, "1700000000000::x_1")) for path, resource in LISTS.items()),
    ):
        answer = await logs.http.get(path, params={"next": text})
        assert (answer.status_code, answer.json()["message"][:14]) == (400, "invalid cursor"), path


@pytest.mark.behaviour(35)
async def test_an_id_filter_tells_letters_by_their_case_and_takes_commas(api: Api) -> None:
    for id_ in ("acme", "ACME", "acme,ACME"):
        await api.http.put(f"/tenants/{id_.replace(',', '%2C')}")
    for id_ in ("acme", "ACME", "acme,ACME"):
        page = (await api.http.get("/tenants", params={"id": id_})).json()
        assert ([tenant["id"] for tenant in page["models"]], page["count"]) == ([id_], 1)
    assert (await api.http.get("/tenants", params={"id": "Acme"})).json()["count"] == 0
