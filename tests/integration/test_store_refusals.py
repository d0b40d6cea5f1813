"""A store that refuses for good ends a start at once, in a sentence; one that is away is waited for."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import trustme

from outpost import errors
from projections.logs import connecting
from projections.logs import store as stores
from tests.harness.process import Outpost
from tests.harness.servers import POSTGRES_15, PostgresServer, RedisServer

USER, PASSWORD = "limited", "hunter2-of-the-limited"


async def asked(url: str) -> str:
    """What a first question is answered."""
    store = await stores.open_store(url)
    try:
        async with store.acquire() as connection:
            await connection.execute('CREATE SCHEMA "by us"')
    except errors.StoreRefused as exc:
        return str(exc)
    finally:
        await store.close()
    return "taken"


@pytest.fixture
async def limited_url(postgres: PostgresServer, postgres_url: str) -> AsyncIterator[str]:
    """The database, for a user who may not make a schema."""
    admin = await asyncpg.connect(postgres_url)
    await admin.execute(f"CREATE USER {USER} PASSWORD '{PASSWORD}'")
    parts = urlsplit(postgres_url)
    yield parts._replace(netloc=f"{USER}:{PASSWORD}@{parts.hostname}:{parts.port}").geturl()
    await admin.execute(f"DROP USER {USER}")
    await admin.close()


async def test_each_refusal_of_postgres_says_what_to_change(limited_url: str, postgres_url: str) -> None:
    parts = urlsplit(postgres_url)
    where = f"{parts.hostname}:{parts.port}"
    told = {
        "password": await asked(parts._replace(netloc=f"outpost:hunter2@{where}").geturl()),
        "user": await asked(parts._replace(netloc=f"nobody:hunter2@{where}").geturl()),
        "database": await asked(parts._replace(path="/nowhere").geturl()),
        "rights": await asked(limited_url),
        "tls": await asked(postgres_url + "?sslmode=require"),
    }
    assert {
        "password": "postgres refuses: it does not accept the user or the password in POSTGRES_URL",
        "user": "postgres refuses: it does not accept the user or the password in POSTGRES_URL",
        "database": "postgres refuses: the database in POSTGRES_URL does not exist: create it",
        "rights": "postgres refuses: the user in POSTGRES_URL may not do that: it needs CREATE on the database, "
        "or to own our schema",
        "tls": "postgres refuses: it does not speak TLS, which sslmode in POSTGRES_URL demands",
    } == told


@pytest.mark.parametrize("service", ["all", "api", "log"])
async def test_a_start_ends_at_once_where_postgres_refuses(
    redis70: RedisServer, postgres_url: str, tmp_path: Path, service: str
) -> None:
    url = urlsplit(postgres_url)._replace(path="/nowhere").geturl()
    server = Outpost(redis70, url, tmp_path, service)
    server.spawn()
    assert 1 == await server.exit_code()
    await server.end()
    assert "store_awaited" not in server.stderr
    assert "outpost: postgres refuses: the database in POSTGRES_URL does not exist: create it." in server.stderr
    assert "secret" not in server.stderr.lower().replace("secret-of-the-tests", "")


@pytest.fixture
def tls_postgres(own_postgres: PostgresServer) -> tuple[PostgresServer, trustme.CA]:
    """A Postgres with a certificate of an authority that nobody knows."""
    authority = trustme.CA()
    made = authority.issue_cert("localhost", "127.0.0.1")
    data = own_postgres.folder / "postgres"
    made.private_key_pem.write_to_path(str(data / "server.key"))
    made.cert_chain_pems[0].write_to_path(str(data / "server.crt"))
    owner = data.stat()
    for name in ("server.key", "server.crt"):
        (data / name).chmod(0o600)
        os.chown(data / name, owner.st_uid, owner.st_gid)
    with (data / "postgresql.auto.conf").open("a") as file:
        file.write("ssl = on\n")
    own_postgres.restart()
    return own_postgres, authority


@pytest.mark.parametrize("own_postgres", [POSTGRES_15], indirect=True)
@pytest.mark.case(14)
async def test_every_sslmode_is_what_it_says(
    tls_postgres: tuple[PostgresServer, trustme.CA], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, authority = tls_postgres
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("HOME", str(tmp_path))

    async def encrypted(words: str) -> bool:
        store = await stores.open_store(f"{server.url}?{words}")
        try:
            async with store.acquire() as connection:
                found: bool = await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        finally:
            await store.close()
        return found

    assert not await encrypted("sslmode=disable")
    for words in ("sslmode=prefer", "sslmode=require", "sslmode=no-verify", "ssl=true", "", "sslmode=allow&ssl=1"):
        assert await encrypted(words) is (words != "sslmode=allow&ssl=1"), words
    for mode in ("require", "verify-ca", "verify-full"):
        assert await encrypted(f"sslmode={mode}&sslrootcert={file}")
    for words in ("sslmode=verify-full", "sslmode=verify-ca", "sslrootcert=system", "sslaccept=strict"):
        with pytest.raises(errors.StoreRefused, match="certificate is not trusted"):
            await encrypted(words)
    # The authorities of the machine, of which this is one now; no version of Python judges them strictly.
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    connecting._context_of.cache_clear()
    for words in ("sslmode=verify-full", "sslmode=verify-ca", "sslrootcert=system"):
        assert await encrypted(words)
    context = connecting._context_of("verify-full", ())
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    connecting._context_of.cache_clear()
