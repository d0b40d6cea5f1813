"""CPU time and memory of named processes and their descendants, from /proc. A process counts for the
nearest named ancestor, so a server and the stores that it started can be told apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from outpost.cli.bench.options import Named

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STORES = {"valkey-server": "valkey", "redis-server": "redis", "postgres": "postgres"}


class Usage(msgspec.Struct, frozen=True):
    """CPU seconds so far (those of ended and reaped children too), and memory now."""

    cpu_s: float
    memory_bytes: int
    processes: int


class Entry(msgspec.Struct, frozen=True):
    """One line of /proc/<pid>/stat."""

    command: str
    parent: int
    cpu_s: float
    rss_bytes: int


def table() -> dict[int, Entry]:
    """Every process of the machine that can be read."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (entry := _entry(folder)) is not None:
            found[int(folder.name)] = entry
    return found


def _entry(folder: Path) -> Entry | None:
    try:
        text = (folder / "stat").read_text()
    except OSError:  # it ended meanwhile
        return None
    # The command stands in parentheses and may hold any character.
    command = text[text.index("(") + 1 : text.rindex(")")]
    rest = text[text.rindex(")") + 2 :].split()
    ticks = sum(int(rest[i]) for i in range(11, 15))  # utime, stime, cutime, cstime
    return Entry(command, int(rest[1]), ticks / TICKS_A_SECOND, int(rest[21]) * PAGE_BYTES)


def usage(named: Iterable[Named]) -> dict[str, Usage]:
    """Usage by name; a name is absent when none of its processes exists any more."""
    names = {one.pid: one.name for one in named}
    everyone = table()
    sums: dict[str, Usage] = {}
    for pid, entry in everyone.items():
        owner = _owner(pid, everyone, names)
        if owner is None:
            continue
        old = sums.get(owner, Usage(0.0, 0, 0))
        memory = old.memory_bytes + _memory(pid, entry.rss_bytes)
        sums[owner] = Usage(old.cpu_s + entry.cpu_s, memory, old.processes + 1)
    return sums


def _owner(pid: int, everyone: dict[int, Entry], names: dict[int, str]) -> str | None:
    while pid in everyone:
        if pid in names:
            return names[pid]
        pid = everyone[pid].parent
    return None


def _memory(pid: int, rss_bytes: int) -> int:
    """Proportional set size where it may be read (Postgres shares its buffers), else resident set size."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return rss_bytes
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return rss_bytes


def discover(root: int, folder: Path) -> tuple[Named, ...]:
    """The server `root`, and the stores below it or at work in `folder`, each under its own name."""
    everyone = table()
    found = [Named("server", root)]
    for pid, entry in everyone.items():
        store = STORES.get(entry.command)
        parent = everyone.get(entry.parent)
        if store is None or (parent is not None and parent.command == entry.command):
            continue
        if _owner(pid, everyone, {root: "server"}) or _works_in(pid, folder):
            found.append(Named(store, pid))
    return tuple(found)


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(folder.resolve())
    except OSError:
        return False
