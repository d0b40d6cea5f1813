"""Types whose library is not installed: listed with what to install, and refused with the same sentence."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from outpost.adapters import extras
from tests.harness.api_server import SETTINGS, Api
from tests.harness.servers import RedisServer
from tests.integration.api.conftest import Start

ALL = "/tenants/acme/destinations"
ROOT = Path(__file__).parents[3]
EXTRAS = {
    "aws_sqs": "aws",
    "aws_kinesis": "aws",
    "aws_s3": "aws",
    "aws_eventbridge": "aws",
    "azure_servicebus": "azure",
    "gcp_pubsub": "gcp",
    "rabbitmq": "rabbitmq",
    "kafka": "kafka",
}
QUEUE = {
    "id": "d",
    "type": "aws_sqs",
    "topics": "*",
    "config": {"queue_url": "https://sqs.eu-west-1.amazonaws.com/1/q"},
    "credentials": {"key": "key-of-the-test", "secret": "secret-of-the-test"},
}


def sentence(type_: str) -> str:
    return f"{type_} needs a library that is not installed: pip install 'outpost-events[{EXTRAS[type_]}]'"


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)


@pytest.fixture
async def bare(nothing_installed: None, start: Start, redis70: RedisServer) -> Api:
    """An API whose process has none of the extras."""
    api = start(SETTINGS, redis70)
    await api.tenant()
    return api


async def test_types_without_their_library_are_listed_with_what_to_install(bare: Api):
    types = (await bare.http.get("/destination-types")).json()
    told = {each["type"]: each.get("unavailable") for each in types}
    assert {"webhook": None, "hookdeck": None} | {type_: sentence(type_) for type_ in EXTRAS} == told
    assert all(each["instructions"] and each["icon"].startswith("<svg") for each in types)


@pytest.mark.parametrize("type_", EXTRAS)
async def test_a_destination_of_such_a_type_is_422_with_the_same_sentence(bare: Api, type_: str):
    made = await bare.http.post(ALL, json={"type": type_, "topics": "*", "config": {}, "credentials": {}})
    assert (422, [sentence(type_)]) == (made.status_code, made.json()["data"])
    assert [] == (await bare.http.get(ALL)).json()


async def test_one_that_is_there_already_is_shown_and_may_be_changed_but_for_what_the_type_has_to_check(
    start: Start, redis70: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    whole = start(SETTINGS, redis70)
    await whole.tenant()
    made = await whole.http.post(ALL, json=QUEUE)
    assert 201 == made.status_code, made.text
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    bare = start(SETTINGS, redis70)
    assert made.json() == (await bare.http.get(f"{ALL}/d")).json()
    for part in ("config", "credentials"):
        changed = await bare.http.patch(f"{ALL}/d", json={part: QUEUE[part]})
        assert (422, [sentence("aws_sqs")]) == (changed.status_code, changed.json()["data"])
    changed = await bare.http.patch(f"{ALL}/d", json={"topics": ["user.created"]})
    assert (200, ["user.created"]) == (changed.status_code, changed.json()["topics"])


def test_a_library_below_a_package_that_is_missing_is_missing_too():
    assert "" == extras.missing("x", "json", "y")
    told = "x needs a library that is not installed: pip install 'outpost-events[y]'"
    assert told == extras.missing("x", "no_such_package_of_ours.part", "y")


def test_no_library_of_a_type_is_imported_before_it_is_used():
    script = (
        "import sys; from outpost import settings; from outpost.adapters import registry;"
        "registry.build(settings.Settings());"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    libraries = {
        *("boto3", "botocore", "grpc", "google.pubsub_v1", "azure.servicebus", "aio_pika", "aiormq"),
        *("aiokafka", "jmespath", "httpx"),
    }
    assert set() == libraries & set(done.stdout.split())
