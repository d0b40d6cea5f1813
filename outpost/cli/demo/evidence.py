"""What `outpost demo` publishes, and the proof from outside that it arrived: out of the API, the stream and
Postgres. Whatever is not as it has to be raises errors.OutpostError with a sentence.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

import httpx
import msgspec

from outpost import errors
from outpost.log import position as positions
from outpost.log import read
from outpost.log.redis import client
from projections.logs import store

T = TypeVar("T")

TENANT, TOPIC = "acme", "order.created"
# Two blanks, to show that the receiver gets the very bytes that were published.
DATA = b'{"order": 1042,  "total": "19.90", "currency": "EUR"}'
EVENT = b'{"tenant_id": "acme", "topic": "order.created", "data": %b}' % DATA
REQUEST_LIMIT_S = 10.0
LOG_LIMIT_S = 15.0
POLL_S = 0.01

ATTEMPT_ROW = """
    SELECT partition, accepted_at::text, seq, tenant_id, event_id, destination_id, destination_type, topic, status,
           code, attempt_number, manual, time::text, response_data
    FROM attempt WHERE event_id = $1
"""


class Destination(msgspec.Struct, frozen=True):
    """What the demo needs of a destination's answer."""

    id: str
    credentials: dict[str, str]

    def __repr__(self) -> str:
        return f"Destination({self.id!r})"


class Accepted(msgspec.Struct, frozen=True):
    """The answer to a publish."""

    id: str
    destination_ids: list[str]


class Attempt(msgspec.Struct, frozen=True):
    """What the demo checks of a listed attempt."""

    status: str
    code: str
    attempt_number: int


class Attempts(msgspec.Struct, frozen=True):
    """A page of GET /attempts."""

    models: list[Attempt]


async def ask(api: httpx.AsyncClient, method: str, path: str, expected: int, body: bytes = b"") -> httpx.Response:
    """One request, answered with the status that is expected."""
    try:
        answer = await api.request(method, path, content=body)
    except httpx.HTTPError as exc:
        raise errors.OutpostError(f"{method} {path} was not answered ({type(exc).__name__})") from exc
    check(answer.status_code == expected, f"{method} {path} was answered {answer.status_code}, not {expected}")
    return answer


def decoded(answer: httpx.Response, kind: type[T]) -> T:
    """The body of an answer as a `kind`."""
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except msgspec.DecodeError as exc:  # its text may quote a value of the body
        raise errors.OutpostError(f"the answer of {answer.request.url.path} is not a {kind.__name__}") from exc


def check(holds: bool, sentence: str) -> None:
    """Nothing if it holds, else the sentence."""
    if not holds:
        raise errors.OutpostError(sentence)


async def listed_attempt(api: httpx.AsyncClient, event_id: str) -> Attempt:
    """The event's one attempt, once the API lists it."""
    try:
        async with asyncio.timeout(LOG_LIMIT_S):
            while True:
                answer = await ask(api, "GET", f"/attempts?tenant_id={TENANT}&event_id={event_id}", 200)
                if models := decoded(answer, Attempts).models:
                    check(len(models) == 1, f"{len(models)} attempts are listed instead of one")
                    return models[0]
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise errors.OutpostError(f"the attempt was not listed within {LOG_LIMIT_S:g} s") from None


async def stream_entry(address: client.RedisAddress, text: str) -> dict[str, str]:
    """The entry at the position that the publish was answered with: its fields as they stand there."""
    position = positions.parse(text)
    if position is None:
        raise errors.OutpostError("the publish was not answered with the position of its entry")
    log = client.open_log(address)
    try:
        [entry] = await read.exactly(log, [position])
    finally:
        await log.close()
    if entry is None:
        raise errors.OutpostError(f"there is no entry at {text}")
    fields = {name.decode(): value.decode() for name, value in entry.fields.items()}
    check(fields.get("d") == DATA.decode(), "the entry does not hold the data byte for byte")
    return fields


async def attempt_row(url: str, event_id: str) -> dict[str, str]:
    """The event's one row in the view `attempt`, by column."""
    target = await store.open_store(url, max_connections=1)
    try:
        async with target.acquire() as connection:
            rows = await connection.fetch(ATTEMPT_ROW, event_id)
    finally:
        await target.close()
    check(len(rows) == 1, f"Postgres has {len(rows)} rows of the attempt instead of one")
    return {name: str(value) for name, value in rows[0].items()}
