"""The config of destinations over HTTP: sealed in the log and in the read model, shown as it was saved."""

from __future__ import annotations

import msgspec
import pytest

from outpost.commands import sealing
from outpost.domain import events
from outpost.domain import tenant as tenants
from outpost.log import append, envelope
from outpost.log import partition as partitions
from projections.config import query
from tests.contract import worlds
from tests.harness.api_server import WEBHOOK, Api

ALL = "/tenants/acme/destinations"
URL = "https://user-Qz7~:pass-Qz7~@example.com/hook?token=query-Qz7~"
HEADERS = '{"Authorization":"Bearer header-Qz7~"}'
CONFIG = {"url": URL, "custom_headers": HEADERS}


@pytest.fixture
async def acme(api: Api) -> Api:
    await api.tenant()
    return api


async def kept(api: Api) -> str:
    """Every entry of `cfg` and every read model."""
    found: list[object] = []
    for keys in api.log.keys.partitions:
        found.append(await api.log.command("XRANGE", keys.cfg, "-", "+"))
        found.append(await api.log.command("HGETALL", keys.tenant(1, "acme")))
    return repr(found)


async def append_in_clear(api: Api) -> None:
    """A destination as schema version 1 wrote it."""
    state = await query.fresh(api.log, "acme")
    credentials = sealing.seal(api.deps.sealer, "acme", "old", sealing.CREDENTIALS, {"secret": "whsec_1"})
    destination = tenants.Destination(
        "old", "webhook", ("user.created",), CONFIG, credentials, 5, 5, created=state.version + 1
    )
    change = tenants.Change("destination.created", state.version + 1, "old", destination)
    fields = envelope.encode_change(events.ConfigChanged("acme", "admin/old", change))
    fields[fields.index("v") + 1] = 1
    p = partitions.partition_of("acme")
    item = append.Item("acme", "acme\0\0admin/old", "admin/old", fields, state.version, state.version + 1)
    [answer] = (await append.append(api.log, "cfg", {p: [item]}, worlds.window()))[p]
    assert isinstance(answer, append.Appended)


@pytest.mark.behaviour(59)
async def test_it_is_shown_as_saved_and_kept_sealed(acme: Api) -> None:
    made = await acme.destination(config=CONFIG)
    assert (CONFIG, URL) == (made["config"], made["target"])
    one = f"{ALL}/{made['id']}"
    assert made == (await acme.http.get(one)).json()
    assert [made] == (await acme.http.get(ALL)).json()
    await acme.http.put(f"{one}/disable")
    await acme.http.put(f"{one}/enable")
    assert "Qz7~" not in await kept(acme)


async def test_a_client_that_reads_changes_and_writes_back_keeps_it(acme: Api) -> None:
    made = await acme.destination(config=CONFIG)
    one = f"{ALL}/{made['id']}"
    read = (await acme.http.get(one)).json()
    changed = (await acme.http.patch(one, json={"config": read["config"], "topics": ["order.paid"]})).json()
    assert (CONFIG, ["order.paid"]) == (changed["config"], changed["topics"])
    merged = (await acme.http.patch(one, json={"config": {"custom_headers": None}})).json()
    assert {"url": URL} == merged["config"]
    assert "Qz7~" not in await kept(acme)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "", {"topics": ["order.paid"]}),
        ("PATCH", "", {"config": {"custom_headers": HEADERS}}),
        ("PUT", "/disable", None),
    ],
)
async def test_one_of_an_old_entry_is_read_on_and_sealed_by_the_next_change(
    acme: Api, method: str, path: str, body: dict[str, object] | None
) -> None:
    await append_in_clear(acme)
    one = f"{ALL}/old"
    assert CONFIG == (await acme.http.get(one)).json()["config"]
    answer = await acme.http.request(method, f"{one}{path}", json=body)
    assert (200, CONFIG) == (answer.status_code, answer.json()["config"])
    state = await query.fresh(acme.log, "acme")
    assert "Qz7~" not in msgspec.json.encode(state.destinations["old"]).decode()


async def test_a_change_of_one_destination_leaves_nothing_of_its_config_in_errors(acme: Api) -> None:
    refused = await acme.http.post(
        ALL, json={**WEBHOOK, "config": {"url": f"ftp://{URL}", "custom_headers": "Qz7~"}}
    )
    assert 422 == refused.status_code
    assert "Qz7~" not in refused.text
