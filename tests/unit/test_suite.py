"""What the suite itself promises to the tests, however it is started."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from outpost.embedded import process

ROOT = Path(__file__).parents[2]
LIMIT_S = 120
# Says whether Ctrl-C raises KeyboardInterrupt in a process that a test starts.
CHILD = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
INNER = """
import subprocess, sys
def test_it():
    said = subprocess.run([sys.executable, "-c", {child!r}], capture_output=True, text=True, check=True)
    assert "True" == said.stdout.strip()
"""


def test_ctrl_c_works_in_the_processes_of_tests_though_a_shell_started_pytest_with_it_ignored(tmp_path: Path):
    """As `make test &` does in a shell without job control."""
    (tmp_path / "test_inner.py").write_text(INNER.format(child=CHILD))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.conftest",
        "-c",
        "/dev/null",
        "--rootdir",
        tmp_path,
    ]
    ignored = "trap '' INT; exec \"$@\""
    done = subprocess.run(
        ["/bin/sh", "-c", ignored, "sh", *command, tmp_path / "test_inner.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    assert signal.default_int_handler is signal.getsignal(signal.SIGINT)


def test_free_ports_are_below_those_of_outgoing_connections():
    """A connection of another test could take one of those before a server listens."""
    first = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if first.exists():
        assert process.FREE_PORTS.stop <= int(first.read_text().split()[0])
    assert all(process.free_port() in process.FREE_PORTS for _ in range(200))


def test_a_port_that_somebody_has_is_not_given_out(monkeypatch: pytest.MonkeyPatch):
    taken = process.free_port()
    monkeypatch.setattr(process, "FREE_PORTS", range(taken, taken + 1))
    monkeypatch.setattr(process, "port_is_free", lambda port: port != taken)
    with pytest.raises(process.EmbeddedError, match=f"no free port was found from {taken} to {taken}"):
        process.free_port()
