"""Starts moto, a stand-in for the services of AWS, for the demo and for tests: on loopback alone, all in memory.

It checks signatures and policies: once it is ready, every call needs a key that it knows.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from outpost.embedded import claim, folder, process
from outpost.embedded.brokers.tansu import accepts
from outpost.embedded.valkey import HOST, PORT_TRIES
from outpost.errors import EmbeddedError

INSTALL = "moto, which stands in for AWS, is not installed: pip install 'moto[server]'"
REGION = "us-east-1"
ACCOUNT = "123456789012"
EVERYTHING = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
MODULE = "moto.server"
BOOTSTRAP = 3  # calls without a policy that make the administrator
# It holds nothing that a second of SIGTERM would save.
STOP_STEPS = ((signal.SIGKILL, 5.0),)
DEATH_SIGNAL = signal.SIGKILL
START_LIMIT_S = 60.0  # 2 s are usual
_NEEDED = ("moto", "flask", "flask_cors")  # the last two are what [server] adds
_numbers = itertools.count(1)


class Keys(msgspec.Struct, frozen=True):
    """An access key of `user`."""

    user: str
    id: str
    secret: str

    def __repr__(self) -> str:
        return f"Keys({self.user!r})"

    def credentials(self) -> dict[str, str]:
        """As a destination has them."""
        return {"key": self.id, "secret": self.secret}


class Moto:
    """A running moto. `admin` may do everything there. Its calls block, for some milliseconds each."""

    host = HOST

    def __init__(self, server: process.Server, port: int) -> None:
        from botocore import session

        self.server = server
        self.port = port
        self.admin = Keys("", "bootstrap", "bootstrap")
        self._session = session.Session()
        self.admin = self.user(EVERYTHING)

    @property
    def url(self) -> str:
        """The endpoint of every service."""
        return f"http://{self.host}:{self.port}"

    def client(self, service: str) -> Any:
        """botocore's own client, as administrator."""
        from botocore import config

        return self._session.create_client(
            service,
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id=self.admin.id,
            aws_secret_access_key=self.admin.secret,
            config=config.Config(retries={"total_max_attempts": 1}, proxies={}),
        )

    def user(self, policy: str) -> Keys:
        """A new user who may do what `policy` says. Three calls."""
        iam, name = self.client("iam"), f"user-{next(_numbers)}"
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=policy)
        return self.key(name, iam)

    def key(self, user: str, iam: Any = None) -> Keys:
        """One more access key of the user."""
        made = (iam or self.client("iam")).create_access_key(UserName=user)["AccessKey"]
        return Keys(user, made["AccessKeyId"], made["SecretAccessKey"])

    def forget(self, key: Keys) -> None:
        """The key is none from now on."""
        self.client("iam").delete_access_key(UserName=key.user, AccessKeyId=key.id)


def present() -> bool:
    """Whether it is installed, with what its server needs, and botocore."""
    return all(importlib.util.find_spec(name) is not None for name in (*_NEEDED, "botocore"))


def start(path: Path, *, port: int | None = None) -> Moto:
    """Starts it with its log in `path` and returns it ready, with an administrator and nothing else.

    Raises EmbeddedError if it is not installed, does not start, or another process has the folder or the port.
    """
    if not present():
        raise EmbeddedError(INSTALL)
    path = folder.make(path)
    lock = claim.take(path / "moto.lock", MODULE)
    try:
        for tries_left in reversed(range(PORT_TRIES)):
            chosen = port or process.free_port()
            try:
                started = _start_on(chosen, path, lock)
            except EmbeddedError:
                if port or not tries_left or process.port_is_free(chosen):
                    raise
            else:
                return _ready(started, chosen)
        raise AssertionError
    finally:
        os.close(lock)


def _start_on(port: int, path: Path, lock: int) -> process.Server:
    if not process.port_is_free(port):
        raise EmbeddedError(f"port {port} is in use")
    # Nothing of ours goes along: MOTO_* and AWS_* would change it behind our back.
    variables = [f"INITIAL_NO_AUTH_ACTION_COUNT={BOOTSTRAP}", f"MOTO_ACCOUNT_ID={ACCOUNT}", "PATH="]
    program = [sys.executable, "-m", MODULE, "-H", HOST, "-p", str(port)]
    started = process.spawn(
        "moto",
        ["/usr/bin/env", "-i", *variables, *program],
        lock=lock,
        log=path / "moto.log",
        cwd=path,
        stop_steps=STOP_STEPS,
        death_signal=DEATH_SIGNAL,
    )
    started.await_ready(lambda: accepts(port), START_LIMIT_S)
    return started


def _ready(started: process.Server, port: int) -> Moto:
    try:
        return Moto(started, port)
    except BaseException:
        started.kill()
        raise
