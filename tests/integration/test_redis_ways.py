"""Ways to Redis as providers hand them out: TLS, users, `rediss://`; what refuses for good says so at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
import trustme

from outpost import errors
from outpost.embedded import process, valkey
from outpost.log.redis import boot_checks, client, connection
from outpost.process import opening
from outpost.settings import Settings
from outpost.settings import load as settings_load
from tests.harness import receiver as receivers
from tests.harness import servers
from tests.harness.process import Outpost

PASSWORD = "hunter2 #/@é"
USER = "app"
LOGIN = f"{USER}:{quote(PASSWORD, safe='')}"
REST = {"API_KEY": "k", "AES_ENCRYPTION_SECRET": "s", "POSTGRES_URL": "postgres://h/d"}


class TlsRedis:
    """Debian's Redis with TLS on `port`, plain on `plain_port`, and a user of its own."""

    host = "localhost"

    def __init__(self) -> None:
        servers.require(servers.REDIS_70)
        self.folder = servers.new_folder()
        authority = trustme.CA()
        made = authority.issue_cert("localhost", "127.0.0.1")
        files = {"tls-cert-file": "cert.pem", "tls-key-file": "key.pem", "tls-ca-cert-file": "ca.pem"}
        settings = {name: f'"{self.folder / file}"' for name, file in files.items()}
        made.cert_chain_pems[0].write_to_path(str(self.folder / "cert.pem"))
        made.private_key_pem.write_to_path(str(self.folder / "key.pem"))
        self.authority = self.folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        self.port = process.free_port()
        settings |= {"tls-port": str(self.port), "tls-auth-clients": "no"}
        self.started = valkey.start(self.folder, password="", server=servers.DEBIAN_REDIS, settings=settings)
        self.plain_port = self.started.port
        with redis.Redis(unix_socket_path=self.started.unix_socket) as admin:
            admin.execute_command("ACL", "SETUSER", USER, "on", f">{PASSWORD}", "~outpost:*", "+@all")
            admin.execute_command("ACL", "SETUSER", "open", "on", "nopass", "~outpost:*", "+@all")
            admin.execute_command(
                "ACL", "SETUSER", "reader", "on", "nopass", "~outpost:*", "+@all", "-evalsha", "-hset"
            )
            admin.execute_command("ACL", "SETUSER", "blind", "on", "nopass", "~outpost:*", "+@all", "-info")
            admin.execute_command("ACL", "SETUSER", "default", "off")

    def url(
        self, login: str = f"{USER}:{quote(PASSWORD, safe='')}", scheme: str = "rediss", words: str = ""
    ) -> str:
        port = self.port if scheme == "rediss" else self.plain_port
        return f"{scheme}://{login}@{self.host}:{port}/0{words}"


@pytest.fixture(scope="module")
def tls_redis() -> Iterator[TlsRedis]:
    running = TlsRedis()
    yield running
    running.started.server.stop()
    shutil.rmtree(running.folder)


def log_of(url: str) -> client.Log:
    """As a process opens it."""

    return opening.open_log(settings_load.load(REST | {"REDIS_URL": url}, None, None))


async def refusal(url: str) -> str:
    log = log_of(url)
    try:
        with pytest.raises(errors.StoreRefused) as caught:
            await boot_checks.check(log, Settings())
        # What runs per batch goes another way; it is told of alike.
        with pytest.raises(errors.StoreUnavailable):
            await log.pipeline([("PING",)]) if "blind" not in url else await log.pipeline([("INFO",)])
    finally:
        await log.close()
    assert "hunter2" not in str(caught.value)
    return str(caught.value)


async def test_a_whole_outpost_works_over_tls_as_a_user_of_its_own(
    tls_redis: TlsRedis, postgres_url: str, tmp_path: Path
) -> None:
    plain = servers.RedisServer.__new__(servers.RedisServer)  # where the other variables would point
    plain.port = tls_redis.plain_port
    environment = {"REDIS_HOST": "", "REDIS_PORT": "", "SSL_CERT_FILE": str(tls_redis.authority)}
    async with (
        receivers.Receiver() as receiver,
        Outpost(plain, postgres_url, tmp_path, REDIS_URL=tls_redis.url(), **environment) as server,
    ):
        await server.tenant("acme")
        await server.webhook("acme", receiver.url())
        for n in range(20):
            await server.publish("acme", f"e{n}")
        await servers.eventually(lambda: len(receiver.requests) == 20)
        assert "hunter2" not in server.stderr


@pytest.mark.case(14)
@pytest.mark.parametrize("login", ["open:", LOGIN])
async def test_certificates_are_verified_unless_the_url_says_otherwise(
    tls_redis: TlsRedis, login: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.tls_context.cache_clear()
    assert "certificate is not trusted" in await refusal(tls_redis.url(login))
    for words in ("?ssl_cert_reqs=none", "?skip_verify=true"):
        log = log_of(tls_redis.url(login, words=words))
        assert [] == await boot_checks.problems(log, Settings())
        assert [b"PONG"] == await log.pipeline([("PING",)])
        await log.close()
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_redis.authority))
    connection.tls_context.cache_clear()
    log = log_of(tls_redis.url(login))
    assert [] == await boot_checks.problems(log, Settings())
    assert [b"PONG"] == await log.pipeline([("PING",)])
    await log.close()
    context = connection.tls_context(verify=True)
    assert not context.verify_flags & connection.ssl.VERIFY_X509_STRICT
    assert context.check_hostname
    connection.tls_context.cache_clear()


async def test_each_refusal_of_redis_says_what_to_change(tls_redis: TlsRedis) -> None:
    plain = "redis"
    assert "does not accept the user or the password" in await refusal(tls_redis.url(f"{USER}:hunter2", plain))
    assert "does not accept the user or the password" in await refusal(tls_redis.url("nobody:hunter2", plain))
    assert "does not accept the user or the password" in await refusal(tls_redis.url(":hunter2", plain))
    assert "the user may not do that" in await refusal(tls_redis.url("blind:", plain))
    log = log_of(tls_redis.url("reader:", plain))
    with pytest.raises(errors.StoreRefused, match="the user may not do that"):
        await log.call(client.Script("x", "return 1", "0" * 40), [((), ())])
    await log.close()


@pytest.mark.parametrize("login", [f"{USER}:hunter2", "blind:"])
async def test_a_start_ends_at_once_where_redis_refuses(tls_redis: TlsRedis, tmp_path: Path, login: str) -> None:
    plain = servers.RedisServer.__new__(servers.RedisServer)
    plain.port = tls_redis.plain_port
    url = tls_redis.url(login, "redis")
    server = Outpost(plain, "postgres://127.0.0.1:1/x", tmp_path, REDIS_HOST="", REDIS_PORT="", REDIS_URL=url)
    server.spawn()
    assert 1 == await server.exit_code()
    await server.end()
    assert "outpost: redis refuses: " in server.stderr
    assert "store_awaited" not in server.stderr
    assert "hunter2" not in server.stderr


@pytest.mark.parametrize("slots", ["all", "none"])
async def test_a_server_in_cluster_mode_is_refused_with_a_sentence(tmp_path: Path, slots: str) -> None:
    servers.require(servers.REDIS_70)
    folder = servers.new_folder()
    started = valkey.start(folder, password="", server=servers.DEBIAN_REDIS, settings={"cluster-enabled": "yes"})
    try:
        with redis.Redis(unix_socket_path=started.unix_socket) as admin:
            if slots == "all":
                admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        log = client.open_log(client.RedisAddress("127.0.0.1", started.port))
        with pytest.raises(errors.StartRefused, match="Redis cannot be used: it is in cluster mode"):
            await boot_checks.check(log, Settings())
        # A server that hid it would say so at the first script.
        script = client.Script("x", "return 1", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db")
        if slots == "all":
            with pytest.raises(errors.StoreRefused, match="it is in cluster mode"):
                await log.call(script, [(("outpost:a", "outpost:b"), ())])
        await log.close()
        own = servers.RedisServer.__new__(servers.RedisServer)
        own.port = started.port
        server = Outpost(own, "postgres://127.0.0.1:1/x", tmp_path)
        server.spawn()
        assert 1 == await server.exit_code()
        await server.end()
        assert "it is in cluster mode" in server.stderr
    finally:
        started.server.stop()
        shutil.rmtree(folder)
