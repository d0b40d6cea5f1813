"""Settings that are URLs: one piece reads them, and nothing that it or anybody behind it says repeats a secret."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import re
import traceback
import urllib.parse

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from outpost import errors
from outpost.cli import config
from outpost.settings import load as settings_load
from outpost.settings import postgres_url, redis_url, urls
from outpost.settings import table as settings_table
from outpost.settings.rules import Broken
from projections.logs import store as stores

SECRET = "hunter2"
PASSWORDS = st.text(st.sampled_from("#/?@:[]%&= ,1a\t\n\\'\"\x00\u00e9"), max_size=8).map(
    lambda text: f"Qz{text}{SECRET}"
)
# Every place of a URL where somebody's secret may stand, raw.
TEMPLATES = (
    "{scheme}://outpost:{secret}@127.0.0.1:1/outpost",
    "{scheme}://{secret}@127.0.0.1:1/outpost",
    "{scheme}://outpost@127.0.0.1:1/outpost?password={secret}",
    "{scheme}://outpost:a@127.0.0.1:1/outpost?sslmode={secret}",
    "{scheme}://outpost:a@127.0.0.1:{secret}/outpost",
    "{scheme}://outpost:a@127.0.0.1:1/outpost?port={secret}&connect_timeout={secret}",
    "{scheme}:{secret}",
    "{secret}",
)
ENVIRON = {
    "API_KEY": "k",
    "AES_ENCRYPTION_SECRET": "s",
    "REDIS_HOST": "127.0.0.1",
    "POSTGRES_URL": "postgres://127.0.0.1:1/x",
}
NAMES = sorted(
    each.env for each in settings_table.VARIABLES if each.field and re.search(r"_URL$|_PORT$", each.env)
)


async def told_of_connecting(url: str) -> str:
    """What is told of a failed connection, traceback included. Nothing listens on port 1."""
    try:
        store = await stores.open_store(url)
    except errors.ConfigurationError as exc:
        return "".join(traceback.format_exception(exc))
    try:
        async with store.acquire():
            raise AssertionError("something listens there")
    except errors.StoreUnavailable as exc:
        return "".join(traceback.format_exception(exc))
    finally:
        await store.close()


def told_of_settings(environ: dict[str, str]) -> str:
    """What the start and `outpost config list` say."""
    out = io.StringIO()
    config.list_settings(environ, None, out)
    try:
        return out.getvalue() + repr(settings_load.load(environ, None, None))
    except errors.ConfigurationError as exc:
        return out.getvalue() + "".join(traceback.format_exception(exc))


def test_the_settings_that_are_urls_or_ports_are_these() -> None:
    assert [
        *("API_PORT", "DESTINATIONS_HOOKDECK_API_URL", "DESTINATIONS_HOOKDECK_EVENTS_URL"),
        *("POSTGRES_URL", "PUBLISH_RABBITMQ_SERVER_URL", "RABBITMQ_SERVER_URL", "REDIS_PORT", "REDIS_URL"),
    ] == NAMES


@pytest.mark.parametrize("name", NAMES)
@given(
    secret=PASSWORDS,
    template=st.sampled_from(TEMPLATES),
    scheme=st.sampled_from(["postgres", "https", "tcp", "amqps", "rediss"]),
)
@settings(max_examples=150)
@example(secret=f"Qz#{SECRET}", template=TEMPLATES[0], scheme="postgres")
@example(secret=f"1?Qz=1&{SECRET}", template=TEMPLATES[0], scheme="postgres")
@example(secret=f"Qz@b?{SECRET}=5", template=TEMPLATES[0], scheme="postgres")
def test_no_part_of_a_secret_is_told_whatever_stands_around_it(
    name: str, secret: str, template: str, scheme: str
) -> None:
    text = template.format(secret=secret, scheme=scheme)
    told = told_of_settings(ENVIRON | {name: text})
    user_is_shown = template == TEMPLATES[1] and "(invalid)" not in told
    is_no_url = name.endswith("_PORT") and "//" not in text  # what was given for a number is repeated
    assert user_is_shown or is_no_url or SECRET not in told


@given(secret=PASSWORDS, template=st.sampled_from(TEMPLATES[:1] + TEMPLATES[2:6]))
@settings(max_examples=60)
@example(secret=f"Qz#{SECRET}", template=TEMPLATES[0])
@example(secret=f"1/Qz{SECRET}", template=TEMPLATES[0])
@example(secret=f"1?Qz{SECRET}", template=TEMPLATES[0])
@example(secret=f"[Qz{SECRET}", template=TEMPLATES[0])
@example(secret=f"Qz@:{SECRET}", template=TEMPLATES[0])
@example(secret=f"Qz@?{SECRET}", template=TEMPLATES[0])
@example(secret=f"Qz@,/{SECRET}", template=TEMPLATES[0])
@pytest.mark.case(30)
def test_nor_by_what_connecting_raises(secret: str, template: str) -> None:
    logged = io.StringIO()
    with contextlib.redirect_stderr(logged):
        logging.getLogger("asyncpg").setLevel(logging.DEBUG)
        told = asyncio.run(told_of_connecting(template.format(secret=secret, scheme="postgres")))
    assert SECRET not in told + logged.getvalue()


@given(user=st.text(min_size=1), password=st.text(), database=st.text(min_size=1))
@example(user="u", password="p#/?@:[]%", database="d")
def test_what_is_encoded_is_read_as_it_was(user: str, password: str, database: str) -> None:
    def coded(text: str) -> str:
        return urllib.parse.quote(text, safe="", errors="replace")

    login = f"{coded(user)}:{coded(password)}"
    found = postgres_url.parse(f"postgres://{login}@db:5432/{coded(database)}?sslmode=require")
    assert isinstance(found, postgres_url.PostgresAddress)
    wanted = [text.encode(errors="replace").decode() for text in (user, password, database)]
    assert wanted == [found.user, found.password or "", found.database]


@given(st.text())
def test_anything_is_read_or_is_no_url(text: str) -> None:
    found = urls.parse(text)
    assert found is None or (found.scheme and "://" in text)
    assert isinstance(postgres_url.parse(text), Broken | postgres_url.PostgresAddress)


ADDRESS = "postgres://u:p@db/outpost"


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgres://db", ["db"]),
        ("Postgres://db:1/", ["db:1"]),
        ("postgres:///outpost?host=/run", ["/run"]),
        ("postgres://%2Frun%2Fpg/x", ["/run/pg"]),
        ("postgres://u@[::1]:5432/db", ["[::1]:5432"]),
        ("postgres://u:p@a:1,b:2/db?target_session_attrs=primary", ["a:1", "b:2"]),
        ("postgres://a,b/db?port=7", ["a:7", "b:7"]),
        ("postgresql://u:p@/db", []),
        ("postgres://:5433/db", ["localhost:5433"]),
        ("postgres://u:p@db/outpost?application_name=a@b", ["db"]),
    ],
)
def test_the_forms_of_libpq_are_taken(url: str, hosts: list[str]) -> None:
    found = postgres_url.parse(url)
    assert isinstance(found, postgres_url.PostgresAddress)
    assert hosts == [str(host) for host in found.hosts]


@pytest.mark.case(30)
@pytest.mark.parametrize(
    ("words", "mode"),
    [
        ("", ""),
        ("sslmode=require&channel_binding=require", "require"),  # Neon
        ("pgbouncer=true&connect_timeout=15&schema=public&connection_limit=1&pool_timeout=10", ""),  # Prisma
        ("sslmode=require&supa=base-pooler.x", "require"),  # Vercel
        ("sslmode=no-verify", "no-verify"),  # node-postgres
        ("sslmode=verify_full", "verify-full"),
        ("sslmode=VERIFY-CA", "verify-ca"),
        ("ssl=true", "require"),
        ("ssl=0", "disable"),
        ("sslmode=require&sslaccept=strict", "verify-full"),
        ("sslrootcert=system", "verify-full"),
        ("sslmode=require&pool_max_conns=10&default_query_exec_mode=simple_protocol", "require"),  # pgx
        ("keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3&tcp_user_timeout=9", ""),
        ("gssencmode=disable&load_balance_hosts=random&sslsni=1", ""),
        ("options=endpoint%3Dcool-name&statement_cache_size=0", ""),
    ],
)
def test_the_words_of_providers_are_taken(words: str, mode: str) -> None:
    found = postgres_url.parse(f"{ADDRESS}?{words}")
    assert isinstance(found, postgres_url.PostgresAddress), found
    assert mode == found.mode
    assert ("pgbouncer=true" in words) is found.pooled


@pytest.mark.parametrize(("timeout", "seconds"), [("10", 10), ("0", None), ("-1", None), ("9" * 30, 60)])
def test_a_connect_timeout_is_seconds_within_a_limit(timeout: str, seconds: int | None) -> None:
    found = postgres_url.parse(f"{ADDRESS}?connect_timeout={timeout}")
    assert isinstance(found, postgres_url.PostgresAddress)
    assert seconds == found.connect_timeout_s


@pytest.mark.case(30)
@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (f"{ADDRESS}?sslmod=require", "that Outpost does not know: leave out sslmod"),
        (f"{ADDRESS}?a=1&search_path=x&b=2", "leave out a, b, search_path"),
        (f"{ADDRESS}?sslmode=on", "must have one of disable, allow"),
        (f"{ADDRESS}?connect_timeout=soon", "connect_timeout"),
        (f"{ADDRESS}?sslrootcert=/nowhere/ca.pem", "sslrootcert cannot be read"),
        (f"{ADDRESS}?port=1,2", "hosts and ports"),
        ("postgres://u:p@db:x/o", "must be a URL"),
        ("postgres://u:p@db:65536/o", "must be a URL"),
        ("postgres://u:p@[::1/o", "must be a URL"),
        ("postgres://u:p#w@db/o", "# is %23"),
        (f"{ADDRESS}?sslmode", "must be a URL"),
        ("mysql://db", "must be a URL"),
    ],
)
def test_what_is_wrong_is_one_sentence(url: str, sentence: str) -> None:
    resolved = settings_load.resolve(ENVIRON | {"POSTGRES_URL": url}, None, None)
    (problem,) = resolved.problems
    assert problem.startswith("POSTGRES_URL must ")
    assert sentence in problem
    assert len(problem) < 250


@pytest.mark.parametrize(
    "url", ["https://u:p@api.test", "https://api.test/", "https://api.test?x=1", "ftp://api.test"]
)
def test_a_base_url_has_no_login_and_no_end(url: str) -> None:
    (problem,) = settings_load.resolve(ENVIRON | {"DESTINATIONS_HOOKDECK_API_URL": url}, None, None).problems
    assert "must be an http or https URL" in problem


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h", {"redis_host": "h", "redis_port": 6379, "redis_tls_enabled": False, "redis_database": 0}),
        ("rediss://default:p%23w@h:6380/3", {
            "redis_host": "h", "redis_port": 6380, "redis_tls_enabled": True, "redis_database": 3,
            "redis_username": "default", "redis_password": "p#w",
        }),
        ("rediss://:p@h:6380?ssl_cert_reqs=none", {
            "redis_host": "h", "redis_port": 6380, "redis_tls_enabled": True, "redis_database": 0,
            "redis_password": "p", "redis_tls_verify": False,
        }),
        ("Redis://[::1]:1/?db=2&protocol=3&family=0", {
            "redis_host": "::1", "redis_port": 1, "redis_tls_enabled": False, "redis_database": 2,
        }),
        ("unix:///run/redis.sock?db=1", {"redis_unix_socket": "/run/redis.sock", "redis_database": 1}),
    ],
)  # fmt: skip
def test_a_url_of_redis_says_what_the_single_variables_do(url: str, said: dict[str, object]) -> None:
    assert said == redis_url.parse(url)
    environ = {name: value for name, value in ENVIRON.items() if name != "REDIS_HOST"} | {"REDIS_URL": url}
    found = settings_load.load(environ | {"REDIS_PORT": "tcp://10.43.0.7:1"}, None, None)
    assert said == {name: getattr(found, name) for name in said}


@pytest.mark.parametrize(
    ("given_too", "problem"),
    [
        ({"REDIS_HOST": "h", "REDIS_PASSWORD": "p", "REDIS_DATABASE": "4", "REDIS_TLS_ENABLED": "1"}, ""),
        ({"REDIS_HOST": "other"}, "REDIS_URL and REDIS_HOST must not say different things"),
        ({"REDIS_HOST": "h", "REDIS_USERNAME": "v"}, "REDIS_URL and REDIS_USERNAME must not"),
        ({"REDIS_HOST": "h", "REDIS_UNIX_SOCKET": "/x"}, "REDIS_HOST and REDIS_UNIX_SOCKET must not both"),
    ],
)
def test_beside_a_url_of_redis_single_variables_add_and_contradict_nothing(
    given_too: dict[str, str], problem: str
) -> None:
    resolved = settings_load.resolve(ENVIRON | {"REDIS_URL": "redis://u@h"} | given_too, None, None)
    assert ([problem] if problem else []) == [each[: len(problem)] for each in resolved.problems]


@pytest.mark.parametrize(
    "url", ["http://h", "redis://a,b", "redis://h/x", "redis://h?slot=1", "redis://", "unix://x"]
)
def test_what_is_no_url_of_redis_is_one_sentence(url: str) -> None:
    (problem,) = settings_load.resolve(ENVIRON | {"REDIS_HOST": "", "REDIS_URL": url}, None, None).problems
    assert problem.startswith("REDIS_URL must ")
