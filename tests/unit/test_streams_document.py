"""`streams.md` says what the code does: the same keys, fields, types, groups, scripts and commands."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from outpost.cli import streams
from outpost.domain import events
from outpost.log import envelope, marks
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.delivery import consumers
from outpost.log.redis import boot_checks
from outpost.settings import table as settings_table

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "streams.md").read_text("utf-8")


def _table(name: str) -> list[list[str]]:
    """The rows of the table between `<!-- name -->` and `<!-- end -->`, without its head."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", TEXT, re.DOTALL)
    assert found is not None, name
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].strip().split("\n")]
    assert len({len(row) for row in rows}) == 1, name
    return rows[2:]


def _names(name: str) -> list[str]:
    """The first column, without its backticks."""
    return [row[0].strip("`") for row in _table(name)]


def test_the_keys_are_those_that_the_code_spells() -> None:
    keys = partitions.keys_of()
    one = keys.partitions[7]
    spelt = [
        *(one.stream(stream) for stream in partitions.STREAMS),
        *(one.ver, one.idem, one.bucket(1), one.due, one.want, one.manual, one.mend, one.cut, one.gen),
        *(one.checkpoint(1), one.tenant(1, "acme"), one.tenants(1), one.lease("trim")),
        *(keys.slots, keys.meta),
    ]
    known = {"idem:1": "idem:<bucket>", "g1": "g<N>", "t:acme": "t:<tenant>", "lease:trim": "lease:<name>"}
    for i, key in enumerate(spelt):
        text = key.replace(one.prefix, "<p>").replace("outpost:", "<ns>:")
        for concrete, shown in known.items():
            text = text.replace(concrete, shown)
        spelt[i] = text
    assert _names("keys") == spelt
    methods = {"stream", "bucket", "checkpoint", "tenant", "tenants", "lease"}
    assert methods == {name for name in vars(partitions.PartitionKeys) if callable_of(name)}
    assert {"slots", "meta"} == {n for n, v in vars(partitions.Keys).items() if isinstance(v, property)}


def callable_of(name: str) -> bool:
    return not name.startswith("_") and callable(getattr(partitions.PartitionKeys, name))


def test_meta_is_what_is_checked_at_the_start() -> None:
    told = {row[0].strip("`"): row[1].strip("`") for row in _table("meta")}
    assert {**boot_checks.MADE_WITH, "namespace_id": "random"} == told


@pytest.mark.parametrize(
    ("stream", "fields"),
    [("cfg", envelope.CFG_FIELDS), ("evt", envelope.EVT_FIELDS), ("dlv", envelope.DLV_FIELDS)],
)
def test_the_fields_of_a_stream_stand_in_their_order(stream: str, fields: tuple[str, ...]) -> None:
    assert [*fields] == _names(f"fields {stream}")


def test_the_detail_of_an_attempt_has_these_fields() -> None:
    assert {*events.AttemptDetail.__struct_fields__} == {*_names("detail")}


def test_the_catalogue_has_every_type_in_its_stream() -> None:
    types = (
        *((type_, "cfg") for type_ in (*events.CONFIG_TYPES, events.ENTRY_SKIPPED)),
        (events.EVENT_ACCEPTED, "evt"),
        *((type_, "dlv") for type_ in events.DELIVERY_TYPES),
    )
    assert [*types] == [(row[0].strip("`"), row[1].strip("`")) for row in _table("types")]
    second = [type_ for type_ in events.CONFIG_TYPES if events.schema_version(type_) == 2]
    assert {1, 2} == {events.schema_version(type_) for type_, _ in types}
    named = ", ".join(f"`{type_}`" for type_ in second)
    assert f"{named} are at schema version 2, every other type is at 1." in " ".join(TEXT.split())


def test_there_is_one_group_and_its_leases_are_told() -> None:
    assert [partitions.GROUP] == _names("groups")
    [row] = _table("groups")
    assert f"{consumers.LEASE_MS // 1000} s" in row[2]
    assert "`evt`" == row[1]


def test_every_script_is_there() -> None:
    files = {path.stem for path in (ROOT / "outpost" / "log" / "scripts").glob("*.lua")}
    assert files == {*_names("scripts")}
    assert {6: "six"}[marks.BUCKETS] in TEXT


def test_retention_speaks_of_every_stream() -> None:
    assert [*partitions.STREAMS] == _names("retention")


def test_durability_has_every_choice() -> None:
    variable = next(v for v in settings_table.VARIABLES if v.env == "REDIS_DURABILITY")
    assert variable.rule is not None
    assert _names("durability") == [variable.rule.parse(choice) for choice in _names("durability")]
    assert ["always", "always-by-provider", "accept-loss"] == _names("durability")


def test_every_setting_that_is_named_exists() -> None:
    known = {variable.env for variable in settings_table.VARIABLES}
    named = {*re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", TEXT)}
    assert set() == named - known


def test_every_command_that_is_shown_can_be_parsed() -> None:
    parser = argparse.ArgumentParser()
    streams.add_arguments(parser)
    shown = re.findall(r"`(outpost streams [^`]+)`|^    (outpost streams .+)$", TEXT, re.MULTILINE)
    commands = [" ".join("".join(match).split()) for match in shown]
    assert len(commands) >= 8
    for command in commands:
        parser.parse_args(shlex.split(command)[2:])


def test_every_position_task_and_key_that_is_shown_is_one() -> None:
    shown = re.findall(r"\b(?:cfg|evt|dlv)\.[0-9]{2}\.[0-9]+-[0-9]+", TEXT)
    assert shown
    assert [] == [text for text in shown if positions.parse(text) is None]
    tags = re.findall(r"\{(p[0-9]{2}\.[0-9]+)\}", TEXT)
    assert [tag for tag in tags if tag == partitions.hash_tag(int(tag[1:3]))] == tags
    assert f"{partitions.PARTITIONS} partitions" in TEXT
