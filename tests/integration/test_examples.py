"""The examples work as they stand: the platform's program, and the receivers in Python and in Node."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import yaml

from outpost.settings import table as settings_table
from tests.harness import servers
from tests.harness.process import KEY, Outpost
from tests.harness.servers import RedisServer

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
LIMIT_S = 90.0
RECEIVERS = {"python": (sys.executable, "receiver.py"), "node": (shutil.which("node") or "", "receiver.mjs")}


@contextlib.asynccontextmanager
async def running(*command: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program with its stdout in a pipe, which is ended at last."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"], **environment}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()  # it reads the pipe to its end, which closes it


async def line_of(process: asyncio.subprocess.Process) -> str:
    return (await asyncio.wait_for(process.stdout.readline(), LIMIT_S)).decode()


@pytest.fixture(params=sorted(RECEIVERS))
async def receiver(request: pytest.FixtureRequest) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Each receiver in turn, and its URL."""
    program, file = RECEIVERS[request.param]
    if not program:
        servers.leave_out("node is missing: apt-get install nodejs")
    async with running(program, str(EXAMPLES / file), PORT="0") as process:
        yield process, re.search(r"http://\S+", await line_of(process))[0]


async def test_the_platform_publishes_and_each_receiver_gets_the_event(
    receiver: tuple[asyncio.subprocess.Process, str], redis70: RedisServer, postgres_url: str, tmp_path: Path
):
    process, url = receiver
    async with (
        Outpost(redis70, postgres_url, tmp_path) as outpost,
        running(
            *(sys.executable, str(EXAMPLES / "publish.py")),
            API_KEY=KEY,
            OUTPOST_URL=f"{outpost.url}/api/v1",
            WEBHOOK_URL=url,
        ) as platform,
    ):
        id_ = re.match(r"published (\S+) for 1 destination", await line_of(platform))[1]
        assert re.match(rf"order\.created {id_} \{{\"order\":\d+\}}", await line_of(process))
        assert "attempt: success, code 200\n" == await line_of(platform)
        assert 0 == await asyncio.wait_for(platform.wait(), LIMIT_S)


@pytest.mark.parametrize("signature", ["", "v0=", "v0=00", f"v0={'0' * 64}", f"v1={'0' * 64}", "nonsense"])
async def test_a_wrong_signature_is_refused_by_each_receiver(
    receiver: tuple[asyncio.subprocess.Process, str], signature: str
):
    _, url = receiver
    async with httpx.AsyncClient(trust_env=False, timeout=LIMIT_S) as client:
        headers = {"x-outpost-signature": signature, "x-outpost-event-id": "e", "x-outpost-topic": "t"}
        assert 401 == (await client.post(url, content=b"{}", headers=headers)).status_code


def test_compose_adds_to_the_services_of_the_project_and_mounts_what_it_runs():
    added = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())["services"]
    known = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert {"receiver", "platform"} == added.keys() - known.keys()
    names = {variable.env for variable in settings_table.VARIABLES}
    assert added["outpost"]["environment"].keys() <= names
    for service in ("receiver", "platform"):
        assert ["./examples:/examples:ro"] == added[service]["volumes"]
        [file] = re.findall(r"/examples/(\S+\.py)", " ".join(added[service]["command"]))
        assert (EXAMPLES / file).is_file()
    for service, file in (("receiver", "receiver.py"), ("platform", "publish.py")):
        read = set(re.findall(r"os\.environ(?:\.get\(|\[)\"(\w+)\"", (EXAMPLES / file).read_text()))
        assert added[service]["environment"].keys() <= read


def test_the_table_of_the_examples_names_every_file():
    named = set(re.findall(r"^\| \[(\S+)\]\(\1\)", (EXAMPLES / "README.md").read_text(), re.MULTILINE))
    assert named == {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
