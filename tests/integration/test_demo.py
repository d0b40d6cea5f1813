"""`outpost demo` as a whole, and that it fails, with a sentence, whenever a step is not as it has to be."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

from outpost import errors
from outpost.cli import local, main, receiver
from outpost.cli.demo import evidence as demo_evidence
from outpost.cli.demo import spawned
from outpost.embedded import folder
from tests.harness import servers

ROOT = Path(__file__).parents[2]
LIMIT_S = 150


def demo(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs it with an empty folder as its temporary one."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    return subprocess.run(
        [sys.executable, "-m", "outpost", "demo"],
        cwd=ROOT,
        env={**kept, "TMPDIR": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


@pytest.fixture
def _stores() -> None:
    servers.require(servers.VALKEY_9)
    servers.require(servers.POSTGRES_18)


@pytest.mark.usefixtures("_stores")
def test_the_demo_shows_signature_entry_row_and_times_and_leaves_nothing_behind(tmp_path):
    # Settings of another server, and a proxy, must not reach the demo's own.
    other = {
        "API_KEY": "another",
        "REDIS_HOST": "10.0.0.1",
        "TOPICS": "other",
        "SERVICE": "api",
        "REDIS_USERNAME": "u",
    }
    ran = demo(tmp_path, http_proxy="http://127.0.0.1:9", **other)
    assert [0, ""] == [ran.returncode, ran.stderr]
    assert 10 == len(re.findall(r"^ +\d+  .* [\d,.]+ ms", ran.stdout, re.MULTILINE))
    assert re.search(r"signature verified.* v0=[0-9a-f]{64}$", ran.stdout, re.MULTILINE)
    assert re.search(r"stream entry evt\.\d\d\.\d+-\d+$", ran.stdout, re.MULTILINE)
    assert re.search(rf"^ +d +{re.escape(demo_evidence.DATA.decode())}$", ran.stdout, re.MULTILINE)
    assert re.search(r"^ +status +success$", ran.stdout, re.MULTILINE)
    assert re.search(r"^ +attempt_number +1$", ran.stdout, re.MULTILINE)
    assert "whsec_" not in ran.stdout
    assert "\x1b" not in ran.stdout
    assert [] == list(tmp_path.iterdir())


@pytest.mark.usefixtures("_stores")
def test_a_server_that_does_not_start_ends_the_demo_with_its_own_words(tmp_path):
    ran = demo(tmp_path, DELIVERY_MAX_CONCURRENCY="none")
    assert 0 != ran.returncode
    assert "before it was ready" in ran.stderr
    assert "DELIVERY_MAX_CONCURRENCY must be a whole number" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert [] == list(tmp_path.iterdir())


def webhook(body: bytes, signature: str) -> receiver.Webhook:
    return receiver.Webhook("/", {"x-outpost-signature": signature}, body, 0.0)


def test_the_receiver_believes_the_hmac_of_the_body_alone():
    body, secret = b'{"a":1}', "whsec_x"
    right = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    assert receiver.is_signed(webhook(body, f"v0={right}"), secret)
    assert receiver.is_signed(webhook(body, f"v0={'0' * 64},{right}"), secret)
    for wrong in ("", right, f"v1={right}", f"v0={right[:-1]}", f"v0={right.upper()}", "v0=", "v0=é"):
        assert not receiver.is_signed(webhook(body, wrong), secret), wrong
    assert not receiver.is_signed(webhook(body + b" ", f"v0={right}"), secret)
    assert not receiver.is_signed(webhook(body, f"v0={right}"), secret + "x")


async def test_the_receiver_keeps_the_bytes_and_hangs_up_on_what_is_no_request():
    async with receiver.listening() as listening:
        port = int(listening.url.split(":")[2].split("/")[0])
        for bad in (
            b"nonsense\r\n\r\n" * 2,
            b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"POST / HTTP/1.1\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(bad)
            writer.write_eof()
            await reader.read()
            writer.close()
            await writer.wait_closed()
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(listening.url, content=b" {}\n", headers={"X-Outpost-Topic": "t"})
        assert 200 == answer.status_code
        got = await listening.next(1.0)
        assert got is not None
        assert [b" {}\n", "t"] == [got.body, got.headers["x-outpost-topic"]]
        assert await listening.next(0.01) is None


def answering(status: int, body: bytes) -> httpx.AsyncClient:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=body))
    return httpx.AsyncClient(transport=transport, base_url="http://outpost/api/v1")


async def test_another_status_is_told_with_both():
    async with answering(500, b"") as api:
        with pytest.raises(errors.OutpostError, match=r"PUT /tenants/acme was answered 500, not 201"):
            await demo_evidence.ask(api, "PUT", "/tenants/acme", 201)


async def test_an_answer_of_another_form_is_told_without_quoting_it():
    async with answering(200, b'{"models": "secret"}') as api:
        answer = await demo_evidence.ask(api, "GET", "/attempts", 200)
    with pytest.raises(errors.OutpostError, match=r"^the answer of /api/v1/attempts is not a Attempts$"):
        demo_evidence.decoded(answer, demo_evidence.Attempts)


async def test_two_attempts_where_one_is_due_are_told():
    attempt = b'{"status": "success", "code": "200", "attempt_number": 1}'
    async with answering(200, b'{"models": [%b, %b]}' % (attempt, attempt)) as api:
        with pytest.raises(errors.OutpostError, match="2 attempts are listed instead of one"):
            await demo_evidence.listed_attempt(api, "e")


async def test_an_attempt_that_is_never_listed_is_told_after_the_limit(monkeypatch):
    monkeypatch.setattr(demo_evidence, "LOG_LIMIT_S", 0.05)
    async with answering(200, b'{"models": []}') as api:
        with pytest.raises(errors.OutpostError, match=r"not listed within 0\.05 s"):
            await demo_evidence.listed_attempt(api, "e")


def test_a_failed_step_ends_the_command_with_its_sentence(monkeypatch, capsys):
    async def fail(_self: object) -> None:
        raise errors.OutpostError("no webhook came within 15 s of the publish")

    monkeypatch.setattr("outpost.cli.demo._Demo.run", fail)
    assert 1 == main.main(["demo"])
    assert "outpost: no webhook came within 15 s of the publish\n" == capsys.readouterr().err


def test_a_throw_away_server_gets_no_settings_of_another_but_its_tuning():
    given = {
        "API_KEY": "a",
        "REDIS_HOST": "h",
        "CONFIG": "f",
        "TOPICS": "t",
        "PATH": "p",
        "DELIVERY_MAX_CONCURRENCY": "9",
    }
    expected = {"PATH": "p", "DELIVERY_MAX_CONCURRENCY": "9", **spawned.SETTINGS}
    assert expected == spawned.environment(given)


@pytest.fixture
def held() -> folder.Held:
    """A folder in which a server seems to run."""
    with tempfile.TemporaryDirectory(prefix="outpost-tests-local-") as path:
        found = folder.hold(Path(path))
        folder.secrets(found.path)
        found.write_state("http://127.0.0.1:3333/api/v1", 4001, 4002)
        yield found
        found.release()


def test_tools_find_the_stores_of_the_server_in_the_folder(held, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = local.environment({"PATH": "p"}, None, held.path)
    secrets = folder.secrets(held.path)
    assert ["p", "127.0.0.1", "4001"] == [found[name] for name in ("PATH", "REDIS_HOST", "REDIS_PORT")]
    assert f"postgresql://outpost:{secrets.postgres_password}@127.0.0.1:4002/outpost" == found["POSTGRES_URL"]
    assert [secrets.redis_password, secrets.aes_encryption_secret] == [
        found["REDIS_PASSWORD"],
        found["AES_ENCRYPTION_SECRET"],
    ]


@pytest.mark.parametrize("name", local.LOCATIONS)
def test_tools_leave_the_environment_alone_where_it_names_a_store(held, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    assert {name: "/x"} == local.environment({name: "/x"}, None, held.path)


def test_tools_leave_the_environment_alone_where_a_file_names_a_store(held, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("REDIS_HOST=elsewhere\n")
    assert {"PATH": "p"} == local.environment({"PATH": "p"}, None, held.path)


def test_tools_leave_the_environment_alone_where_nothing_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert {"PATH": "p"} == local.environment({"PATH": "p"}, None, tmp_path / ".outpost")
