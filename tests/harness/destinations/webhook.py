"""A webhook: the receiver of the other tests, with a secret that it checks and limits of its own."""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from typing import Self

from tests.harness.destinations import world
from tests.harness.polling import eventually
from tests.harness.receiver import Do, Receiver, Request, Script, answer
from tests.harness.toxic import Toxic

MOST_BYTES = 200_000  # a limit of the stand-in
METADATA = "x-outpost-"
SIGNATURE = "x-outpost-signature"


class World(world.World):
    type = "webhook"
    success = "200"
    codes = {
        "wrong_credentials": "401",
        "missing_target": "404",
        "no_permission": "403",
        "throttled": "429",
        "too_large": "413",
        "stalled": "timeout",
        "cut": "connection_reset",
        "rotated": "401",
        "refused_address": "blocked_address",
    }
    cannot = {"partial": "one request carries one event"}

    def __init__(self) -> None:
        self.receiver = Receiver()
        self._secrets: dict[str, str] = {}  # path -> secret
        self._forbidden: set[str] = set()
        self._accepted: list[Request] = []
        self._throttled = False

    async def __aenter__(self) -> Self:
        await self.receiver.__aenter__()
        self.proxy = Toxic("127.0.0.1", self.receiver.port)
        await self.proxy.__aenter__()
        self.receiver.always(self._take)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.proxy.__aexit__()
        await self.receiver.__aexit__()

    @classmethod
    def missing(cls) -> str:
        return ""

    async def target(self) -> world.Target:
        path = f"/{uuid.uuid4().hex}"
        self._secrets[path] = f"whsec_{uuid.uuid4().hex}"
        return self._at(path, self._secrets[path])

    async def arrived(self, target: world.Target, count: int, limit_s: float = 10.0) -> list[world.Arrived]:
        def found() -> list[Request]:
            return [request for request in self._accepted if request.target == target.key]

        await eventually(lambda: len(found()) >= count, limit_s)
        return [world.Arrived(request.body, _metadata(request), request.headers) for request in found()]

    async def wrong_credentials(self, target: world.Target) -> world.Target:
        return self._at(target.key, f"whsec_{uuid.uuid4().hex}")

    async def missing_target(self, target: world.Target) -> world.Target:
        return self._at(f"/{uuid.uuid4().hex}", target.credentials["secret"])

    async def no_permission(self, target: world.Target) -> world.Target:
        other = await self.target()
        self._forbidden.add(other.key)
        return other

    async def throttle(self, target: world.Target) -> None:
        self._throttled = True

    async def too_large(self, target: world.Target) -> bytes:
        return json.dumps({"x": "y" * MOST_BYTES}).encode()

    async def stall(self, target: world.Target) -> None:
        self.receiver.always([Do.HANG])

    async def cut(self, target: world.Target) -> None:
        self.receiver.then([Do.RESET], [Do.RESET])  # the request goes out once more where nothing was answered

    async def rotate(self, target: world.Target) -> world.Target:
        self._secrets[target.key] = f"whsec_{uuid.uuid4().hex}"
        return self._at(target.key, self._secrets[target.key])

    async def heal(self) -> None:
        self._throttled = False
        self.receiver.always(self._take)

    def refused_address(self, target: world.Target) -> world.Target:
        return world.Target({"url": f"http://169.254.169.254{target.key}"}, target.credentials, target.key)

    def _at(self, path: str, secret: str) -> world.Target:
        return world.Target({"url": f"http://127.0.0.1:{self.proxy.port}{path}"}, {"secret": secret}, path)

    def _take(self, request: Request) -> Script:
        secret = self._secrets.get(request.target)
        if secret is None:
            return answer(404, b"")
        if (
            request.headers.get(SIGNATURE)
            != f"v0={hmac.new(secret.encode(), request.body, hashlib.sha256).hexdigest()}"
        ):
            return answer(401, b"bad signature")
        if request.target in self._forbidden:
            return answer(403, b"")
        if self._throttled:
            return answer(429, b"later", "Retry-After: 7")
        if len(request.body) > MOST_BYTES:
            return answer(413, b"too large")
        self._accepted.append(request)
        return answer(200, b'{"status":"ok"}')


def _metadata(request: Request) -> dict[str, str]:
    return {
        name.removeprefix(METADATA): value
        for name, value in request.headers.items()
        if name.startswith(METADATA) and name != SIGNATURE
    }
