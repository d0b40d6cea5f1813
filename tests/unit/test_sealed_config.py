"""The config of a destination is sealed wherever it is kept, and shown to nobody but its owner."""

from __future__ import annotations

import urllib.parse

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost import crypto, errors
from outpost.adapters import registry
from outpost.commands import destinations as commands
from outpost.commands import sealing
from outpost.domain import events
from outpost.domain import tenant as tenants
from outpost.log import envelope, position, read
from outpost.log.operator import describe
from outpost.settings import Settings
from projections.config import apply

SEALER = crypto.Sealer("correct horse")
TYPES = registry.build(Settings())
FIELDS = [(type_.type, field.key) for type_ in TYPES.types() for field in type_.config_fields]
LEGIBLE = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=6, max_size=40)
VALUES = LEGIBLE.map(lambda text: f"Qz7~{text}")  # so that none occurs anywhere else by chance
SECRET = "Qz7~-hunter2"


def destination(config: dict[str, str], type_: str = "webhook") -> tenants.Destination:
    """What a command appends for this config."""
    return tenants.Destination(
        id="d",
        type=type_,
        topics=("*",),
        config=sealing.seal(SEALER, "acme", "d", sealing.CONFIG, config),
        credentials=sealing.seal(SEALER, "acme", "d", sealing.CREDENTIALS, {}),
        created_ms=1,
        updated_ms=1,
        created=1,
        version=1,
    )


def entry(state: tenants.Destination, version: bytes = b"2") -> read.Read:
    """The entry of `cfg` with this state."""
    change = tenants.Change("destination.created", 1, "d", state)
    flat = envelope.encode_change(events.ConfigChanged("acme", "admin/r", change))
    fields = [part if isinstance(part, bytes) else str(part).encode() for part in flat]
    at = position.parse("cfg.07.1790000000000-0")
    assert at is not None
    return read.Read(at, {**dict(zip(fields[::2], fields[1::2], strict=True)), b"v": version})


def kept_and_shown(item: read.Read, state: tenants.Destination) -> str:
    """Everything that is kept of a destination, and everything that an operator is shown of it."""
    told = [describe.describe(item, payload=payload) for payload in (False, True)]
    lines = [describe.one_line(each) for each in told]
    kept = [*item.fields.values(), apply.encode_destination(state)]
    return "\n".join([*lines, repr(told), repr(state), *(part.decode() for part in kept)])


@given(user=VALUES, password=VALUES, token=VALUES, header=VALUES)
def test_nothing_of_a_url_or_a_header_is_kept_or_shown(user: str, password: str, token: str, header: str) -> None:
    quoted = [urllib.parse.quote(text, safe="") for text in (user, password, token)]
    headers = msgspec.json.encode({"Authorization": header}).decode()
    config = {"url": "https://{}:{}@example.com/hook?token={}".format(*quoted), "custom_headers": headers}
    state = destination(config)
    text = kept_and_shown(entry(state), state)
    assert "Qz7~" not in text
    assert "example.com" not in text
    assert config == sealing.open_destination(SEALER, "acme", state).config


@pytest.mark.parametrize(("type_", "key"), FIELDS)
def test_no_config_field_of_any_type_is_kept_or_shown(type_: str, key: str) -> None:
    state = destination({key: SECRET}, type_)
    assert SECRET not in kept_and_shown(entry(state), state)


@pytest.mark.parametrize("version", [b"1", b"2", b"3"])
def test_an_operator_is_not_shown_a_config_that_stands_in_clear(version: bytes) -> None:
    """Version 1 wrote it so; 3 is from the future, and does not decode."""
    item = entry(
        msgspec.structs.replace(destination({}), config={"url": f"https://{SECRET}@example.com/"}), version
    )
    told = [describe.describe(item, payload=payload) for payload in (False, True)]
    assert (version == b"3") == all("problem" in each for each in told)
    assert SECRET not in repr(told)


def test_an_operator_is_not_shown_a_state_that_is_not_json() -> None:
    item = entry(destination({}))
    broken = read.Read(item.position, {**item.fields, b"d": b'{"config":{"url":"https://Qz7~-hunter2@'})
    assert SECRET not in repr(describe.describe(broken, payload=True))


def test_the_config_of_an_old_entry_is_read_as_it_is_and_sealed_when_it_is_written_again() -> None:
    config = {"url": f"https://{SECRET}@example.com/"}
    old = msgspec.structs.replace(destination({}), config=config)
    assert old == apply.decode_destination(apply.encode_destination(old))
    assert config == sealing.open_destination(SEALER, "acme", old).config
    sealed = sealing.with_sealed_config(SEALER, "acme", old)
    assert SECRET not in msgspec.json.encode(sealed).decode()
    assert config == sealing.open_destination(SEALER, "acme", sealed).config
    assert sealed is sealing.with_sealed_config(SEALER, "acme", sealed)
    assert SECRET not in repr(old)


@pytest.mark.parametrize("field", ["credentials", "delivery_metadata"])
def test_a_sealed_config_does_not_open_in_the_place_of_another_field(field: str) -> None:
    state = destination({"url": "https://example.com/"})
    with pytest.raises(errors.UnsealError):
        sealing.open_destination(SEALER, "acme", msgspec.structs.replace(state, **{field: state.config}))


class OldDestination(msgspec.Struct):
    """What a process that knows schema version 1 alone decodes of a destination in the read model."""

    id: str
    config: dict[str, str]


def test_an_old_process_does_not_take_a_sealed_config_for_a_config() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(entry(destination({"url": "u"})).fields[b"d"], type=OldDestination)


def test_a_form_does_not_print_what_it_carries() -> None:
    form = commands.DestinationForm(1, config={"url": SECRET}, credentials={"secret": SECRET})
    assert SECRET not in repr(form)


def test_a_type_that_is_not_here_has_all_of_its_config_masked() -> None:
    assert {"url": "****"} == TYPES.shown_config("unheard_of", {"url": "http"})
    assert {"url": "http"} == TYPES.shown_config("webhook", {"url": "http"})
