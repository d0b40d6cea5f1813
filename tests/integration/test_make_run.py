"""`make run` as a user has it: banner, second starts, Ctrl-C once and twice, `kill -9`. Make itself is in front,
with a process group of its own that gets the signals of a terminal; only the installation is taken as done.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from outpost.embedded import look, postgres
from tests.harness import servers

ROOT = Path(__file__).parents[2]
START_LIMIT_S = 90.0  # of a first start, on a machine that does other things too
DRAIN_LIMIT_S = 10.0
AT_ONCE_S = 2.0
FREE_LIMIT_S = 60.0  # after kill -9; only what fails waits so long
POLL_S = 0.02


class Checkout:
    """A folder with our Makefile, in which everything is installed already."""

    def __init__(self, path: Path) -> None:
        for program in ("make", "curl"):
            if shutil.which(program) is None:
                servers.leave_out(f"{program} is missing: apt-get install {program}")
        servers.require(servers.VALKEY_9)
        servers.require(servers.POSTGRES_18)
        self.path = path
        self.data = path / ".outpost"
        for name in ("Makefile", "pyproject.toml", "requirements.lock"):
            (path / name).symlink_to(ROOT / name)
        programs = path / ".venv" / "bin"
        programs.mkdir(parents=True)
        (programs / "python").symlink_to(sys.executable)
        (programs / "outpost").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m outpost "$@"\n')
        (programs / "outpost").chmod(0o755)
        (path / ".venv" / "embedded.stamp").touch()

    def delete(self) -> None:
        postgres.delete(self.data)
        shutil.rmtree(self.path)


class Run:
    """One `make run` on a free port, told apart from the others of its folder by a number."""

    def __init__(self, checkout: Checkout, number: int = 1, **environment: str) -> None:
        self.checkout = checkout
        self._out = checkout.path / f"{number}.out"
        self._err = checkout.path / f"{number}.err"
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._popen = subprocess.Popen(
                ["make", "run", "ARGS=--port 0"],
                cwd=checkout.path,
                env={**kept, "PYTHONPATH": str(ROOT), **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self._err.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Of the `outpost` process, as users find it."""
        return int((self.checkout.data / "pid").read_text())

    @property
    def url(self) -> str:
        return re.search(r"base URL +(\S+)", self.out)[1]

    @property
    def key(self) -> str:
        return re.search(r"API key +(\S+)", self.out)[1]

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def ready(self) -> Run:
        """Waits for the whole banner."""
        until(lambda: "Ctrl-C stops it." in self.out or self._popen.poll() is not None, START_LIMIT_S)
        assert self._popen.poll() is None, self.err
        return self

    def interrupt(self) -> None:
        """Ctrl-C: the terminal sends it to the whole group."""
        os.killpg(self._popen.pid, signal.SIGINT)

    def ended(self, limit_s: float) -> int:
        """Waits for the end of make; its exit code."""
        return self._popen.wait(limit_s)

    def close(self) -> None:
        """Ends whatever is left."""
        if self._popen.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                os.kill(self.pid, signal.SIGKILL)
            os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()
            until(lambda: not holders(self.checkout.data), FREE_LIMIT_S)


def until(check: Callable[[], object], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not check():
        assert time.monotonic() < deadline, f"not within {limit_s} s"
        time.sleep(POLL_S)


def holders(path: Path) -> list[str]:
    """Who works in the folder, has a file of it open, or names it on the command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            uses = [str(link.readlink()) for link in (entry / "cwd", *(entry / "fd").iterdir())]
            uses.append(look.command_line(int(entry.name)))
        except OSError:  # gone, a zombie, or another user's
            continue
        found += [f"{entry.name}: {use}" for use in uses if str(path) in use]
    return found


@pytest.fixture(scope="module")
def running() -> Iterator[Run]:
    """One that runs, for the tests that only look at it."""
    checkout = Checkout(servers.new_folder())
    run = Run(checkout)
    try:
        yield run.ready()
    finally:
        run.close()
        checkout.delete()


@pytest.fixture
def start() -> Iterator[Callable[..., Run]]:
    """Starts `make run`, each time in the same folder."""
    checkout = Checkout(servers.new_folder())
    runs: list[Run] = []

    def begin(**environment: str) -> Run:
        runs.append(Run(checkout, len(runs) + 1, **environment))
        return runs[-1]

    try:
        yield begin
    finally:
        for run in runs:
            run.close()
        checkout.delete()


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A receiver that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(START_LIMIT_S)
        yield listening


def send_to(silent: socket.socket, run: Run) -> socket.socket:
    """Publishes an event for a receiver that never answers; its connection, once the request is there."""
    with run.client() as api:
        webhook = {
            "type": "webhook",
            "topics": "*",
            "config": {"url": f"http://127.0.0.1:{silent.getsockname()[1]}/"},
        }
        assert 201 == api.put("/tenants/slow").status_code
        assert 201 == api.post("/tenants/slow/destinations", json=webhook).status_code
        event = {"tenant_id": "slow", "id": "waits", "topic": "t", "data": {"a": 1}}
        assert 202 == api.post("/publish", json=event).status_code
    connection, _ = silent.accept()
    assert b"x-outpost-event-id: waits" in head_of(connection)
    return connection


def head_of(connection: socket.socket) -> bytes:
    """The head of the request that comes, in lower case."""
    connection.settimeout(START_LIMIT_S)
    request = b""
    while b"\r\n\r\n" not in request:
        more = connection.recv(4096)
        assert more, f"hung up after {request!r}"
        request += more
    return request.lower()


def test_the_lines_of_the_banner_end_with_the_event_on_the_screen_as_pasted(running, tmp_path):
    block = running.out.partition("Try it")[2].partition("Ctrl-C")[0]
    lines = [line.strip() for line in block.splitlines() if line.startswith("  ")]
    assert ["receive", "-X", "-X", "-X"] == [
        next(word for word in line.split() if word in {"receive", "-X"}) for line in lines
    ]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = "\n".join([*lines, "wait"]).replace(":9000", f":{port}").replace("--port 9000", f"--port {port}")
    screen = tmp_path / "screen"
    with screen.open("wb") as out:
        shell = subprocess.Popen(
            ["sh", "-c", script],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            cwd=running.checkout.path,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        # A receiver that started too slowly for the first attempt gets the second one, 30 s later.
        until(lambda: "POST / order.created" in screen.read_text(), START_LIMIT_S)
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    assert "signature verified, answered 200" in screen.read_text()
    assert '{"order":1}' in screen.read_text()


def example(running: Run, language: str, contains: str) -> str:
    """The one fence of README in this language that holds the text, for the server that runs."""
    fences = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    [found] = [fence for fence in fences if contains in fence]
    return found.replace("http://127.0.0.1:3333/api/v1", running.url)


def test_the_python_example_of_the_readme_works(running):
    ran = subprocess.run(
        [sys.executable, "-c", example(running, "python", "outpost_sdk")],
        env={"API_KEY": running.key, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert [0, ""] == [ran.returncode, ran.stderr]


def test_the_shell_example_of_the_readme_works(running):
    script = example(running, "sh", "curl").replace("curl ", "curl --fail --silent --show-error ")
    ran = subprocess.run(
        ["sh", "-eu", "-c", script],
        env={"API_KEY": running.key, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert [0, ""] == [ran.returncode, ran.stderr]
    assert '"destination_ids":["' in ran.stdout


def test_the_banner_says_where_the_data_is_and_what_is_allowed(running):
    assert f"data       {running.checkout.data}" in running.out
    assert "webhooks to 127.0.0.0/8, ::1/128" in running.out


def test_it_listens_on_loopback_alone(running):
    port = int(running.url.split(":")[2].split("/")[0])
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in line]
    assert [f"0100007F:{port:04X}"] == [address for address in listening if address.endswith(f":{port:04X}")]


def test_the_folder_and_its_secrets_are_its_owners_alone(running):
    data = running.checkout.data
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (data, data / "secrets", data / "pid")}
    assert {".outpost": 0o700, "secrets": 0o600, "pid": 0o600} == modes
    lines = (data / "secrets").read_text().splitlines()
    assert {"API_KEY", "AES_ENCRYPTION_SECRET", "API_JWT_SECRET"} <= {line.partition("=")[0] for line in lines}
    assert f"API_KEY={running.key}" in lines


def test_the_pid_file_names_the_outpost_process(running):
    assert "outpost serve --embedded" in look.command_line(running.pid)


def test_a_second_start_while_one_runs_says_so_and_exits(running):
    second = Run(running.checkout, 2)
    try:
        assert 0 != second.ended(START_LIMIT_S)
    finally:
        second.close()
    assert f"Outpost is already running (pid {running.pid}) at {running.url}" in second.err
    assert "" == second.out
    assert 200 == httpx.get(f"{running.url}/healthz", trust_env=False).status_code


def test_the_tools_find_the_server_that_runs_in_this_folder(running):
    command = [str(running.checkout.path / ".venv" / "bin" / "outpost"), "streams", "groups", "--json"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        command, cwd=running.checkout.path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert [0, ""] == [told.returncode, told.stderr]
    assert told.stdout.startswith("{")


def test_ctrl_c_drains_stops_the_servers_and_a_second_start_goes_on_with_the_data(start):
    first = start().ready()
    with first.client() as api:
        assert 201 == api.put("/tenants/acme").status_code
        event = {"tenant_id": "acme", "id": "e1", "topic": "t", "data": {"a": 1}}
        assert 202 == api.post("/publish", json=event).status_code
    first.interrupt()
    first.ended(DRAIN_LIMIT_S)
    assert [] == holders(first.checkout.data)
    second = start().ready()
    assert first.key == second.key
    with second.client() as api:
        assert 200 == api.get("/tenants/acme").status_code
        assert ["e1"] == [event["id"] for event in api.get("/events").json()["models"]]
        assert api.post("/publish", json=event).json()["duplicate"]


def test_ctrl_c_ends_within_its_limit_though_a_receiver_never_answers(start, silent):
    run = start(DELIVERY_TIMEOUT_SECONDS="120").ready()
    with send_to(silent, run):
        run.interrupt()
        run.ended(DRAIN_LIMIT_S)
    assert [] == holders(run.checkout.data)


def test_a_second_ctrl_c_exits_at_once(start, silent):
    run = start(DELIVERY_TIMEOUT_SECONDS="120").ready()
    with send_to(silent, run):
        run.interrupt()
        until(lambda: "service_stopping" in run.err, AT_ONCE_S)
        run.interrupt()
        run.ended(AT_ONCE_S)
    until(lambda: not holders(run.checkout.data), FREE_LIMIT_S)


def test_after_kill_9_nothing_holds_the_folder_and_the_next_start_delivers_what_was_under_way(start, silent):
    run = start(DELIVERY_TIMEOUT_SECONDS="1", DELIVERY_LEASE_MARGIN_MS="200").ready()
    with send_to(silent, run):
        os.kill(run.pid, signal.SIGKILL)
        until(lambda: not holders(run.checkout.data), FREE_LIMIT_S)
    run.ended(AT_ONCE_S)
    start(DELIVERY_TIMEOUT_SECONDS="1").ready()
    again, _ = silent.accept()
    with again:
        assert b"x-outpost-event-id: waits" in head_of(again)
