"""Bytes that cycles hold drive the collector, which else counts objects only."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from outpost import collecting


class Circle:
    """Holds itself, and a payload."""

    def __init__(self, size: int) -> None:
        self.me = self
        self.payload = bytes(size)


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """Nothing else collects while a test looks, and nothing is counted from before."""
    gc.collect()
    collecting.count(collecting.COLLECT_BYTES)
    gc.disable()
    yield
    gc.enable()


def test_cycles_are_freed_once_they_hold_many_bytes():
    size = collecting.COLLECT_BYTES // 8
    circles = []
    for _ in range(8):
        assert len([circle for circle in circles if circle() is not None]) == len(circles)
        circles.append(weakref.ref(Circle(size)))
        collecting.count(size)
    assert [None] * 8 == [circle() for circle in circles]


def test_little_is_left_to_the_collector_of_python():
    circle = weakref.ref(Circle(10))
    collecting.count(10)
    assert circle() is not None
    gc.collect()


def test_what_was_loaded_for_good_is_out_of_the_collectors_sight_and_is_freed_by_counting() -> None:
    program = (
        "import gc, weakref; from outpost import collecting\n"
        "class Thing: pass\n"
        "thing = Thing(); seen = weakref.ref(thing)\n"
        "collecting.leave_out_what_is_loaded()\n"
        "assert not any(each is thing for each in gc.get_objects())\n"
        "assert gc.get_freeze_count() > 1_000\n"
        "del thing\n"
        "assert seen() is None\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
