"""CPU time and memory of named processes and their descendants. A process counts for the nearest named ancestor,
so a server and the stores that it started can be told apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import psutil

from outpost.cli.bench.options import Named

STORES = {"valkey-server": "valkey", "redis-server": "redis", "postgres": "postgres"}
_READ = ["ppid", "name", "cpu_times", "memory_info"]  # of every process at once


class Usage(msgspec.Struct, frozen=True):
    """CPU seconds so far (those of ended and reaped children too), and memory now."""

    cpu_s: float
    memory_bytes: int
    processes: int


class Entry(msgspec.Struct, frozen=True):
    """One process of the machine."""

    command: str
    parent: int
    cpu_s: float
    rss_bytes: int


def table() -> dict[int, Entry]:
    """Every process of the machine that can be read."""
    return {
        process.pid: Entry(
            command=process.info["name"],
            parent=process.info["ppid"],
            cpu_s=_cpu_s(process.info["cpu_times"]),
            rss_bytes=process.info["memory_info"].rss,
        )
        for process in psutil.process_iter(_READ)
        if None not in process.info.values()  # what may not be read
    }


def _cpu_s(times: Any) -> float:
    return float(times.user + times.system + times.children_user + times.children_system)


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
        return int(getattr(psutil.Process(pid).memory_full_info(), "pss", rss_bytes))
    except psutil.Error:  # it ended meanwhile, or is another user's
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
        return Path(psutil.Process(pid).cwd()).is_relative_to(folder.resolve())
    except psutil.Error:
        return False
