"""TLS that does not come about says why, for every type that speaks it; one setting says whom all believe."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from outpost import settings as settings_
from outpost.adapters import base, registry
from outpost.adapters.shared import trust
from outpost.domain import delivery
from tests.harness import tls_servers

ROOT = Path(__file__).parents[2]
LIMIT_S = 30.0
EVENT = base.Delivery("evt_1", "user.created", "2026-01-01T00:00:00.000Z", {}, b"{}", 1)
WHY = {
    "expired": "has expired",
    "other_name": "is for another",
    "no_intermediate": "does not send the intermediate certificate",
    "self_signed": "is self-signed",
    "tls_1_1": "older than 1.2",
    "no_renegotiation": "secure renegotiation",
    "plain_http": "does not speak TLS at this port",
}
KEY = {"key": "AKIA1234", "secret": "s3cr3t-value"}


@pytest.fixture(scope="module")
def issuer() -> tls_servers.Issuer:
    return tls_servers.Issuer()


@pytest.fixture
def ca_file(issuer: tls_servers.Issuer, tmp_path: Path) -> str:
    path = tmp_path / "authority.pem"
    path.write_bytes(issuer.pem)
    return str(path)


def destination(type_: str, port: int) -> base.OpenDestination:
    """At the TLS server on that port."""
    at = f"127.0.0.1:{port}"
    string = f"Endpoint=sb://{at}/;SharedAccessKeyName=n;SharedAccessKey=c2VjcmV0LXZhbHVl"
    config, credentials = {
        "webhook": ({"url": f"https://{at}/x"}, {"secret": "whsec_a"}),
        "aws_sqs": ({"queue_url": f"https://{at}/1/q", "endpoint": f"https://{at}"}, {**KEY, "session": ""}),
        "kafka": (
            {"brokers": at, "topic": "t", "tls": "true", "sasl_mechanism": "none"},
            {},
        ),
        "rabbitmq": (
            {"server_url": at, "exchange": "e", "tls": "true"},
            {"username": "user-1", "password": "p-12345"},
        ),
        "azure_servicebus": ({"name": "q"}, {"connection_string": string}),
    }[type_]
    return base.OpenDestination("t1", "d1", type_, config, credentials, {})


async def sent(type_: str, port: int, **options: Any) -> delivery.Outcome:
    chosen: dict[str, Any] = {"destinations_allowed_cidrs": ("127.0.0.0/8",), **options}
    types = registry.build(settings_.Settings(**chosen))
    adapter = types.get(type_)
    assert adapter is not None
    publisher = await adapter.connect(destination(type_, port))
    try:
        [outcome] = await publisher.send([EVENT], asyncio.get_running_loop().time() + LIMIT_S)
        return outcome
    finally:
        await publisher.close()
        await types.close()


@pytest.mark.case(13)
@pytest.mark.parametrize("fault", tls_servers.FAULTS)
@pytest.mark.parametrize("type_", ["webhook", "aws_sqs", "kafka", "rabbitmq", "azure_servicebus"])
async def test_a_fault_of_tls_has_its_reason(
    issuer: tls_servers.Issuer, ca_file: str, type_: str, fault: str
) -> None:
    async with tls_servers.server(issuer, fault) as port:
        outcome = await sent(type_, port, destinations_ca_file=ca_file)
    assert isinstance(outcome, delivery.Failed)
    assert "tls_error" == outcome.code, outcome
    assert outcome.retryable
    told = json.dumps(outcome.response)
    assert WHY[fault] in told
    assert "_ssl.c" not in told
    assert ca_file not in told


@pytest.mark.case(14)
@pytest.mark.parametrize("named", ["DESTINATIONS_CA_FILE", "SSL_CERT_FILE"])
async def test_a_private_authority_is_believed_in_both_ways(
    issuer: tls_servers.Issuer, ca_file: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for made in (trust.http, trust.plain):
        made.cache_clear()
    async with tls_servers.server(issuer) as port:
        unknown = await sent("webhook", port)
        assert isinstance(unknown, delivery.Failed)
        assert "tls_error" == unknown.code
        for made in (trust.http, trust.plain):
            made.cache_clear()
        if named == "SSL_CERT_FILE":
            monkeypatch.setenv(named, ca_file)
        options = {"destinations_ca_file": ca_file} if named == "DESTINATIONS_CA_FILE" else {}
        assert delivery.Delivered("200", {"status": 200, "body": "ok"}) == await sent("webhook", port, **options)
    for made in (trust.http, trust.plain):
        made.cache_clear()


@pytest.mark.case(7)
async def test_a_body_without_length_counts_where_tls_is_not_ended_in_good_order(
    issuer: tls_servers.Issuer, ca_file: str
) -> None:
    async with tls_servers.server(issuer, said=b"HTTP/1.1 200 OK\r\n\r\nok") as port:
        outcome = await sent("webhook", port, destinations_ca_file=ca_file)
    assert delivery.Delivered("200", {"status": 200, "body": "ok"}) == outcome


def interpreters() -> list[str]:
    """Those of other versions that this machine has."""
    found = [shutil.which(f"python3.{minor}") or "" for minor in range(12, 16)]
    found += map(str, Path.home().glob(".pyenv/versions/3.1[2-9]*/bin/python"))
    return [
        path
        for path in dict.fromkeys(found)
        if path and subprocess.run([path, "-V"], check=False, capture_output=True).returncode == 0
    ]


_CHECK = """
import importlib.util, socket, ssl, sys
spec = importlib.util.spec_from_file_location("trust", sys.argv[1])
trust = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trust)
for context in (trust.plain(sys.argv[2]), trust.http(sys.argv[2])):
    with socket.create_connection(("127.0.0.1", int(sys.argv[3]))) as plain:
        context.wrap_socket(plain, server_hostname="127.0.0.1").close()
"""


@pytest.mark.case(14)
async def test_a_certificate_without_key_identifiers_is_taken_under_every_interpreter(
    issuer: tls_servers.Issuer, ca_file: str
) -> None:
    async with tls_servers.server(issuer) as port:
        for python in [sys.executable, *interpreters()]:
            checking = await asyncio.create_subprocess_exec(
                *(python, "-c", _CHECK, str(ROOT / "outpost/adapters/shared/trust.py"), ca_file, str(port)),
                stderr=asyncio.subprocess.PIPE,
            )
            _, told = await asyncio.wait_for(checking.communicate(), LIMIT_S)
            assert (0, b"") == (checking.returncode, told), python


@pytest.mark.case(14)
def test_no_context_is_strict_and_all_check_names() -> None:
    for context in (trust.plain(), trust.http()):
        assert not context.verify_flags & ssl.VERIFY_X509_STRICT
        assert context.check_hostname
        assert ssl.CERT_REQUIRED == context.verify_mode
    made = [
        path for path in (ROOT / "outpost/adapters").rglob("*.py") if "create_default_context" in path.read_text()
    ]
    assert [ROOT / "outpost/adapters/shared/trust.py"] == made
