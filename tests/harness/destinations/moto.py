"""The base of the worlds of AWS: moto as a process of the session, which checks signatures and policies, behind a
proxy that stalls and cuts, and a front that answers as AWS does where moto does not.

What AWS sends and moto never would (too many requests, one failed entry of a batch) the front answers by itself,
in the words of AWS; what moto says in XML to a client that speaks JSON, the front says as AWS does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import aiohttp
import botocore.auth
import botocore.awsrequest
import botocore.credentials
import msgspec
from aiohttp import web

from outpost.embedded.brokers import moto
from outpost.embedded.brokers.moto import ACCOUNT as ACCOUNT
from outpost.embedded.brokers.moto import EVERYTHING, Keys
from outpost.embedded.brokers.moto import REGION as REGION
from tests.harness import servers, toxic
from tests.harness.destinations import world
from tests.harness.polling import eventually

NOTHING = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iam:GetUser", "Resource": "*"}]}'
# What AWS says to a client that speaks JSON, for the word that moto has for it: `__type`, and the status of
# services that never spoke anything else (SQS has kept the 403 of its older protocol).
_TYPES = {
    "AccessDenied": "AccessDeniedException",
    "InvalidClientTokenId": "UnrecognizedClientException",
    "SignatureDoesNotMatch": "InvalidSignatureException",
}
_SQS = "AmazonSQS."


class Reply(msgspec.Struct, frozen=True):
    """What the client gets."""

    status: int
    body: bytes
    headers: dict[str, str] = {}


class Asked(msgspec.Struct, frozen=True):
    """A request: `target` is `Service.Operation` of the JSON protocols, "" for S3."""

    method: str
    path: str
    target: str
    headers: dict[str, str]
    body: bytes


Hook = Callable[[Asked], Awaitable[Reply | None]]


class Front:
    """An HTTP server before moto. `hook` sees every request first, `seen` what was passed on and answered."""

    def __init__(self, moto: moto.Moto) -> None:
        self.port = 0
        self.hook: Hook | None = None
        self.seen: list[tuple[Asked, Reply]] = []
        self._moto = moto
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        self._client = aiohttp.ClientSession(auto_decompress=False)
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        await self._client.close()

    async def passed(self, asked: Asked, body: bytes | None = None) -> Reply:
        """What moto answers; with another body the request is signed anew, by the administrator."""
        headers, sent = asked.headers, asked.body
        if body is not None:
            headers, sent = self._signed(asked, body), body
        url = f"http://127.0.0.1:{self._moto.port}{asked.path}"
        async with self._client.request(asked.method, url, data=sent, headers=headers) as answer:
            kept = {
                name: value
                for name, value in answer.headers.items()
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server")
            }
            reply = Reply(answer.status, await answer.read(), kept)
        reply = _as_aws(asked, reply)
        self.seen.append((asked, reply))
        return reply

    async def _handle(self, request: web.Request) -> web.Response:
        asked = Asked(
            request.method,
            request.path_qs,
            request.headers.get("X-Amz-Target", ""),
            dict(request.headers),
            await request.read(),
        )
        reply = await self.hook(asked) if self.hook is not None else None
        reply = reply or await self.passed(asked)
        return web.Response(status=reply.status, body=reply.body, headers=reply.headers)

    def _signed(self, asked: Asked, body: bytes) -> dict[str, str]:
        kept = ("host", "content-type", "x-amz-target")
        headers = {name: value for name, value in asked.headers.items() if name.lower() in kept}
        scope = re.search(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/", asked.headers["Authorization"])
        assert scope is not None
        credentials = botocore.credentials.Credentials(self._moto.admin.id, self._moto.admin.secret)
        url = f"http://{asked.headers['Host']}{asked.path}"
        signed = botocore.awsrequest.AWSRequest(asked.method, url, headers, body)
        botocore.auth.SigV4Auth(credentials, scope[2], scope[1]).add_auth(signed)
        return dict(signed.headers.items())


def refusal(asked: Asked, name: str, text: str, status: int = 400, type_: str = "") -> Reply:
    """An error as AWS sends it to a client that speaks JSON; SQS names it in a header as well, by the name of its
    older protocol."""
    headers = {"Content-Type": "application/x-amz-json-1.0", "x-amzn-RequestId": secrets.token_hex(16)}
    if asked.target.startswith(_SQS):
        headers["x-amzn-query-error"] = f"{name};Sender"
    return Reply(status, json.dumps({"__type": type_ or name, "message": text}).encode(), headers)


def _as_aws(asked: Asked, reply: Reply) -> Reply:
    """Refusals of access come from moto in XML, whatever the client speaks."""
    if not asked.target or reply.status != 403:
        return reply
    name, text = (
        re.search(rb"<%b>(.*?)</%b>" % (tag, tag), reply.body, re.DOTALL) for tag in (b"Code", b"Message")
    )
    assert name is not None
    assert text is not None
    type_ = _TYPES[name[1].decode()]
    if asked.target.startswith(_SQS):
        return refusal(asked, name[1].decode(), text[1].decode(), 403, f"com.amazon.coral.service#{type_}")
    return refusal(asked, type_, text[1].decode())


class AwsWorld(world.World):
    """What the worlds of AWS have in common. A world makes targets that name `self.url` as their endpoint, and has
    `permitted` and `forbidden` keys."""

    codes: ClassVar[dict[world.Case, str]] = {
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
    cut_bytes = 10
    throttling: ClassVar[
        tuple[str, str, int]
    ]  # name, text and status of the service's answer to too many requests
    _server: ClassVar[moto.Moto | None] = None
    _folder: ClassVar[Path]

    def __init__(self) -> None:
        self._taken: dict[str, list[dict[str, Any]]] = {}

    async def __aenter__(self) -> Self:
        self.moto = self.server()
        self.front = Front(self.moto)
        await self.front.start()
        self.proxy = toxic.Toxic("127.0.0.1", self.front.port)
        await self.proxy.__aenter__()
        self.url = f"http://127.0.0.1:{self.proxy.port}"
        self.permitted = await asyncio.to_thread(self.moto.user, EVERYTHING)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.proxy.__aexit__()
        await self.front.close()

    @classmethod
    def server(cls) -> moto.Moto:
        """The session's moto, started when it is first wanted."""
        if AwsWorld._server is None:
            AwsWorld._folder = servers.new_folder()
            AwsWorld._server = moto.start(cls._folder)
        return AwsWorld._server

    @classmethod
    def end_session(cls) -> None:
        if AwsWorld._server is not None:
            AwsWorld._server.server.stop()
            AwsWorld._server = None
            shutil.rmtree(cls._folder, ignore_errors=True)

    @classmethod
    def missing(cls) -> str:
        return "" if moto.present() else moto.INSTALL

    async def messages(self, queue_url: str, count: int, limit_s: float) -> list[dict[str, Any]]:
        """What has been in the queue by the time that these are `count` messages; takes them out."""
        client = self.moto.client("sqs")
        found = self._taken.setdefault(queue_url, [])

        def take() -> list[dict[str, Any]]:
            every = ["All"]
            asked = {"MessageAttributeNames": every, "AttributeNames": every, "MaxNumberOfMessages": 10}
            messages: list[dict[str, Any]] = client.receive_message(QueueUrl=queue_url, **asked).get(
                "Messages", []
            )
            for message in messages:
                client.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
            return messages

        async def enough() -> bool:
            new = await asyncio.to_thread(take)
            found.extend(new)
            return len(found) >= count and not new

        with contextlib.suppress(AssertionError):
            await eventually(enough, limit_s)
        return list(found)

    def fresh(self, prefix: str) -> str:
        """A name that no other test uses."""
        return f"{prefix}-{secrets.token_hex(6)}"

    async def wrong_credentials(self, target: world.Target) -> world.Target:
        wrong = {**target.credentials, "secret": "not-the-secret-of-this-key"}
        return world.Target(target.config, wrong, target.key)

    async def no_permission(self, target: world.Target) -> world.Target:
        forbidden = await asyncio.to_thread(self.moto.user, NOTHING)
        return world.Target(target.config, forbidden.credentials(), target.key)

    async def rotate(self, target: world.Target) -> world.Target:
        old = Keys(self.permitted.user, target.credentials["key"], target.credentials["secret"])
        new = await asyncio.to_thread(self.moto.key, old.user)
        await asyncio.to_thread(self.moto.forget, old)
        return world.Target(target.config, new.credentials(), target.key)

    async def throttle(self, target: world.Target) -> None:
        name, text, status = self.throttling

        async def refused(asked: Asked) -> Reply | None:
            return refusal(asked, name, text, status)

        self.front.hook = refused

    async def heal(self) -> None:
        self.front.hook = None
        self.proxy.heal()

    def refused_address(self, target: world.Target) -> world.Target:
        return world.Target(
            {**target.config, "endpoint": "http://169.254.169.254"}, target.credentials, target.key
        )
