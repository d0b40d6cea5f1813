"""CPU and memory from /proc: a process with its descendants, each counted for the nearest name above it."""

import os
import signal
import subprocess
import sys
import time

from outpost.cli.bench import processes
from outpost.cli.bench.options import Named

CHILD = "import sys; sys.stdin.read()"
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.PIPE)
print(child.pid, flush=True)
sys.stdin.read()
child.communicate()
"""
LIMIT_S = 60


def family():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return parent, int(parent.stdout.readline())


def test_a_named_process_counts_with_its_children():
    parent, _ = family()
    try:
        assert 2 == processes.usage([Named("both", parent.pid)])["both"].processes
    finally:
        parent.communicate(timeout=LIMIT_S)


def test_a_named_child_does_not_count_for_its_parent():
    parent, child = family()
    try:
        found = processes.usage([Named("parent", parent.pid), Named("child", child)])
        assert {"parent": 1, "child": 1} == {name: one.processes for name, one in found.items()}
        deadline = time.monotonic() + LIMIT_S
        while not all(one.memory_bytes > 1_000_000 for one in found.values()):  # it has only just been forked
            assert time.monotonic() < deadline
            found = processes.usage([Named("parent", parent.pid), Named("child", child)])
    finally:
        parent.communicate(timeout=LIMIT_S)


def test_cpu_time_grows_with_work():
    me = [Named("me", os.getpid())]
    before = processes.usage(me)["me"].cpu_s
    deadline = time.monotonic() + LIMIT_S
    while (after := processes.usage(me)["me"].cpu_s) <= before:
        assert time.monotonic() < deadline
    assert after > before


def test_a_process_that_is_gone_has_no_usage():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait(LIMIT_S)
    assert {} == processes.usage([Named("gone", child.pid)])


def test_a_spawned_server_is_told_apart_from_its_stores(tmp_path):
    # A store is known by its command: a copy of the interpreter's name is enough to look like one. Its parent is a
    # process of the test's own, because pytest may be the parent of real stores.
    store = tmp_path / "valkey-server"
    store.symlink_to("/bin/sleep")
    code = f"import subprocess, sys; subprocess.Popen([{str(store)!r}, '60']); sys.stdin.read()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + LIMIT_S
        while not (child := child_of(parent.pid, "valkey-server")):
            assert time.monotonic() < deadline
        found = processes.discover(parent.pid, tmp_path)
        assert (Named("server", parent.pid), Named("valkey", child)) == found
        os.kill(child, signal.SIGKILL)
    finally:
        parent.communicate(timeout=LIMIT_S)


def child_of(parent, command):
    found = [pid for pid, one in processes.table().items() if (one.parent, one.command) == (parent, command)]
    return found[0] if found else None
