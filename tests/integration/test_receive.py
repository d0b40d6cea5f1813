"""`outpost receive` prints what arrives, verifies the signature, and answers as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import httpx
import pytest

from outpost.cli import receive, receiver

LIMIT_S = 60.0
SECRET = "whsec_x"
BODY = b'{"order":1}'


@contextlib.asynccontextmanager
async def receiving(*options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The command on a free port, and its URL; Ctrl-C ends it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "outpost", "receive", "--port", "0", *options), stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process, re.search(r"http://\S+", await line_of(process))[0]
    finally:
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), LIMIT_S)


async def line_of(process: asyncio.subprocess.Process) -> str:
    return (await asyncio.wait_for(process.stdout.readline(), LIMIT_S)).decode()


def headers(secret: str) -> dict[str, str]:
    signature = hmac.new(secret.encode(), BODY, hashlib.sha256).hexdigest()
    return {"x-outpost-topic": "t", "x-outpost-event-id": "evt_1", "x-outpost-signature": f"v0={signature}"}


@pytest.mark.parametrize(
    ("options", "secret", "said"),
    [
        (["--secret", SECRET], SECRET, "t evt_1, signature verified, answered 200"),
        (["--secret", SECRET], "other", "t evt_1, SIGNATURE WRONG, answered 200"),
        (
            ["--status", "503", "--delay", "0.01"],
            SECRET,
            "t evt_1, signature not verified (use --secret), answered 503",
        ),
    ],
)
async def test_a_webhook_is_printed_and_answered_as_told(options, secret, said):
    async with receiving(*options) as (process, url), httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(url, content=BODY, headers=headers(secret), timeout=LIMIT_S)
        assert f"POST / {said}" in await line_of(process)
        assert BODY.decode() == (await line_of(process)).strip()
    assert int(said[-3:]) == answer.status_code
    assert 0 == process.returncode


async def test_a_receiver_that_hangs_prints_and_never_answers():
    async with receiving("--hang") as (process, url), httpx.AsyncClient(trust_env=False) as client:
        sending = asyncio.create_task(client.post(url, content=BODY, timeout=None))
        assert "not signed, not answered" in await line_of(process)
        assert not sending.done()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


def test_what_a_terminal_would_take_for_a_command_is_not_printed():
    webhook = receiver.Webhook("/\x1b[2J", {"x-outpost-topic": "\x07"}, b"\x1b]0;x\x07" + b"a" * 3_000, 0.0)
    text = receive.text_of(webhook, None, receiver.Answer())
    assert "\n" not in text.replace("\n", "", 1)
    assert text.replace("\n", "").isprintable()
    assert text.endswith(".. (3,006 bytes)")


@pytest.mark.parametrize("words", [["--status", "99"], ["--delay", "-1"], ["--delay", "nan"], ["--port", "x"]])
def test_options_that_mean_nothing_are_refused(words):
    ran = subprocess.run(
        [sys.executable, "-m", "outpost", "receive", *words], capture_output=True, text=True, timeout=LIMIT_S
    )
    assert 2 == ran.returncode
    assert words[0] in ran.stderr


def test_a_port_that_is_taken_is_said_in_a_sentence():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        ran = subprocess.run(
            [sys.executable, "-m", "outpost", "receive", "--port", str(taken.getsockname()[1])],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    assert [1, True] == [ran.returncode, "choose another with --port" in ran.stderr]
