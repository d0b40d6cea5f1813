"""Sealing: only the same key and the same place open a value, and nothing of it is in an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost import crypto, errors

PLACE = {"tenant": "acme", "destination": "des_1", "field": "credentials"}
PLAIN = b'{"secret":"whsec_1"}'
# HKDF-SHA256 of "correct horse", nonce 00 01 .. 0b. A change here means that no older log can be read.
GOLDEN = "s1.AAECAwQFBgcICQoLmTfDuEPXBAnLUylVufWRmVZne0gPcYohoJpbSHBwbzfB0KD7"


@pytest.fixture
def sealer() -> crypto.Sealer:
    return crypto.Sealer("correct horse")


@given(
    st.binary(max_size=300), st.text(max_size=20), st.text(max_size=20), st.sampled_from(["credentials", "meta"])
)
def test_what_was_sealed_opens_at_its_place(plain, tenant, destination, field):
    sealer = crypto.Sealer("correct horse")
    place = {"tenant": tenant, "destination": destination, "field": field}
    assert plain == sealer.unseal(sealer.seal(plain, **place), **place)


def test_the_form_of_a_sealed_value_is_fixed_for_ever():
    fixed = crypto.Sealer("correct horse", random=lambda count: bytes(range(count)))
    assert fixed.seal(PLAIN, **PLACE) == GOLDEN
    assert fixed.unseal(GOLDEN, **PLACE) == PLAIN


@pytest.mark.behaviour(59)
def test_a_sealed_value_shows_nothing_of_the_plain_one_and_differs_each_time(sealer):
    first, second = sealer.seal(PLAIN, **PLACE), sealer.seal(PLAIN, **PLACE)
    assert first != second
    assert "whsec" not in first
    assert PLAIN == sealer.unseal(first, **PLACE) == sealer.unseal(second, **PLACE)


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"tenant": "other"},
        {"destination": "des_2"},
        {"field": "metadata"},
        {"tenant": "acmedes", "destination": "_1"},
    ],
)
def test_a_value_copied_to_another_place_does_not_open(sealer, elsewhere):
    sealed = sealer.seal(PLAIN, **PLACE)
    with pytest.raises(errors.UnsealError):
        sealer.unseal(sealed, **PLACE | elsewhere)


def test_another_secret_does_not_open_it(sealer):
    with pytest.raises(errors.UnsealError, match="AES_ENCRYPTION_SECRET"):
        crypto.Sealer("wrong horse").unseal(sealer.seal(PLAIN, **PLACE), **PLACE)


@pytest.mark.parametrize("at", range(3, len(GOLDEN)))
def test_a_change_of_any_one_character_is_noticed(sealer, at):
    changed = GOLDEN[:at] + ("A" if GOLDEN[at] != "A" else "B") + GOLDEN[at + 1 :]
    with pytest.raises(errors.UnsealError):
        sealer.unseal(changed, **PLACE)


@pytest.mark.parametrize(
    "text",
    [
        *("", "s1.", "s1.AA", "s2." + GOLDEN[3:], GOLDEN[3:], "S1." + GOLDEN[3:], '{"secret":"x"}'),
        *(GOLDEN + "=", GOLDEN + "\n", GOLDEN + "A", GOLDEN[:-1], GOLDEN.replace("g", "+"), "s1.\u03b1"),
    ],
)
def test_what_is_not_the_one_spelling_of_a_sealed_value_is_refused(sealer, text):
    with pytest.raises(errors.UnsealError):
        sealer.unseal(text, **PLACE)


def test_an_error_holds_neither_secret_nor_value_nor_cause(sealer):
    with pytest.raises(errors.UnsealError) as caught:
        crypto.Sealer("hunter2hunter2").unseal(GOLDEN, **PLACE)
    assert caught.value.__suppress_context__
    for word in ("hunter2", GOLDEN[3:], "acme", "des_1"):
        assert word not in str(caught.value)


def test_a_sealer_does_not_print_its_key(sealer):
    assert "horse" not in repr(sealer)
