"""POSTGRES_URL: what the driver would stumble over is refused with the settings, and no message repeats it."""

from __future__ import annotations

import asyncio
import traceback
import urllib.parse

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from outpost import errors
from outpost.settings import rules as settings_rules
from projections.logs import store as stores

RULE = settings_rules.postgres_url()
PASSWORDS = st.text(st.sampled_from("#/?@:[]%&= ,1a"), max_size=8).map(lambda text: f"Qz{text}hunter2")


async def told_of(url: str) -> str:
    """What is told of a failed connection, traceback included. Nothing listens on port 1."""
    store = await stores.open_store(url)
    try:
        async with store.acquire():
            raise AssertionError("something listens there")
    except errors.StoreUnavailable as exc:
        return "".join(traceback.format_exception(exc))
    finally:
        await store.close()


@given(password=PASSWORDS)
@settings(max_examples=60, deadline=None)
@example(password="Qz#hunter2")
@example(password="1/Qzhunter2")
@example(password="1?Qzhunter2")
@example(password="[Qzhunter2")
@example(password="Qz@:hunter2")
@example(password="Qz@?hunter2")
@example(password="Qz@,/hunter2")
def test_a_password_that_is_not_encoded_is_refused_or_connects_without_being_told(password: str) -> None:
    url = RULE.parse(f"postgres://outpost:{password}@127.0.0.1:1/outpost")
    told = url.must if isinstance(url, settings_rules.Broken) else asyncio.run(told_of(url))
    assert "hunter2" not in told


@given(password=PASSWORDS)
def test_a_password_that_is_encoded_is_taken(password: str) -> None:
    url = f"postgres://outpost:{urllib.parse.quote(password, safe='')}@db/outpost"
    assert url == RULE.parse(url)


@pytest.mark.parametrize(
    "url",
    [
        *("postgres://db", "postgres:///outpost?host=/run", "postgres://u@[::1]:5432/db"),
        *("postgres://u:p@a:1,b:2/db?target_session_attrs=primary", "postgresql://u:p@/db"),
        "postgres://u:p@db/outpost?application_name=a@b",
    ],
)
def test_the_forms_of_libpq_are_taken(url: str) -> None:
    assert url == RULE.parse(url)


@pytest.mark.parametrize("url", ["postgres://u:p@db:x/o", "postgres://u:p@db:65536/o", "postgres://u:p@[::1/o"])
def test_a_host_or_port_that_is_none_is_refused(url: str) -> None:
    assert isinstance(RULE.parse(url), settings_rules.Broken)
