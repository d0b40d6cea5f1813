"""Wall clocks that a test steps while a server runs: libfaketime, preloaded, reads an offset from a file at every
look.

Only the wall clock is stepped; the monotonic one goes on. Debian's Redis 7.0 does not start with the library, the
embedded Valkey does. In a Python process `time.sleep` fails with it; waits with a time-out, sockets and event
loops do not. Of Outpost only the thread that decides long filters calls it.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from outpost.embedded import valkey
from tests.harness import servers

INSTALL = "apt-get install libfaketime"
_FOLDERS = "lib*/*/faketime"


def library() -> Path | None:
    """Where libfaketime is on this machine."""
    return next(Path("/usr").glob(f"{_FOLDERS}/libfaketime.so.1"), None)


def require() -> None:
    """Skips the test if libfaketime is missing; fails it in CI."""
    servers.require(servers.VALKEY_9)
    if library() is None:
        servers.leave_out(f"libfaketime is missing: {INSTALL}")


class Clock:
    """A wall clock that is `offset_s` seconds ahead of the machine's. Its files are in `folder`."""

    def __init__(self, folder: Path, name: str = "clock") -> None:
        self.offset_s = 0.0
        self._file = folder / name
        self.step_to(0)

    def step_to(self, offset_s: float) -> None:
        """From now on it is so far ahead; with less than nothing, behind."""
        self.offset_s = offset_s
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+}\n")
        new.replace(self._file)  # a reader sees the old offset or the new one

    @property
    def environment(self) -> dict[str, str]:
        """What a program is to be started with so that this is its clock."""
        found = library()
        assert found is not None, INSTALL
        return {
            "LD_PRELOAD": str(found),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
        }

    def valkey(self) -> Path:
        """A program that is the embedded Valkey with this clock."""
        script = self._file.with_suffix(".valkey")
        words = shlex.join([*(f"{k}={v}" for k, v in self.environment.items()), str(valkey.binary())])
        script.write_text(f'#!/bin/sh\nexec env {words} "$@"\n')
        script.chmod(0o700)
        return script
