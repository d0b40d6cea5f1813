"""Text from outside, made fit for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Returns the text with every character escaped that a terminal would take for a command."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
