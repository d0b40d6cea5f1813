"""A receiver that says everything back: the attempts in the log hold none of the destination's secrets."""

from __future__ import annotations

import base64
import html
import json
import urllib.parse
from collections.abc import AsyncIterator, Callable

import pytest

from tests.harness import node as nodes
from tests.harness import receiver as receivers
from tests.harness.node import Node
from tests.harness.servers import RedisServer

TENANT = "acme"
USER, PASSWORD, TOKEN, HEADER = "Qz7~user", 'Qz7~pass"/&ü', "Qz7~token+/=", "Qz7~header <1>"
SECRET = "Qz7~whsec"
QUOTED = [urllib.parse.quote(text, safe="") for text in (USER, PASSWORD, TOKEN)]
LOGIN = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

ECHOES: dict[str, Callable[[str], str]] = {
    "as it came": str,
    "in JSON": lambda text: json.dumps({"you sent": text, "twice": json.dumps(text)}),
    "in HTML": lambda text: f"<pre>{html.escape(text)}</pre>",
    "percent-encoded": lambda text: f"error={urllib.parse.quote_plus(text)}",
    "decoded": urllib.parse.unquote,
}


def said(request: receivers.Request) -> str:
    """The whole request, and what a receiver can make of it."""
    scheme, _, login = request.headers["authorization"].partition(" ")
    assert scheme == "Basic"
    pair = base64.b64decode(login).decode()
    own = request.headers["x-own"].encode("latin-1").decode()
    return "\n".join([request.raw_head.decode("latin-1"), pair, pair.partition(":")[2], own, SECRET, "the end"])


@pytest.fixture
async def receiver() -> AsyncIterator[receivers.Receiver]:
    async with receivers.Receiver() as running:
        yield running


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("echo", ECHOES)
async def test_what_a_receiver_says_back_is_kept_without_secrets(
    redis70: RedisServer, receiver: receivers.Receiver, echo: str, status: int
):
    receiver.always(lambda request: receivers.answer(status, ECHOES[echo](said(request)).encode()))
    host = urllib.parse.urlsplit(receiver.url()).netloc
    config = {
        "url": "http://{}:{}@{}/hook?token={}".format(*QUOTED[:2], host, QUOTED[2]),
        "custom_headers": json.dumps({"X-Own": HEADER}),
    }
    async with Node(redis70, retry_schedule_ms=(1,)) as node:
        await node.tenant(TENANT)
        await node.webhook(TENANT, "", config=config, credentials={"secret": SECRET})
        await node.publish(TENANT, "e1")
        await nodes.quiet(node.log)
        found = await nodes.attempts(node.log)
    assert (1 if status == 200 else 2) == len(found) == len(receiver.requests)
    assert LOGIN in receiver.requests[0].headers["authorization"]
    for entry in found:
        assert entry.detail is not None
        kept = bytes(entry.detail.response_data).decode()
        assert "the" in kept
        assert "***" in kept
        assert "Qz7" not in kept
        assert LOGIN.rstrip("=") not in kept
