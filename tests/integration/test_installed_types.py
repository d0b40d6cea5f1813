"""Destination types that installed packages bring: used as ours are, or a reason not to start the process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.harness import toy_destination
from tests.harness.polling import eventually
from tests.harness.process import START_LIMIT_S, Outpost
from tests.harness.servers import RedisServer

TOY = "tests.harness.toy_destination"
ME = "tests.integration.test_installed_types"


def lacking(shared: object) -> object:
    """What an entry point could name by mistake."""

    class Described:
        description = toy_destination.descriptions.load("toy", toy_destination.DATA)

    return Described()


async def test_a_package_brings_a_type_that_is_listed_saved_and_delivered_to(
    redis70: RedisServer, postgres_url: str, tmp_path: Path
):
    toy_destination.dist_info(tmp_path / "site", "toy", toy=f"{TOY}:build")
    file = tmp_path / "events.jsonl"
    async with Outpost(redis70, postgres_url, tmp_path, PYTHONPATH=str(tmp_path / "site")) as process:
        types = await process.api("GET", "/destination-types")
        assert ("webhook", "toy") == (types[0]["type"], types[-1]["type"])
        assert "Toy" == types[-1]["label"]
        assert types[-1] == await process.api("GET", "/destination-types/toy")
        await process.tenant("acme")
        made = await _created(process, {"file": str(file)})
        assert (str(file), {"password": "open*******"}) == (made["target"], made["credentials"])
        await process.publish("acme", "evt_1", metadata={"team": "blue"})
        await eventually(file.exists)
        line = await eventually(lambda: file.read_text().endswith("\n") and json.loads(file.read_text()))
    assert {"id": "evt_1"} == json.loads(line["data"])
    assert ("evt_1", "user.created", "blue") == tuple(
        line["metadata"][key] for key in ("event-id", "topic", "team")
    )


async def test_what_such_a_type_refuses_is_422_with_its_own_rules(
    redis70: RedisServer, postgres_url: str, tmp_path: Path
):
    toy_destination.dist_info(tmp_path / "site", "toy", toy=f"{TOY}:build")
    async with Outpost(redis70, postgres_url, tmp_path, PYTHONPATH=str(tmp_path / "site")) as process:
        await process.tenant("acme")
        told = await _created(process, {"file": "relative"}, expected=422)
        assert ["config.file failed pattern validation"] == told["data"]
        told = await _created(process, {"file": "/no/such/folder/file"}, expected=422)
        assert ["config.file failed exists validation"] == told["data"]


async def test_packages_that_cannot_be_used_stop_the_start_with_a_sentence_each(
    redis70: RedisServer, postgres_url: str, tmp_path: Path
):
    site = tmp_path / "site"
    toy_destination.dist_info(site, "gone", gone="no_such_module_of_ours:build")
    toy_destination.dist_info(site, "half", half=f"{ME}:lacking")
    toy_destination.dist_info(site, "twice", toy=f"{TOY}:build", toy_again=f"{TOY}:build")
    toy_destination.dist_info(site, "mine", webhook="outpost.adapters.webhook.type:build")
    process = Outpost(redis70, postgres_url, tmp_path, PYTHONPATH=str(site))
    process.spawn()
    try:
        assert 2 == await process.exit_code(START_LIMIT_S)
    finally:
        await process.end()
    parts = "max_open, verify, prepare, target, shown_credentials, connect, close"
    assert [
        "The settings cannot be used:",
        "destination type 'gone' (no_such_module_of_ours:build) does not load: ModuleNotFoundError",
        f"destination type 'toy' ({ME}:lacking) lacks {parts}",
        f"destination type 'toy' ({TOY}:build) is there already",
        "destination type 'webhook' (outpost.adapters.webhook.type:build) is there already",
    ] == [line.strip() for line in process.stderr.splitlines() if not line.startswith("{")]


async def _created(process: Outpost, config: dict[str, str], expected: int = 201) -> Any:
    body = {"type": "toy", "topics": "*", "config": config, "credentials": {"password": "open sesame"}}
    return await process.api("POST", "/tenants/acme/destinations", body, expected=expected)
