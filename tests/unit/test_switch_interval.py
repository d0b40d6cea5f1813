"""A thread that computes gives the interpreter back to the event loop sooner than Python has it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from outpost import errors, settings
from outpost.process import supervise


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


async def test_a_process_has_its_switch_interval_before_it_starts_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sys.setswitchinterval(0.005)
    seen = []

    async def start(_: object) -> None:
        seen.append(sys.getswitchinterval())
        raise errors.StartRefused("seen enough")

    monkeypatch.setattr(supervise._Process, "start_unless_stopped", start)
    with socket.socket() as listening, pytest.raises(errors.StartRefused):
        await supervise.run(settings.Settings(), listening)
    assert [pytest.approx(supervise.SWITCH_INTERVAL_S)] == seen
    assert supervise.SWITCH_INTERVAL_S <= 0.001
