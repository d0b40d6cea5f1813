"""Whatever JSON allows as the data of an event arrives at its receiver byte for byte."""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from outpost.commands import actor, forms
from tests.harness import json_texts, node, servers
from tests.harness import receiver as receivers

TENANT = "acme"
ODD = [b'{"a":"\\udc00"}', b'{"a":1e400}', b'{ "a" : ' + b"9" * 5_000 + b"\n}", b'{"\\u0000":"\\ud800\\ud800"}']


async def deliver(redis: servers.RedisServer, sent: dict[str, bytes]) -> dict[str, bytes]:
    """The bodies that arrive, by the ids of their events."""
    async with receivers.Receiver() as receiver, node.Node(redis) as running:
        await running.tenant(TENANT)
        await running.webhook(TENANT, receiver.url())
        for id_, data in sent.items():
            body = b'{"tenant_id":"acme","id":"%b","data":%b}' % (id_.encode(), data)
            request = forms.publish_request(body, running.settings, 0)
            await running.publisher.publish(actor.Actor("admin", f"req_{id_}"), request)
        await node.quiet(running.log)
        return {request.headers["x-outpost-event-id"]: request.body for request in receiver.requests}


def test_any_json_object_arrives_byte_for_byte(session_servers: servers.Session):
    with asyncio.Runner() as runner:

        @settings(max_examples=5, suppress_health_check=[*HealthCheck], database=None)
        @given(st.lists(json_texts.OBJECTS, min_size=30, max_size=40))
        @example(ODD)
        def arrives(texts: list[bytes]) -> None:
            sent = {f"e{number}": text for number, text in enumerate(texts)}
            redis = session_servers.redis(servers.VALKEY_9)
            assert sent == runner.run(deliver(redis, sent))
            runner.run(redis.close_clients())

        arrives()
