"""What this process may do at AWS is no tenant's business: its environment, its files and the metadata service of
its machine are neither read nor asked, whatever a destination leaves out."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from outpost import settings as settings_
from outpost.adapters import base
from outpost.adapters.aws import eventbridge as aws_eventbridge
from outpost.adapters.aws import kinesis as aws_kinesis
from outpost.adapters.aws import s3 as aws_s3
from outpost.adapters.aws import sessions
from outpost.adapters.aws import sqs as aws_sqs
from outpost.adapters.egress import addresses
from outpost.adapters.egress import guard as egress
from outpost.adapters.shared import resources as shared_
from outpost.domain import delivery
from tests.harness import receiver

pytestmark = pytest.mark.integration

OURS = "AKIAOFTHISPROCESS"
SESSION = "session-of-this-process"
TENANTS = {"key": "AKIAOFTHETENANT", "secret": "secret-of-the-tenant"}
REGION = "eu-central-1"
QUEUE = f"https://sqs.{REGION}.amazonaws.com/123456789012/queue"
BUILD = {
    "aws_sqs": aws_sqs.build,
    "aws_eventbridge": aws_eventbridge.build,
    "aws_kinesis": aws_kinesis.build,
    "aws_s3": aws_s3.build,
}
CONFIG = {
    "aws_sqs": {"queue_url": QUEUE},
    "aws_eventbridge": {"region": REGION},
    "aws_kinesis": {"region": REGION, "stream_name": "stream"},
    "aws_s3": {"region": REGION, "bucket": "bucket"},
}
HOST = {
    "aws_sqs": f"sqs.{REGION}.amazonaws.com",
    "aws_eventbridge": f"events.{REGION}.amazonaws.com",
    "aws_kinesis": f"kinesis.{REGION}.amazonaws.com",
    "aws_s3": f"bucket.s3.{REGION}.amazonaws.com",
}
ANSWER = {
    "aws_sqs": {"Successful": [{"Id": "0", "MessageId": "m", "MD5OfMessageBody": "x"}]},
    "aws_eventbridge": {"FailedEntryCount": 0, "Entries": [{"EventId": "e"}]},
    "aws_kinesis": {"ShardId": "s", "SequenceNumber": "1"},
    "aws_s3": {},
}


@pytest.fixture
async def trap() -> AsyncIterator[receiver.Receiver]:
    """The metadata service, the proxy and the endpoint of this process, all in one: nobody may come here."""
    async with receiver.Receiver() as started:
        yield started
        assert [] == started.requests


@pytest.fixture
def environment(trap: receiver.Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{trap.port}"
    touched = tmp_path / "touched"
    files = tmp_path / ".aws"
    files.mkdir()
    profile = (
        f"region = us-west-1\nendpoint_url = {url}\ncredential_process = touch {touched}\nca_bundle = /none\n"
    )
    (files / "config").write_text(f"[default]\n{profile}[profile other]\n{profile}")
    (files / "credentials").write_text(f"[other]\naws_access_key_id = {OURS}\naws_secret_access_key = x\n")
    (files / "models").mkdir()
    named = {
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": OURS,
        "AWS_SECRET_ACCESS_KEY": "secret-of-this-process",
        "AWS_SESSION_TOKEN": SESSION,
        "AWS_PROFILE": "other",
        "AWS_CONFIG_FILE": str(files / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(files / "credentials"),
        "AWS_REGION": "us-west-1",
        "AWS_DEFAULT_REGION": "us-west-1",
        "AWS_DATA_PATH": str(files / "models"),
        "AWS_CA_BUNDLE": "/none",
        "REQUESTS_CA_BUNDLE": "/none",
        "AWS_ENDPOINT_URL": url,
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": url,
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": url,
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_USE_DUALSTACK_ENDPOINT": "true",
        "AWS_MAX_ATTEMPTS": "5",
        "AWS_RETRY_MODE": "adaptive",
        "AWS_EXECUTION_ENV": SESSION,
        "AWS_SDK_UA_APP_ID": SESSION,
        "AWS_LAMBDA_FUNCTION_NAME": "function",
        "_X_AMZN_TRACE_ID": SESSION,
        "BOTOCORE_EXPERIMENTAL__PLUGINS": "plugin=tests.harness.no_such_module",
        "HTTP_PROXY": url,
        "HTTPS_PROXY": url,
        "ALL_PROXY": url,
    }
    for service in ("SQS", "EVENTBRIDGE", "KINESIS", "S3"):
        named[f"AWS_ENDPOINT_URL_{service}"] = url
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    sessions.of_destinations.cache_clear()  # made for this test, in this environment


async def _sent(shared: shared_.Shared, type_: str, **config: str) -> delivery.Outcome:
    destination = base.OpenDestination("t", "d", type_, {**CONFIG[type_], **config}, TENANTS, {})
    publisher = await BUILD[type_](shared).connect(destination)
    event = base.Delivery("evt-1", "order.created", "2026-01-02T03:04:05Z", {}, b"{}", 1)
    try:
        [outcome] = await publisher.send([event], asyncio.get_running_loop().time() + 60.0)
    finally:
        await publisher.close()
    return outcome


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("type_", sorted(BUILD))
async def test_a_delivery_is_signed_by_the_tenant_alone_and_goes_nowhere_else(type_: str, tmp_path: Path):
    shared = shared_.Shared(settings_.Settings(destinations_allowed_cidrs=("127.0.0.0/8",)))
    async with receiver.Receiver() as service:
        body = b"" if type_ == "aws_s3" else json.dumps(ANSWER[type_]).encode()
        service.always(receiver.answer(200, body, 'ETag: "1"'))
        outcome = await _sent(shared, type_, endpoint=f"http://127.0.0.1:{service.port}")
        assert isinstance(outcome, delivery.Delivered), outcome
        [request] = service.requests
    signed = re.search(r"Credential=(\w+)/\d+/([^/]+)/", request.headers["authorization"])
    assert signed is not None
    assert (TENANTS["key"], REGION) == signed.groups()
    assert SESSION not in request.raw_head.decode()
    assert not (tmp_path / "touched").exists()
    await shared.close()


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("type_", sorted(BUILD))
async def test_a_destination_without_an_endpoint_is_sent_to_the_regions_own_host(type_: str):
    shared = shared_.Shared(settings_.Settings())
    asked: list[str] = []

    def lookup(name: str) -> list[str]:
        asked.append(name)
        raise OSError

    shared.addresses = addresses.Addresses(egress.Guard(), lookup)
    outcome = await _sent(shared, type_)
    assert "dns_error" == outcome.code
    assert [HOST[type_]] == asked
    await shared.close()


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("type_", sorted(BUILD))
async def test_what_fails_is_not_tried_again_by_the_library(type_: str):
    shared = shared_.Shared(settings_.Settings(destinations_allowed_cidrs=("127.0.0.0/8",)))
    async with receiver.Receiver() as service:
        service.always(receiver.answer(503, b""))
        outcome = await _sent(shared, type_, endpoint=f"http://127.0.0.1:{service.port}")
        assert isinstance(outcome, delivery.Failed)
        assert 1 == len(service.requests)
    await shared.close()
