"""Ids of callers who named none, and attempt ids as another spelling of a position."""

from __future__ import annotations

import os
import re
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost import ids

POSITIONS = st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 2**48 - 1), st.integers(0, 2**64 - 1))
PREFIXES = st.text(alphabet="abcXYZ019_-.:", max_size=8)


@pytest.mark.parametrize(("kind", "version"), [("uuidv4", 4), ("uuidv7", 7)])
def test_a_uuid_has_its_version_and_variant_behind_the_prefix(kind, version):
    for _ in range(300):
        text = ids.new_id(kind, "evt_")
        parsed = uuid.UUID(text.removeprefix("evt_"))
        assert f"evt_{parsed}" == text
        assert version == parsed.version
        assert parsed.variant == uuid.RFC_4122


def test_a_uuidv7_begins_with_the_time_in_milliseconds():
    before = time.time_ns() // 1_000_000
    stamp = int(ids.new_id("uuidv7").replace("-", "")[:12], 16)
    assert before <= stamp <= time.time_ns() // 1_000_000


def test_a_nanoid_is_26_letters_and_digits_and_uses_all_of_them():
    made = [ids.new_id("nanoid", "des_") for _ in range(500)]
    assert all(re.fullmatch(r"des_[0-9A-Za-z]{26}", text) for text in made)
    assert len(set("".join(text[4:] for text in made))) == 62


@pytest.mark.parametrize("kind", ["uuidv4", "uuidv7", "nanoid"])
def test_no_id_is_made_twice(kind):
    assert len({ids.new_id(kind) for _ in range(5_000)}) == 5_000


def test_a_forked_child_does_not_hand_out_the_ids_of_its_parent():
    ids.new_id("uuidv4")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, "\n".join(ids.new_id("uuidv4") for _ in range(20)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        theirs = set(pipe.read().split())
    assert len(theirs) == 20
    assert not theirs & {ids.new_id("uuidv4") for _ in range(600)}


def test_a_request_id_says_what_it_is():
    assert re.fullmatch(r"req_[0-9A-Za-z]{26}", ids.request_id())


def test_the_form_of_an_attempt_id_is_fixed_for_ever():
    assert ids.attempt_id("att_", 7, 1_790_000_000_000, 3) == "att_000w0t1h2gdg00000000000003"
    assert ids.attempt_id("", 2**16 - 1, 2**48 - 1, 2**64 - 1) == "7" + "z" * 25


@given(PREFIXES, POSITIONS)
def test_an_attempt_id_reads_back_as_its_position(prefix, position):
    text = ids.attempt_id(prefix, *position)
    assert len(text) == len(prefix) + 26
    assert position == ids.parse_attempt_id(prefix, text)


@given(POSITIONS, POSITIONS)
def test_attempt_ids_sort_as_their_positions_do(one, other):
    assert (one < other) == (ids.attempt_id("", *one) < ids.attempt_id("", *other))


@given(PREFIXES, st.text(max_size=40))
def test_only_the_text_that_the_position_makes_is_an_attempt_id(prefix, text):
    position = ids.parse_attempt_id(prefix, text)
    assert position is None or ids.attempt_id(prefix, *position) == text


GOOD = ids.attempt_id("att_", 7, 1_790_000_000_000, 3)


@pytest.mark.parametrize(
    "text",
    ["", "att_", GOOD[4:], GOOD[:-1], GOOD + "0", GOOD.upper(), "ATT_" + GOOD[4:], "att_8" + GOOD[5:]]
    + ["att_" + letter + GOOD[5:] for letter in "ilou- \u0660"],
)
def test_what_no_position_makes_is_no_attempt_id(text):
    assert ids.parse_attempt_id("att_", text) is None
