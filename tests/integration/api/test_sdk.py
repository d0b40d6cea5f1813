"""The published Python SDK, unmodified, against a server of ours that listens."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable
from typing import Any

import outpost_sdk
import pytest
from outpost_sdk import errors, models

from outpost.log import partition as partitions
from outpost.log import read
from projections.logs import migrate, projector
from projections.logs import store as stores
from tests.harness import log_entries
from tests.harness.api_server import KEY, SETTINGS, Api
from tests.harness.servers import RedisServer

HOOK = {"type": "webhook", "topics": ["user.created"], "config": {"url": "https://example.com/hook"}}


class Sdk:
    """The SDK's blocking calls run in a thread, as in a customer's program."""

    def __init__(self, api: Api, url: str, store: stores.Store) -> None:
        self.api = api
        self.url = url
        self.store = store
        self.client = outpost_sdk.Outpost(api_key=KEY, server_url=url)

    async def __call__(self, method: Callable[..., Any], **arguments: Any) -> Any:
        return await asyncio.to_thread(method, **arguments)

    async def project(self) -> None:
        assert await projector.LogProjector(self.api.log, self.store, 1000).drain(30.0)


@pytest.fixture
async def sdk(redis70: RedisServer, postgres_url: str) -> AsyncIterator[Sdk]:
    store = await stores.open_store(postgres_url)
    await migrate.apply_pending(store)
    api = Api(SETTINGS, redis70, store)
    async with api.listening() as url:
        made = Sdk(api, f"{url}/api/v1", store)
        with made.client:
            yield made
    await api.close()
    await store.close()


@pytest.mark.behaviour(11)
async def test_health(sdk: Sdk) -> None:
    health = await sdk(sdk.client.health.check)
    assert health.status == "healthy"
    assert "http-server" in health.workers


async def test_tenants(sdk: Sdk) -> None:
    client = sdk.client
    made = await sdk(client.tenants.upsert, tenant_id="acme", body={"metadata": {"plan": "pro"}})
    assert (made.id, made.metadata, made.topics, made.destinations_count) == ("acme", {"plan": "pro"}, [], 0)
    assert isinstance(made.created_at, dt.datetime)
    assert await sdk(client.tenants.get, tenant_id="acme") == made
    await sdk(client.tenants.upsert, tenant_id="b c")
    listed = await sdk(client.tenants.list, request={"limit": 1, "direction": "asc"})
    assert [tenant.id for tenant in listed.models] == ["acme"]
    cursor = listed.pagination.next_cursor
    following = await sdk(client.tenants.list, request={"limit": 1, "direction": "asc", "next_cursor": cursor})
    assert [tenant.id for tenant in following.models] == ["b c"]
    assert following.pagination.next_cursor is None
    assert (await sdk(client.tenants.delete, tenant_id="b c")).success is True
    with pytest.raises(errors.NotFoundError):
        await sdk(client.tenants.get, tenant_id="b c")


async def test_destinations(sdk: Sdk) -> None:
    client, acme = sdk.client, {"tenant_id": "acme"}
    await sdk(client.tenants.upsert, **acme)
    body = {**HOOK, "metadata": {"a": "b"}, "delivery_metadata": {"c": "d"}, "filter_": {"data": {"n": 1}}}
    made = await sdk(client.destinations.create, **acme, body=body)
    assert isinstance(made, models.DestinationWebhook)
    assert made.config.url == "https://example.com/hook"
    assert made.credentials.secret.startswith("whsec_")
    assert (made.metadata, made.delivery_metadata) == ({"a": "b"}, {"c": "d"})
    one = {**acme, "destination_id": made.id}
    assert await sdk(client.destinations.get, **one) == made
    listed = await sdk(client.destinations.list, **acme, type_="webhook", topics=["user.created"])
    assert listed == [made]
    disabled = await sdk(client.destinations.disable, **one)
    assert disabled.disabled_at is not None
    assert (await sdk(client.destinations.enable, **one)).disabled_at is None
    update = {"type": "webhook", "topics": "*", "metadata": {"a": None}}
    changed = await sdk(client.destinations.update, **one, body=update)
    assert changed.topics == ["*"]
    assert not changed.metadata
    assert (await sdk(client.destinations.delete, **one)).success is True
    with pytest.raises(errors.NotFoundError):
        await sdk(client.destinations.get, **one)


async def test_publish_events_and_attempts(sdk: Sdk) -> None:
    client, acme = sdk.client, {"tenant_id": "acme"}
    await sdk(client.tenants.upsert, **acme)
    destination = await sdk(client.destinations.create, **acme, body=HOOK)
    published = await sdk(
        client.publish,
        request={"id": "e1", **acme, "topic": "user.created", "data": {"n": [1]}, "metadata": {"k": "v"}},
    )
    assert (published.id, published.duplicate) == ("e1", False)
    assert published.destination_ids == [destination.id]
    assert (await sdk(client.publish, request={"id": "e1", **acme, "topic": "user.created", "data": {}})).duplicate
    (entry,) = await read.between(sdk.api.log, "evt", partitions.partition_of("acme"))
    response = b'{"status":200,"body":"ok"}'
    attempted = log_entries.attempt(
        "acme", "e1", entry.position.entry_id, destination=destination.id, response=response
    )
    await log_entries.append(sdk.api.log, "dlv", "acme", attempted)
    await sdk.project()

    event = await sdk(client.events.get, event_id="e1")
    assert (event.tenant_id, event.data, event.metadata) == ("acme", {"n": [1]}, {"k": "v"})
    assert event.matched_destination_ids == [destination.id]
    events = await sdk(client.events.list, request={"tenant_id": ["acme", "x"], "time": {"gte": event.time}})
    assert [found.id for found in events.models] == ["e1"]

    listed = await sdk(
        client.attempts.list, request={"event_id": "e1", "include": ["response_data", "destination"]}
    )
    (attempt,) = listed.models
    assert (attempt.status, attempt.code, attempt.attempt_number) == (models.Status.SUCCESS, "200", 1)
    assert attempt.response_data == {"status": 200, "body": "ok"}
    assert attempt.destination.id == destination.id
    assert (await sdk(client.attempts.get, attempt_id=attempt.id)).event_id == "e1"
    one = {**acme, "destination_id": destination.id}
    of_destination = await sdk(client.destinations.list_attempts, request={**one, "include": "event.data"})
    assert of_destination.models[0].event.data == {"n": [1]}
    single = await sdk(client.destinations.get_attempt, **one, attempt_id=attempt.id)
    assert single.id == attempt.id


@pytest.mark.behaviour(97)
async def test_retry(sdk: Sdk) -> None:
    client = sdk.client
    await sdk(client.tenants.upsert, tenant_id="acme")
    destination = await sdk(client.destinations.create, tenant_id="acme", body=HOOK)
    pair = {"event_id": "e1", "destination_id": destination.id}
    await sdk(client.publish, request={"id": "e1", "tenant_id": "acme", "topic": "user.created", "data": {}})
    with pytest.raises(errors.NotFoundError) as unknown:
        await sdk(client.retry, request=pair)
    assert unknown.value.data.message == "event not found"
    entry = (await read.between(sdk.api.log, "evt", partitions.partition_of("acme")))[0].position.entry_id
    attempted = log_entries.attempt("acme", "e1", entry, status="failed", code="500")
    attempted[attempted.index("ref") + 1] = f"1/{entry}/{destination.id}@2"
    await log_entries.append(sdk.api.log, "dlv", "acme", attempted)
    await sdk.project()
    assert (await sdk(client.retry, request=pair)).success
    await sdk(client.destinations.disable, tenant_id="acme", destination_id=destination.id)
    with pytest.raises(errors.APIError) as disabled:
        await sdk(client.retry, request=pair)
    assert (disabled.value.status_code, "destination_disabled" in disabled.value.body) == (400, True)


async def test_topics_and_destination_types(sdk: Sdk) -> None:
    assert await sdk(sdk.client.topics.list) == list(SETTINGS.topics)
    types = await sdk(sdk.client.schemas.list_destination_types)
    assert [found.type for found in sdk.api.registry.types()] == [found.type for found in types]
    webhook = await sdk(sdk.client.schemas.get_destination_type, type_="webhook")
    assert webhook.config_fields[0].key == "url"


async def test_errors_are_those_that_the_sdk_knows(sdk: Sdk) -> None:
    client = sdk.client
    with pytest.raises(errors.OutpostError) as invalid:
        await sdk(client.publish, request={"topic": "nope", "data": {}})
    assert invalid.value.status_code == 422
    await sdk(client.tenants.upsert, tenant_id="acme")
    with pytest.raises(errors.APIErrorResponse) as refused:
        await sdk(client.destinations.create, tenant_id="acme", body={**HOOK, "topics": ["nope"]})
    assert refused.value.data.status == 422
    assert refused.value.data.data == ["topics failed unknown validation"]
    with outpost_sdk.Outpost(api_key="wrong", server_url=sdk.url) as stranger:
        with pytest.raises(errors.OutpostError) as unauthorized:
            await sdk(stranger.topics.list)
        assert unauthorized.value.status_code == 401
