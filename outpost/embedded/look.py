"""What the system says about a process: command line and parent, from /proc, or from `ps` where there is
none.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

PS_LIMIT_S = 5.0


def command_line(pid: int) -> str:
    """The command line, words joined by spaces; empty if there is no such process."""
    if pid <= 0:
        return ""
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    return _ps(pid, "command=")


def parent_of(pid: int) -> int | None:
    """The process id of the parent; None if there is no such process."""
    if pid <= 0:
        return None
    if Path("/proc/self").exists():
        try:
            # The name in brackets may hold anything, a bracket too: what follows the last one is fixed.
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return None
        return int(stat.rpartition(")")[2].split()[1])
    parent = _ps(pid, "ppid=")
    return int(parent) if parent else None


def _ps(pid: int, column: str) -> str:
    found = subprocess.run(  # noqa: S603  (fixed words and a number)
        ["/bin/ps", "-o", column, "-p", str(pid)],
        capture_output=True,
        text=True,
        timeout=PS_LIMIT_S,
        check=False,
    )
    return found.stdout.strip()
