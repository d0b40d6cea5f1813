"""NUL and bytes that are no UTF-8, in events and in what receivers answer: all of it is stored, and holds up
nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness import node as nodes
from tests.harness import receiver as receivers
from tests.harness.polling import eventually
from tests.harness.servers import RedisServer
from tests.integration import test_manual_retry as worlds

ODD = {
    "latin": (b"a\x00b\xff\xe9", "a\x00b\ufffd\ufffd"),
    "nul": (b"\x00" * 1_000, "\x00" * 1_000),
    "surrogate": (b"\xed\xa0\x80", "\ufffd"),
    "cut": ("日".encode()[:2], "\ufffd"),
    "json": (b'{"a": "\\u0000"}', '{"a": "\\u0000"}'),
}
DATA = b'{"x":"a\\u0000b","y":"\\ud800"}'


@pytest.mark.case(17)
async def test_whatever_a_receiver_answers_is_listed_beside_a_good_event(redis70: RedisServer, postgres_url: str):
    async with worlds.running(redis70, postgres_url, retry_schedule_ms=(), retry_max_limit=0) as world:

        def answer(request: receivers.Request) -> receivers.Script:
            id_ = request.headers["x-outpost-event-id"]
            if id_ == "large":
                return receivers.answer(500, b"\x00" * 1_000_000)
            return receivers.answer(500, ODD[id_][0]) if id_ in ODD else receivers.answer(200, b"fine")

        world.receiver.always(answer)
        for id_ in (*ODD, "large", "good"):
            await world.node.publish(worlds.TENANT, id_, DATA)
        await nodes.quiet(world.node.log)

        async def listed() -> dict[str, dict[str, Any]] | None:
            answer = await world.api.http.get("/attempts", params={"include": ["response_data", "event.data"]})
            found = {model["event_id"]: model for model in answer.json()["models"]}
            whole = len(found) == len(ODD) + 2 and all("event" in model for model in found.values())
            return found if whole else None

        found = await eventually(listed, worlds.SOON_S)
        assert found is not None
        assert ("success", "failed", "500") == (
            found["good"]["status"],
            found["large"]["status"],
            found["large"]["code"],
        )
        for id_, (_, text) in ODD.items():
            body = found[id_]["response_data"]["body"]
            assert (id_, "failed", "500") == (id_, found[id_]["status"], found[id_]["code"])
            assert _plain(text) == _plain(body), id_
            assert found[id_]["event"]["data"]["x"] == "a\x00b"
        events = (await world.api.http.get("/events")).json()["models"]
        assert {*ODD, "large", "good"} == {event["id"] for event in events}
        assert DATA in (await world.api.http.get("/events/good")).content


def _plain(body: Any) -> str:
    """What is compared of a body: replacement characters count once, however many bytes they stand for."""
    text = str(body)
    while "\ufffd\ufffd" in text:
        text = text.replace("\ufffd\ufffd", "\ufffd")
    return text
