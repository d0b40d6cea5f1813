"""Pub/Sub for the suite: the stand-in with TLS and accounts, in the place of Google, behind a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import itertools
import json
from typing import Any, ClassVar, Self
from unittest import mock

import msgspec
import trustme

from outpost.adapters import base
from outpost.adapters.gcp import calls as gcp_calls
from outpost.adapters.gcp import type as gcp_pubsub
from tests.harness import polling, toxic
from tests.harness.destinations import world as worlds

PROJECT = "project-1"


@functools.cache
def authority() -> trustme.CA:
    """Signs the stand-ins' certificates; made once, as that takes a while."""
    return trustme.CA()


def certificate(*names: str) -> tuple[bytes, bytes]:
    """Key and certificate for `names`."""
    issued = authority().issue_cert(*names)
    return issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes()


@functools.cache
def key_file(account: Any) -> str:
    """A key that the account has for the session: making one takes a while."""
    return str(account.key_file())


class World(worlds.World):
    """The stand-in runs in the loop of the test: it is ready in some milliseconds."""

    type = "gcp_pubsub"
    codes: ClassVar[dict[worlds.Case, str]] = {
        "wrong_credentials": "invalid_credentials",
        "missing_target": "target_not_found",
        "no_permission": "access_denied",
        "throttled": "throttled",
        "too_large": "message_too_large",
        "stalled": "timeout",
        "cut": "connection_reset",
        "rotated": "invalid_credentials",
        "refused_address": "blocked_address",
        "partial": "ERR",
    }
    batches = True
    _numbers = itertools.count(1)
    _accounts: ClassVar[list[Any]] = []

    @classmethod
    def missing(cls) -> str:
        return "" if importlib.util.find_spec("google.pubsub_v1") else "pip install 'outpost-events[gcp]'"

    async def __aenter__(self) -> Self:
        from tests.harness.destinations import pubsub_server

        if not self._accounts:
            self._accounts += [pubsub_server.Account("publisher"), pubsub_server.Account("stranger")]
        self._publisher, self._stranger = self._accounts
        self._server = pubsub_server.Server(tls=certificate("127.0.0.1"))
        self._server.accounts = [self._publisher, self._stranger]
        self._topic = pubsub_server.Topic
        await self._server.__aenter__()
        self.proxy = toxic.Toxic("127.0.0.1", self._server.port)
        await self.proxy.__aenter__()
        google = gcp_calls.Service("127.0.0.1", self.proxy.port, roots=authority().cert_pem.bytes())
        self._patch = mock.patch.object(gcp_pubsub, "GOOGLE", google)
        self._patch.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._patch.stop()
        await self.proxy.__aexit__()
        await self._server.__aexit__()

    async def target(self) -> worlds.Target:
        topic = f"topic-{next(self._numbers)}"
        path = f"projects/{PROJECT}/topics/{topic}"
        self._server.topics[path] = self._topic({self._publisher.email})
        return self._with(topic, key_file(self._publisher))

    async def arrived(self, target: worlds.Target, count: int, limit_s: float = 10.0) -> list[worlds.Arrived]:
        messages = self._server.topics[target.key].messages
        with contextlib.suppress(AssertionError):
            await polling.eventually(lambda: len(messages) >= count, limit_s)
        return [worlds.Arrived(m.data, dict(m.attributes), {"ordering_key": m.ordering_key}) for m in messages]

    async def wrong_credentials(self, target: worlds.Target) -> worlds.Target:
        unknown = await asyncio.to_thread(self._publisher.key_file, known=False)
        return self._with(target.config["topic"], unknown)

    async def missing_target(self, target: worlds.Target) -> worlds.Target:
        return self._with("nowhere", target.credentials["service_account_json"])

    async def no_permission(self, target: worlds.Target) -> worlds.Target:
        return self._with(target.config["topic"], key_file(self._stranger))

    async def throttle(self, target: worlds.Target) -> None:
        self._server.answer = ("RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Publisher throughput'.")

    async def too_large(self, target: worlds.Target) -> bytes:
        return json.dumps({"n": "x" * 10_000_000}).encode()

    async def bad(self, target: worlds.Target, event: base.Delivery) -> base.Delivery:
        return msgspec.structs.replace(event, data=await self.refuse_one(target))

    async def refuse_one(self, target: worlds.Target) -> bytes:
        self._server.refused = b'{"schema":"another"}'
        return self._server.refused

    async def rotate(self, target: worlds.Target) -> worlds.Target:
        """The account's old keys are deleted; those of the session stay with a copy of the account."""
        fresh = await asyncio.to_thread(self._publisher.key_file)
        newest = max(self._publisher.keys, key=lambda id_: int(id_.rpartition("-")[2]))
        rotated = type(self._publisher)("publisher")
        rotated.keys = {newest: self._publisher.keys[newest]}
        self._server.accounts = [rotated]
        return self._with(target.config["topic"], fresh)

    async def heal(self) -> None:
        self._server.answer = self._server.refused = None
        self.proxy.heal()

    def refused_address(self, target: worlds.Target) -> worlds.Target:
        config = {**target.config, "endpoint": "169.254.169.254:80"}
        return worlds.Target(config, target.credentials, target.key)

    def _with(self, topic: str, credentials: str) -> worlds.Target:
        return worlds.Target(
            {"project_id": PROJECT, "topic": topic},
            {"service_account_json": credentials},
            f"projects/{PROJECT}/topics/{topic}",
        )
