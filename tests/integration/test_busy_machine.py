"""The suite on a machine that does other things: tests that wait and compare pass beside two processes that burn
its cores.

`make test` runs everything on the machine as it is; this is the cheap form of running it three times beside them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOOPS = 2
LIMIT_S = 300
# One or two for each way to wait or to compare: processes, stores, sockets, threads, CPU time, sums of figures.
TESTS = (
    "tests/cluster/test_stop.py::test_asked_twice_it_ends_at_once",
    "tests/contract/test_guard.py",
    "tests/contract/test_webhook_delivery.py::test_interim_answers_without_end_do_not_outlast_the_deadline",
    "tests/contract/test_webhook_delivery.py::test_a_body_that_trickles_does_not_outlast_the_deadline",
    "tests/integration/test_dispatch.py::test_a_slow_destination_does_not_hold_a_fast_one",
    "tests/integration/api/test_logs.py::test_a_read_waits_for_the_projection",
    "tests/integration/api/test_logs.py::test_a_read_does_not_wait_where_the_projection_is_up_to_date",
    "tests/unit/test_escapes.py::test_decoding_is_linear",
    "tests/unit/test_names.py::test_threads_that_have_nothing_to_do_are_ended_and_begun_again_when_needed",
)


@pytest.fixture
def busy() -> Iterator[None]:
    """Two processes that compute until the test has ended."""
    loops = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(LOOPS)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@pytest.mark.usefixtures("busy")
def test_tests_pass_beside_two_processes_that_burn_both_cores():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert 0 == done.returncode, done.stdout[-8_000:]
