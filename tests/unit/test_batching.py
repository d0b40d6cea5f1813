"""How much one call carries: cut by size and number, halved by a failure, and whole again after successes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outpost.log import batching

SIZES = st.lists(st.integers(0, 300), max_size=50)


@given(SIZES, st.integers(1, 10), st.integers(1, 200), st.integers(0, 12))
def test_a_cut_is_within_both_bounds_or_a_single_item(sizes: list[int], most: int, most_size: int, failures: int):
    sending = batching.Sending(most, most_size)
    for _ in range(failures):
        sending.cut(sizes)
        sending.failed()
    cut = sending.cut(sizes)
    assert bool(sizes) == bool(cut)
    assert cut <= 1 or (cut <= most and sum(sizes[:cut]) <= most_size)


@given(SIZES, st.integers(1, 10), st.integers(1, 200))
def test_successive_cuts_take_everything_in_its_order(sizes: list[int], most: int, most_size: int):
    sending, left, taken = batching.Sending(most, most_size), list(sizes), []
    while left:
        count = sending.cut(left)
        taken += left[:count]
        del left[:count]
        sending.passed()
    assert sizes == taken


def test_a_batch_that_fails_is_halved_until_it_is_one_item_and_doubles_again_once_it_passes():
    sending = batching.Sending(8, 1_000)
    sizes = [100] * 20
    shrinking = []
    for _ in range(5):
        shrinking.append(sending.cut(sizes))
        sending.failed()
    growing = []
    for _ in range(6):
        growing.append(sending.cut(sizes))
        sending.passed()
    assert ([8, 4, 2, 1, 1], [1, 1, 1, 2, 4, 8]) == (shrinking, growing)


def test_a_small_batch_that_fails_while_a_store_is_away_lets_the_next_one_begin_small():
    sending = batching.Sending(512)
    sending.cut([10])
    sending.failed()
    assert 1 == sending.cut([10] * 600)


def test_a_success_that_was_not_limited_says_nothing_of_larger_ones():
    sending = batching.Sending(8, 1_000)
    for _ in range(3):
        sending.cut([500, 500, 500])
        sending.failed()
    for _ in range(20):
        sending.cut([1])
        sending.passed()
    assert 1 == sending.cut([500, 500])


def test_a_read_is_as_large_as_the_last_entries_let_expect():
    reading = batching.Reading(1_000, 1_000_000)
    assert 1_000_000 // batching.UNKNOWN_ENTRY_BYTES == reading.count
    for _ in range(20):
        reading.answered(reading.count, reading.count * 500, reading.count)
    assert 1_000 == reading.count
    reading.answered(10, 10 * 200_000, 10)
    assert 5 == reading.count


def test_a_single_entry_that_is_larger_than_an_answer_is_read_alone():
    reading = batching.Reading(1_000, 1_000)
    reading.answered(3, 30_000_000, 3)
    assert 1 == reading.count


def test_a_read_that_fails_asks_for_few_and_for_twice_as_many_after_each_full_answer():
    reading = batching.Reading(1_024, 1_024_000)
    for _ in range(30):
        reading.answered(reading.count, reading.count * 100, reading.count)
    counts = [reading.count]
    for _ in range(4):
        reading.failed(reading.count)
        counts.append(reading.count)
    assert [1_024, 128, 16, 2, 1] == counts
    reading.answered(0, 3, 1)
    reading.answered(1, 100, 2)
    assert 1 == reading.count
    for expected in (2, 4, 8):
        reading.answered(reading.count, reading.count * 100, reading.count)
        assert expected == reading.count


def test_a_read_that_asked_for_little_and_failed_asks_for_less():
    reading = batching.Reading(1_024, 1_024_000)
    for _ in range(30):
        reading.answered(reading.count, reading.count * 100, reading.count)
    reading.failed(16)
    assert 2 == reading.count
