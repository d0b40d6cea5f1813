"""A stand-in for Google Cloud Pub/Sub: its services over real gRPC, from google-cloud-pubsub's own types.

Without TLS it is the emulator: no credentials, and a request that brings some is refused. With TLS it is Google:
the self-signed token is checked against the public keys of the accounts that it knows, the account against the
topic's publishers. What subscriptions do stands in `pubsub_subscriptions`. Runs in the loop of the test, or alone:
`python -m tests.harness.destinations.pubsub_server PORT`.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn, Self

import grpc
import grpc.aio
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from google.pubsub_v1.types import pubsub

from tests.harness.destinations import pubsub_subscriptions

SERVICE = "google.pubsub.v1.Publisher"
AUDIENCE = "https://pubsub.googleapis.com/"
TOKEN_S = 3_600  # no token may be good for longer
MOST_MESSAGES = 1_000
MOST_BYTES = 10_000_000
NOT_AUTHORIZED = "User not authorized to perform this action."
MOST_ATTRIBUTE = 1_024  # bytes of an attribute's value


class Account:
    """A service account; `key_file` makes a key for it that the server must be told of."""

    def __init__(self, name: str) -> None:
        self.email = f"{name}@project-1.iam.gserviceaccount.com"
        self.keys: dict[str, rsa.RSAPublicKey] = {}

    def key_file(self, *, known: bool = True) -> str:
        """A new key, as Google hands it out."""
        private = rsa.generate_private_key(65_537, 2_048)
        id_ = f"key-{len(self.keys) + 1}"
        if known:
            self.keys[id_] = private.public_key()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return json.dumps(
            {
                "type": "service_account",
                "project_id": "project-1",
                "private_key_id": id_,
                "private_key": pem.decode(),
                "client_email": self.email,
                "client_id": "1",
                "token_uri": "https://oauth2.googleapis.com/token",
                "universe_domain": "googleapis.com",
            }
        )


class Topic:
    """`publishers`: the accounts that may publish; everybody in an emulator."""

    def __init__(self, publishers: set[str]) -> None:
        self.publishers = publishers
        self.messages: list[pubsub.PubsubMessage] = []


class Server:
    """`async with Server() as server:`. `answer` is a status and a text that it gives to all, `refused` a message
    that does not fit the topic's schema; `{authorization}` in the text stands for what the call brought."""

    def __init__(self, port: int = 0, tls: tuple[bytes, bytes] | None = None) -> None:
        self.port = port
        self.topics: dict[str, Topic] = {}
        self.accounts: list[Account] = []
        self.requests: list[tuple[dict[str, Any], bytes]] = []  # the metadata of the call, and what it brought
        self.answer: tuple[str, str] | None = None
        self.refused: bytes | None = None
        self.most_bytes = MOST_BYTES
        self.uneven = False  # whether a request takes longer than the next one
        self.tokens: dict[str, str] = {}  # those that Google gave out itself, each with its account
        self.owners: set[str] | None = None  # who may make and look at topics and subscriptions; None: everybody
        self.subscriptions = pubsub_subscriptions.Subscriptions(self)
        self._tls = tls
        self._numbers = itertools.count(1)
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)])
        publish = grpc.unary_unary_rpc_method_handler(self._publish)  # neither way decoded: that is done below
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Publish": publish}),))
        server.add_generic_rpc_handlers(self.subscriptions.handlers())
        address = f"127.0.0.1:{self.port}"
        if self._tls is None:
            self.port = server.add_insecure_port(address)
        else:
            self.port = server.add_secure_port(address, grpc.ssl_server_credentials([self._tls]))
        await server.start()
        self._server = server
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        await self._server.stop(None)

    async def wait(self) -> None:
        """Until it is ended from outside."""
        assert self._server is not None
        await self._server.wait_for_termination()

    async def _publish(self, raw: bytes, call: grpc.aio.ServicerContext) -> bytes:
        metadata = {str(key): value for key, value in call.invocation_metadata() or ()}
        self.requests.append((metadata, raw))
        request = pubsub.PublishRequest.deserialize(raw)
        if self.uneven:
            await asyncio.sleep(0.01 if len(self.requests) % 2 else 0)
        who = await self.caller(call, metadata)
        topic = self.topics.get(request.topic)
        if topic is None:
            await abort(call, "NOT_FOUND", f"Resource not found (resource={request.topic.rpartition('/')[2]}).")
        if who and who not in topic.publishers:
            await abort(call, "PERMISSION_DENIED", NOT_AUTHORIZED)
        await self.refuse(call, metadata)
        if fault := self._fault(request, len(raw)):
            await abort(call, "INVALID_ARGUMENT", fault)
        ids = [str(next(self._numbers)) for _ in request.messages]
        topic.messages += request.messages
        self.subscriptions.publish(request.topic, request.messages, ids)
        return pubsub.PublishResponse.serialize(pubsub.PublishResponse(message_ids=ids))

    async def caller(self, call: grpc.aio.ServicerContext, metadata: dict[str, Any]) -> str:
        """The account that calls, "" in an emulator; ends the call of one that is not known."""
        who = self._who(metadata)
        if who is None:
            await abort(call, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        return who

    async def refuse(self, call: grpc.aio.ServicerContext, metadata: dict[str, Any]) -> None:
        """Ends the call with `answer`, if there is one."""
        if self.answer is not None:
            status, text = self.answer
            await abort(call, status, text.format(**{"authorization": "", **metadata}))

    def _fault(self, request: pubsub.PublishRequest, size: int) -> str:
        if size > self.most_bytes:
            return "Request payload size exceeds the limit: 10485760 bytes."
        if not 0 < len(request.messages) <= MOST_MESSAGES:
            return f"The request must hold 1 to {MOST_MESSAGES} messages."
        if len({message.ordering_key for message in request.messages}) > 1:
            return "All messages of a request must have the same ordering key."
        for message in request.messages:
            if not message.data and not message.attributes:
                return "One or more messages in the publish request is empty."
            if any(len(value.encode()) > MOST_ATTRIBUTE for value in message.attributes.values()):
                return "The request contains an attribute value that is too long."
            if self.refused is not None and message.data == self.refused:
                return "Invalid data in message: Message failed schema validation."
        return ""

    def _who(self, metadata: dict[str, Any]) -> str | None:
        """The account that calls; "" in an emulator, None if it is not known."""
        token = metadata.get("authorization")
        if self._tls is None:
            return "" if token is None else None
        kind, _, text = str(token).partition(" ")
        if kind == "Bearer" and text in self.tokens:
            return self.tokens[text]
        if kind != "Bearer" or text.count(".") != 2:
            return None
        head, body, signature = text.split(".")
        header, claims = (json.loads(_bytes(part)) for part in (head, body))
        for account in self.accounts:
            key = account.keys.get(header.get("kid", ""))
            if key is None or not _fits(claims, account.email):
                continue
            try:
                key.verify(_bytes(signature), f"{head}.{body}".encode(), padding.PKCS1v15(), hashes.SHA256())
            except InvalidSignature:
                continue
            return account.email
        return None


def _fits(claims: dict[str, Any], email: str) -> bool:
    began, ends, now = claims["iat"], claims["exp"], time.time()
    return bool(
        claims["iss"] == claims["sub"] == email
        and claims["aud"] == AUDIENCE
        and began - 60 <= now < ends <= began + TOKEN_S
    )


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def abort(call: grpc.aio.ServicerContext, status: str, text: str) -> NoReturn:
    """Ends the call with that answer."""
    await call.abort(grpc.StatusCode[status], text)
    raise AssertionError("abort raises")


class _Everything(dict[str, Topic]):
    """An emulator in which every topic exists."""

    def get(self, key: str, default: Any = None) -> Topic:
        return self.setdefault(key, Topic(set()))


async def _alone(port: int, say: Callable[[str], object] = print) -> None:
    async with Server(port) as server:
        server.topics = _Everything()
        say(f"ready {server.port}")
        await server.wait()


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    asyncio.run(_alone(int(sys.argv[1])))
