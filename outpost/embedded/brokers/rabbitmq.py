"""Starts the RabbitMQ that the machine has (Debian's package), for the demo and for tests: on loopback alone, with
its data in a folder of ours, as whoever we are.

A broker brings along `epmd`, by which Erlang's nodes find each other, and leaves it behind as a daemon. Here it is
a server of our own, on a port of its own, and ends with us like the broker does, however we end.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
from pathlib import Path

from outpost.embedded import claim, folder, process
from outpost.embedded.valkey import HOST, PORT_TRIES
from outpost.errors import EmbeddedError

# The one in /usr/sbin changes to a user `rabbitmq` first, which only root can.
SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
EPMD = "epmd"
INSTALL = "RabbitMQ is not on this machine: apt-get install rabbitmq-server"
USER = "outpost"
# In good order it takes a second, and six where the management plugin waits for its clients.
STOP_STEPS = ((signal.SIGTERM, 10.0),)
EPMD_STOP_STEPS = ((signal.SIGTERM, 1.0),)
DEATH_SIGNAL = signal.SIGTERM
EPMD_LIMIT_S = 5.0
HELLO_LIMIT_S = 1.0
HELLO = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"

SETTINGS = {
    "log.file": "false",
    "log.console": "true",
    "log.console.level": "error",
    "vm_memory_high_watermark.relative": "0.6",
    # By default a broker takes nothing while the disk has less free than the machine has memory.
    "disk_free_limit.absolute": "50MB",
}


class RabbitMQ:
    """A running broker, and the user that may do everything. Not a struct, so that no `repr` shows the password.
    `management_port` is 0 without the plugin."""

    host = HOST
    username = USER

    def __init__(
        self, server: process.Server, epmd: process.Server, port: int, management_port: int, password: str
    ) -> None:
        self.server = server
        self.epmd = epmd
        self.port = port
        self.management_port = management_port
        self.password = password

    def stop(self) -> None:
        """Ends both, at most 11 s in all; the data stays. Harmless when repeated."""
        self.server.stop()
        self.epmd.stop()

    def kill(self) -> None:
        """Ends both at once, for data that nobody needs."""
        self.server.kill()
        self.epmd.kill()


def present() -> bool:
    """Whether the machine has a RabbitMQ that can be started."""
    return SCRIPT.exists() and shutil.which(EPMD) is not None


def start(
    path: Path,
    *,
    port: int | None = None,
    management: bool = False,
    settings: dict[str, str] | None = None,
) -> RabbitMQ:
    """Starts a broker with its data in `path`/rabbitmq and returns it ready, with a new password at the first
    start.

    `management` adds the plugin with its HTTP API; `settings` replace or add to SETTINGS. Raises EmbeddedError if
    there is none on the machine, it does not start, or another process has the data or the port; then nothing
    that it started is left running.
    """
    if not present():
        raise EmbeddedError(INSTALL)
    path = folder.make(path)
    lock = claim.take(path / "rabbitmq.lock", str(path))
    try:
        epmd, epmd_port = _start_epmd(path)
        try:
            return _start(path, port, lock, epmd, epmd_port, management, {**SETTINGS, **(settings or {})})
        except BaseException:
            epmd.stop()
            raise
    finally:
        os.close(lock)


def _start_epmd(path: Path) -> tuple[process.Server, int]:
    """In the foreground, unlike the one that a broker would start."""
    program = shutil.which(EPMD)
    assert program is not None
    lock = claim.take(path / "epmd.lock", EPMD)
    try:
        port = process.free_port()
        started = process.spawn(
            "epmd",
            [program, "-port", str(port), "-address", HOST],
            lock=lock,
            log=path / "epmd.log",
            cwd=path,
            stop_steps=EPMD_STOP_STEPS,
            death_signal=DEATH_SIGNAL,
        )
        started.await_ready(lambda: not process.port_is_free(port), EPMD_LIMIT_S)
        return started, port
    finally:
        os.close(lock)


def _start(
    path: Path,
    port: int | None,
    lock: int,
    epmd: process.Server,
    epmd_port: int,
    management: bool,
    settings: dict[str, str],
) -> RabbitMQ:
    for tries_left in reversed(range(PORT_TRIES)):
        chosen = port or process.free_port()
        management_port = process.free_port() if management else 0
        password = _password(path)
        _configure(path, chosen, management_port, password, settings)
        try:
            server = _start_on(path, chosen, lock, epmd_port)
        except EmbeddedError:
            if port or not tries_left or process.port_is_free(chosen):
                raise
        else:
            return RabbitMQ(server, epmd, chosen, management_port, password)
    raise AssertionError


def _start_on(path: Path, port: int, lock: int, epmd_port: int) -> process.Server:
    data = folder.make(path / "rabbitmq")
    variables = [f"{name}={value}" for name, value in _environment(path, data, epmd_port).items()]
    started = process.spawn(
        "RabbitMQ",
        # Nothing of ours goes along: RABBITMQ_* and ERL_* would change it behind our back. The last words tell us
        # whose broker it is; Erlang does not mind them.
        ["/usr/bin/env", "-i", *variables, SCRIPT, "-outpost", path],
        lock=lock,
        log=path / "rabbitmq.log",
        cwd=data,
        stop_steps=STOP_STEPS,
        death_signal=DEATH_SIGNAL,
    )
    started.await_ready(lambda: answers(port))
    return started


def _password(path: Path) -> str:
    """Made once: the broker keeps the one of its first start."""
    file = path / "rabbitmq.password"
    if not file.exists():
        folder.private_file(file, secrets.token_hex(folder.SECRET_BYTES))
    return file.read_text()


def _configure(path: Path, port: int, management_port: int, password: str, settings: dict[str, str]) -> None:
    lines = {
        **settings,
        "listeners.tcp.1": f"{HOST}:{port}",
        "default_user": USER,
        "default_pass": password,
    }
    if management_port:
        lines |= {"management.tcp.ip": HOST, "management.tcp.port": str(management_port)}
    folder.private_file(path / "rabbitmq.conf", "".join(f"{name} = {value}\n" for name, value in lines.items()))
    plugins = "rabbitmq_management" if management_port else ""
    folder.private_file(path / "rabbitmq.plugins", f"[{plugins}].\n")


def _environment(path: Path, data: Path, epmd_port: int) -> dict[str, object]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C.UTF-8",
        "HOME": data,  # of the cookie by which nodes know each other
        "RABBITMQ_NODENAME": "outpost@localhost",
        "RABBITMQ_CONFIG_FILE": path / "rabbitmq.conf",
        "RABBITMQ_ENABLED_PLUGINS_FILE": path / "rabbitmq.plugins",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_MNESIA_BASE": data / "mnesia",
        "RABBITMQ_LOG_BASE": data / "log",
        "RABBITMQ_PID_FILE": data / "pid",
        "RABBITMQ_DIST_PORT": process.free_port(),
        "ERL_EPMD_PORT": epmd_port,
        "ERL_EPMD_ADDRESS": HOST,
        # One scheduler, which sleeps when there is nothing to do: much else stands beside it.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none",
        # The script then becomes Erlang, rather than to wait beside one that a lost signal would leave behind.
        "RUNNING_UNDER_SYSTEMD": "true",
    }


def answers(port: int) -> bool:
    """Whether a broker takes connections there: it opens its port last."""
    try:
        with socket.create_connection((HOST, port), HELLO_LIMIT_S) as connection:
            connection.sendall(HELLO)
            return connection.recv(1) == METHOD_FRAME
    except OSError:
        return False
