"""A task id names one attempt of one delivery, whatever a destination is called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost.domain import delivery, events
from outpost.domain.delivery import TaskId
from outpost.log.delivery import tasks

IDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30) | st.text("/@-0", min_size=1)


@given(
    st.builds(
        TaskId,
        st.integers(1, 2**31),
        st.builds("{}-{}".format, st.integers(0, 2**48), st.integers(0, 2**64)),
        IDS,
        st.integers(1, 2**53),
    )
)
def test_a_task_id_is_read_back_as_it_was_written(task: TaskId) -> None:
    assert task == delivery.parse_task_id(str(task))


def test_slashes_and_ats_belong_to_the_destination() -> None:
    assert "3/1790000000000-1/a/b@c/@d@7" == str(TaskId(3, "1790000000000-1", "a/b@c/@d", 7))
    assert TaskId(3, "5-1", "a/b@c/@d", 7) == delivery.parse_task_id("3/5-1/a/b@c/@d@7")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1/5-0",
        "1/5-0/d",
        "1/5-0/@1",
        "1/5-0/d@",
        "x/5-0/d@1",
        "1/5/d@1",
        "1/-/d@1",
        "1/5-0/d@x",
        "-1/5-0/d@1",
        "1/5-0/d@-1",
        "\u0663/5-0/d@1",
        "1/5-0/d@\u0663",
        "1/\u0665-0/d@1",
        "1.0/5-0/d@1",
        " 1/5-0/d@1",
    ],
)
def test_what_is_no_task_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        delivery.parse_task_id(text)


@given(st.text(max_size=30))
def test_any_text_is_a_task_id_or_refused(text: str) -> None:
    try:
        task = delivery.parse_task_id(text)
    except ValueError:
        return
    assert task == delivery.parse_task_id(str(task))


def test_an_event_asks_for_the_first_attempt_at_each_match() -> None:
    matched = (events.Matched("d", 1), events.Matched("a/b@c", 17))
    event = events.Event("acme", "e1", 17, "t", "2026-09-21T14:13:20.400Z", True, {}, matched, "a", b"{}")
    assert ("1/5-0/d@1", "1/5-0/a/b@c@17") == tuple(map(str, tasks.first_attempts(event, "5-0")))
