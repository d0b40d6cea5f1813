"""Service Bus for the suite: the stand-in for the session, a queue and a key for every test, behind a proxy."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec

from outpost.embedded import claim, process
from tests.harness import servers
from tests.harness.destinations import world
from tests.harness.toxic import Toxic

PYTHON = Path("/usr/bin/python3")  # Debian's, for which there is a package of qpid-proton
LARGEST = 256 * 1024  # bytes of a message, as the standard tier takes
LONGEST_LINE = 1 << 28
STEPS = ((signal.SIGTERM, 2.0),)
LISTENER = "listener"  # a key without the Send claim


class World(world.World):
    type = "azure_servicebus"
    codes = {
        "wrong_credentials": "invalid_credentials",
        "missing_target": "target_not_found",
        "no_permission": "access_denied",
        "throttled": "throttled",
        "too_large": "message_too_large",
        "stalled": "timeout",
        "cut": "connection_reset",
        "rotated": "invalid_credentials",
        "refused_address": "blocked_address",
        "partial": "message_too_large",
    }
    batches = True

    port: ClassVar[int]  # the stand-in's own, without the proxy
    http_port: ClassVar[int]  # of Entra ID and management
    _control_port: ClassVar[int]
    _server: ClassVar[process.Server | None] = None
    _folder: ClassVar[Path]
    _numbers = itertools.count(1)

    @classmethod
    def missing(cls) -> str:
        if importlib.util.find_spec("azure.servicebus") is None:
            return "pip install 'outpost-events[azure]'"
        found = (
            PYTHON.exists() and not subprocess.run([PYTHON, "-c", "import proton"], capture_output=True).returncode
        )
        return "" if found else "qpid-proton is missing: apt-get install python3-qpid-proton"

    @classmethod
    def end_session(cls) -> None:
        if cls._server is not None:
            cls._server.stop()
            shutil.rmtree(cls._folder, ignore_errors=True)
            cls._server = None

    @classmethod
    def _start(cls) -> None:
        cls._folder = servers.new_folder()
        cls.port, cls._control_port, cls.http_port = (process.free_port() for _ in range(3))
        script = Path(__file__).with_name("servicebus_server.py")
        lock = claim.take(cls._folder / "servicebus.lock", str(script))
        try:
            cls._server = process.spawn(
                "the Service Bus stand-in",
                [PYTHON, script, str(cls.port), str(cls._control_port), str(cls.http_port)],
                lock=lock,
                log=cls._folder / "servicebus.log",
                cwd=cls._folder,
                stop_steps=STEPS,
                death_signal=signal.SIGKILL,
            )
        finally:
            os.close(lock)

    async def __aenter__(self) -> Self:
        if self._server is None:
            self._start()
            await servers.wait_for_port(self._control_port)
            await servers.wait_for_port(self.port)
        self._faulty: list[str] = []
        self.proxy = Toxic("127.0.0.1", self.port)
        await self.proxy.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.proxy.__aexit__()

    async def target(self) -> world.Target:
        number = next(self._numbers)
        name, key_name = f"queue-{number}", f"sender-{number}"
        await self.told(do="queue", name=name, largest=LARGEST)
        credentials = await self._credentials(key_name)
        return world.Target({"name": name}, credentials, name)

    async def arrived(self, target: world.Target, count: int, limit_s: float = 10.0) -> list[world.Arrived]:
        end = time.monotonic() + limit_s
        while len(found := await self.told(do="received", queue=target.key)) < count and time.monotonic() < end:
            await asyncio.sleep(0.01)
        extra = ("id", "content_type", "session")
        return [
            world.Arrived(base64.b64decode(one["body"]), one["metadata"], {name: one[name] for name in extra})
            for one in found
        ]

    async def wrong_credentials(self, target: world.Target) -> world.Target:
        name = self._key_name(target)
        return msgspec.structs.replace(target, credentials=self.string(self.proxy.port, name, _new_key()))

    async def missing_target(self, target: world.Target) -> world.Target:
        return msgspec.structs.replace(target, config={"name": "no-such-queue"})

    async def no_permission(self, target: world.Target) -> world.Target:
        return msgspec.structs.replace(target, credentials=await self._credentials(LISTENER, send=False))

    async def throttle(self, target: world.Target) -> None:
        self._faulty.append(target.key)
        await self.told(do="fault", queue=target.key, condition="com.microsoft:server-busy")

    async def too_large(self, target: world.Target) -> bytes:
        return json.dumps({"text": "x" * LARGEST}).encode()

    async def refuse_one(self, target: world.Target) -> bytes:
        return await self.too_large(target)

    async def rotate(self, target: world.Target) -> world.Target:
        return msgspec.structs.replace(target, credentials=await self._credentials(self._key_name(target)))

    async def heal(self) -> None:
        self.proxy.heal()
        while self._faulty:
            await self.told(do="fault", queue=self._faulty.pop(), condition="")

    def refused_address(self, target: world.Target) -> world.Target:
        text = target.credentials["connection_string"].replace("//127.0.0.1:", "//169.254.169.254:")
        return msgspec.structs.replace(target, credentials={"connection_string": text})

    async def told(self, **what: Any) -> Any:
        """The answer to a command of the stand-in's control port."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._control_port, limit=LONGEST_LINE)
        writer.write(json.dumps(what).encode() + b"\n")
        answer = json.loads(await reader.readline())
        writer.close()
        await writer.wait_closed()
        return answer

    def string(self, port: int, key_name: str, key: str) -> dict[str, str]:
        """Credentials for a stand-in without TLS at `port` of this machine."""
        text = (
            f"Endpoint=sb://127.0.0.1:{port}/;SharedAccessKeyName={key_name};SharedAccessKey={key};"
            "UseDevelopmentEmulator=true"
        )
        return {"connection_string": text}

    async def _credentials(self, key_name: str, send: bool = True) -> dict[str, str]:
        key = _new_key()
        await self.told(do="key", name=key_name, key=key, send=send)
        return self.string(self.proxy.port, key_name, key)

    @staticmethod
    def _key_name(target: world.Target) -> str:
        return target.credentials["connection_string"].partition("SharedAccessKeyName=")[2].partition(";")[0]


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()
