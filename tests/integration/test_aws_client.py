"""The one way to AWS: which sockets it opens, how its calls end, and what it keeps."""

from __future__ import annotations

import asyncio
import ssl
import sys
import threading
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trustme

from outpost import settings as settings_
from outpost.adapters.aws import client as aws_client
from outpost.adapters.egress import addresses
from outpost.adapters.egress import guard as egress
from outpost.adapters.shared import resources as shared_
from outpost.adapters.shared import trust
from tests.harness import receiver
from tests.harness.polling import eventually

pytestmark = pytest.mark.integration

PATIENT_S = 60.0  # a deadline that no test waits for
SENT = receiver.answer(200, b'{"MessageId":"m"}')
MESSAGE = {"QueueUrl": "https://sqs.example/1/q", "MessageBody": "{}"}
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.fixture
async def shared() -> AsyncIterator[shared_.Shared]:
    made = shared_.Shared(settings_.Settings(destinations_allowed_cidrs=("127.0.0.0/8",)))
    yield made
    await made.close()


def _client(shared: shared_.Shared, endpoint: str, tenant: str = "") -> aws_client.Client:
    place = aws_client.Place("sqs", "eu-central-1", endpoint, "AKIAEXAMPLE", SECRET, tenant=tenant)
    return aws_client.Client(shared, place)


async def _call(client: aws_client.Client, limit_s: float = PATIENT_S) -> dict[str, Any] | aws_client.Refusal:
    return await client.call("send_message", MESSAGE, asyncio.get_running_loop().time() + limit_s)


def _code(answer: dict[str, Any] | aws_client.Refusal) -> str:
    return answer.outcome.code if isinstance(answer, aws_client.Refusal) else "OK"


def _sending() -> int:
    """Threads of ours that are inside a call: idle ones wait for work."""
    return sum("botocore" in frame for frame in _frames())


def _frames() -> list[str]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return [
        "".join(traceback.format_stack(frame))
        for ident, frame in sys._current_frames().items()
        if names.get(ident, "").startswith("outpost-send")
    ]


async def test_a_connection_is_kept_and_used_by_the_next_call(shared: shared_.Shared):
    async with receiver.Receiver() as service:
        service.always(SENT)
        client = _client(shared, service.url())
        assert ["OK"] * 3 == [_code(await _call(client)) for _ in range(3)]
        assert {0} == {request.connection for request in service.requests}
        await client.close()


async def test_the_client_is_built_once_under_concurrent_first_use(
    shared: shared_.Shared, monkeypatch: pytest.MonkeyPatch
):
    built: list[aws_client.Place] = []
    genuine = aws_client._build

    def counting(place: aws_client.Place, *rest: Any) -> Any:
        built.append(place)
        return genuine(place, *rest)

    monkeypatch.setattr(aws_client, "_build", counting)
    async with receiver.Receiver() as service:
        service.always(SENT)
        client = _client(shared, service.url())
        answers = await asyncio.gather(*(_call(client, PATIENT_S) for _ in range(20)))
        assert {"OK"} == {_code(answer) for answer in answers}
        assert 1 == len(built)
        await client.close()


async def test_tenants_take_turns_in_having_their_clients_built(
    shared: shared_.Shared, monkeypatch: pytest.MonkeyPatch
):
    built: list[str] = []
    genuine, go = aws_client._build, threading.Event()

    def held(place: aws_client.Place, *rest: Any) -> Any:
        built.append(place.tenant)
        assert go.wait(PATIENT_S)
        return genuine(place, *rest)

    monkeypatch.setattr(aws_client, "_build", held)
    async with receiver.Receiver() as service:
        service.always(SENT)
        clients = [_client(shared, service.url(), tenant) for tenant in ("many", "many", "many", "few")]
        calls = [asyncio.create_task(_call(client, PATIENT_S)) for client in clients]
        await eventually(lambda: len(shared.aws_builds._waiting) == 2)
        assert ["many"] == built
        go.set()
        assert {"OK"} == {_code(answer) for answer in await asyncio.gather(*calls)}
        assert ["many", "many", "few", "many"] == built
        for client in clients:
            await client.close()


async def test_a_call_that_is_given_up_frees_its_thread_and_harms_no_other_call(shared: shared_.Shared):
    release = asyncio.Event()
    async with receiver.Receiver() as service:
        service.then(SENT, [receiver.Do.HANG], [receiver.WaitFor(release), *SENT])
        service.always(SENT)
        client = _client(shared, service.url())
        assert "OK" == _code(await _call(client))
        late = asyncio.create_task(_call(client, 1.5))
        await eventually(lambda: len(service.requests) == 2)
        other = asyncio.create_task(_call(client, PATIENT_S))
        await eventually(lambda: len(service.requests) == 3)
        assert "timeout" == _code(await late)
        await eventually(lambda: _sending() == 1)
        release.set()
        assert "OK" == _code(await other)
        assert "OK" == _code(await _call(client))
        assert [0, 0, 1, 1] == [request.connection for request in service.requests]  # the one cut off is gone
        await client.close()


async def test_a_call_that_is_cancelled_frees_its_thread_long_before_its_deadline(shared: shared_.Shared):
    async with receiver.Receiver() as service:
        service.always([receiver.Do.HANG])
        client = _client(shared, service.url())
        call = asyncio.create_task(_call(client, PATIENT_S))
        await eventually(lambda: len(service.requests) == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await eventually(lambda: _sending() == 0)
        await client.close()


async def test_an_answer_that_trickles_ends_at_the_deadline_all_the_same(shared: shared_.Shared):
    body = [step for _ in range(100) for step in (b" ", receiver.Sleep(0.05))]
    async with receiver.Receiver() as service:
        service.always([b"HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\n", *body])
        client = _client(shared, service.url())
        assert "timeout" == _code(await _call(client, 0.5))
        await eventually(lambda: _sending() == 0)
        await client.close()


async def test_closing_the_client_ends_its_calls(shared: shared_.Shared):
    async with receiver.Receiver() as service:
        service.always([receiver.Do.HANG])
        client = _client(shared, service.url())
        call = asyncio.create_task(_call(client, PATIENT_S))
        await eventually(lambda: len(service.requests) == 1)
        await client.close()
        assert isinstance(await asyncio.wait_for(call, 60), aws_client.Refusal)
        assert "network_error" == _code(await _call(client))


async def test_a_resolver_that_does_not_answer_holds_no_call_beyond_its_deadline(shared: shared_.Shared):
    asked, release = threading.Event(), threading.Event()

    def lookup(name: str) -> list[str]:
        asked.set()
        release.wait(30.0)
        return []

    shared.addresses = addresses.Addresses(egress.Guard(), lookup)
    client = _client(shared, "https://sqs.example")
    try:
        assert "timeout" == _code(await _call(client, 0.5))
        assert asked.is_set()
        await eventually(lambda: _sending() == 0)
    finally:
        release.set()
        await client.close()


@pytest.mark.parametrize("address", ["169.254.169.254", "10.0.0.1", "::1"])
async def test_a_name_that_resolves_to_what_is_not_permitted_is_never_connected_to(
    shared: shared_.Shared, address: str
):
    shared.addresses = addresses.Addresses(egress.Guard(), lambda _: ["8.8.8.8", address])
    client = _client(shared, "https://sqs.example")
    answer = await _call(client)
    assert isinstance(answer, aws_client.Refusal)
    assert ("blocked_address", True) == (answer.outcome.code, answer.outcome.retryable)
    await client.close()


async def test_a_redirect_is_not_followed_past_the_guard(shared: shared_.Shared):
    async with receiver.Receiver() as service:
        service.always(receiver.answer(301, b"", "Location: http://169.254.169.254/latest/meta-data"))
        client = _client(shared, service.url())
        assert "ERR" == _code(await _call(client))
        assert 1 == len(service.requests)
        await client.close()


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """The one authority that we believe."""
    made = trustme.CA()
    context = ssl.create_default_context()
    made.configure_trust(context)
    monkeypatch.setattr(trust, "http", lambda _: context)
    return made


def _serving(issuer: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert(name).configure_cert(context)
    return context


async def test_tls_is_checked_against_the_name_of_the_endpoint_not_its_address(
    shared: shared_.Shared, authority: trustme.CA
):
    shared.addresses = addresses.Addresses(shared.guard, lambda _: ["127.0.0.1"])
    async with receiver.Receiver(tls=_serving(authority, "sqs.example")) as service:
        service.always(SENT)
        right, wrong = (_client(shared, f"https://{name}:{service.port}") for name in ("sqs.example", "sqs.other"))
        assert "OK" == _code(await _call(right))
        refused = await _call(wrong)
        assert "tls_error" == _code(refused)
        assert isinstance(refused, aws_client.Refusal)
        assert "is for another name" in str(refused.outcome.response)
        await right.close()
        await wrong.close()


@pytest.mark.usefixtures("authority")
async def test_an_authority_that_nobody_believes_is_a_tls_error(shared: shared_.Shared):
    shared.addresses = addresses.Addresses(shared.guard, lambda _: ["127.0.0.1"])
    async with receiver.Receiver(tls=_serving(trustme.CA(), "sqs.example")) as service:
        client = _client(shared, f"https://sqs.example:{service.port}")
        assert "tls_error" == _code(await _call(client))
        await client.close()


async def test_the_secret_is_in_no_text_that_is_handed_on(shared: shared_.Shared):
    told = b'{"__type":"X#AccessDeniedException","message":"no ' + SECRET.encode() + b'"}'
    async with receiver.Receiver() as service:
        service.always(receiver.answer(400, told))
        client = _client(shared, service.url())
        answer = await _call(client)
        assert "access_denied" == _code(answer)
        assert SECRET not in repr((answer, client, client._place))
        await client.close()
