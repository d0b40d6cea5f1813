"""What the doctor says: one finding a line, with how bad it is and what to do about it."""

from __future__ import annotations

from typing import Literal

import msgspec

Severity = Literal["ok", "warn", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """`about` is the part it is about, `text` what is found, `advice` what to do (empty where nothing is)."""

    severity: Severity
    about: str
    text: str
    advice: str = ""

    def line(self) -> str:
        """For a terminal."""
        return f"{self.severity:<8} {self.about:<12} {self.text}" + (f" -> {self.advice}" if self.advice else "")


def ok(about: str, text: str) -> Finding:
    """All is well."""
    return Finding("ok", about, text)


def warn(about: str, text: str, advice: str) -> Finding:
    """It works, and something is going to go wrong, or did once."""
    return Finding("warn", about, text, advice)


def problem(about: str, text: str, advice: str) -> Finding:
    """Something does not work, or may be lost."""
    return Finding("problem", about, text, advice)


def seconds(ms: float) -> str:
    """For a text, such as `1.2 s` or `3 h`."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if ms >= 2 * size:
            return f"{ms / size:.0f} {unit}"
    return f"{ms / 1000:.1f} s"


def names(numbers: list[int]) -> str:
    """Partitions, for a text."""
    return ", ".join(f"{p:02}" for p in numbers)
