"""Hookdeck: its API, which knows tokens, and its events host, which takes what is signed with them; two receivers.

The API goes on to know tokens that the events host refuses, as it would for a moment after one was replaced: only
so can a destination be saved whose events are then refused.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from typing import Self

from tests.harness.destinations import world
from tests.harness.polling import eventually
from tests.harness.receiver import Do, Receiver, Request, Script, answer
from tests.harness.toxic import Toxic

API_VERSION = "/2025-01-01"
MOST_BYTES = 200_000  # a limit of the stand-in
METADATA = "x-outpost-"


class World(world.World):
    type = "hookdeck"
    success = "200"
    codes = {
        "wrong_credentials": "401",
        "missing_target": "404",
        "throttled": "429",
        "too_large": "413",
        "stalled": "ERROR",
        "cut": "ERROR",
        "rotated": "401",
    }
    cannot = {
        "no_permission": "a token is for one source and may do all that there is: send to it",
        "partial": "one request carries one event",
        "refused_address": "no tenant names a host: both are settings of the operator (see test_hookdeck_service)",
    }

    def __init__(self) -> None:
        self.api = Receiver()
        self.events = Receiver()
        self.known: dict[str, str] = {}  # token -> source, as the API has it
        self._taken: dict[str, str] = {}  # source -> token, as the events host has it
        self._accepted: list[Request] = []
        self._throttled = False

    async def __aenter__(self) -> Self:
        await self.api.__aenter__()
        await self.events.__aenter__()
        self.proxy = Toxic("127.0.0.1", self.events.port)
        await self.proxy.__aenter__()
        self.api.always(self._verify)
        self.events.always(self._take)
        self.settings = {
            "hookdeck_api_url": self.api.url(""),
            "hookdeck_events_url": f"http://127.0.0.1:{self.proxy.port}",
        }
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.proxy.__aexit__()
        await self.events.__aexit__()
        await self.api.__aexit__()

    @classmethod
    def missing(cls) -> str:
        return ""

    def token(self, source: str) -> str:
        """A new token of `source`, which both hosts know from now on."""
        token = base64.b64encode(f"{source}:{uuid.uuid4().hex}:{uuid.uuid4().hex}".encode()).decode()
        self.known[token] = source
        self._taken[source] = token
        return token

    async def target(self) -> world.Target:
        source = f"src_{uuid.uuid4().hex[:12]}"
        return world.Target({}, {"token": self.token(source)}, source)

    async def arrived(self, target: world.Target, count: int, limit_s: float = 10.0) -> list[world.Arrived]:
        def found() -> list[Request]:
            return [request for request in self._accepted if request.target == f"/{target.key}"]

        await eventually(lambda: len(found()) >= count, limit_s)
        return [world.Arrived(request.body, _metadata(request), request.headers) for request in found()]

    async def wrong_credentials(self, target: world.Target) -> world.Target:
        wrong = world.Target({}, {"token": self.token(target.key)}, target.key)
        self._taken[target.key] = target.credentials["token"]
        return wrong

    async def missing_target(self, target: world.Target) -> world.Target:
        gone = await self.target()
        del self._taken[gone.key]
        return gone

    async def throttle(self, target: world.Target) -> None:
        self._throttled = True

    async def too_large(self, target: world.Target) -> bytes:
        return json.dumps({"x": "y" * MOST_BYTES}).encode()

    async def stall(self, target: world.Target) -> None:
        self.events.always([Do.HANG])

    async def cut(self, target: world.Target) -> None:
        self.events.then([Do.RESET], [Do.RESET])  # the request goes out once more where nothing was answered

    async def rotate(self, target: world.Target) -> world.Target:
        return world.Target({}, {"token": self.token(target.key)}, target.key)

    async def heal(self) -> None:
        self._throttled = False
        self.events.always(self._take)

    def _verify(self, request: Request) -> Script:
        source = self.known.get(request.headers.get("x-hookdeck-source-token", ""))
        if source is None:
            return answer(401, b'{"code":"UNAUTHORIZED"}')
        if (request.method, request.target) != ("GET", f"{API_VERSION}/sources/{source}/managed/verify"):
            return answer(404, b'{"code":"NOT_FOUND"}')
        return answer(200, json.dumps({"name": f"name of {source}", "url": "https://hkdk.events/x"}).encode())

    def _take(self, request: Request) -> Script:
        token = self._taken.get(request.target.removeprefix("/"))
        if token is None:
            return answer(404, b'{"message":"no such source"}')
        if request.headers.get("x-hookdeck-signature") != signature(token, request.body):
            return answer(401, b'{"message":"bad signature"}')
        if self._throttled:
            return answer(429, b'{"message":"later"}', "Retry-After: 7")
        if len(request.body) > MOST_BYTES:
            return answer(413, b'{"message":"too large"}')
        self._accepted.append(request)
        return answer(200, b'{"status":"ok"}', "Content-Type: application/json", "x-hookdeck-requestid: req_1")


def signature(token: str, body: bytes) -> str:
    """As Hookdeck works it out: the whole token is the key."""
    return "v0=" + base64.b64encode(hmac.new(token.encode(), body, hashlib.sha256).digest()).decode()


def _metadata(request: Request) -> dict[str, str]:
    return {
        name.removeprefix(METADATA): value for name, value in request.headers.items() if name.startswith(METADATA)
    }
