"""Which log this process works on, asked of Redis by every new connection.

A server that came back without its data, or another one behind the same name, has a log of another name or none:
appending to it would be acknowledged, and lost to everything that stands on the first. Such a connection is
refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis.exceptions


class OtherLog(redis.exceptions.ConnectionError):
    """What answers holds another log than the one this process started with, or none."""


class LogIdentity:
    """`expected` is the namespace id in `meta`; None until the boot check has read it."""

    __slots__ = ("expected", "question")

    def __init__(self, meta_key: str) -> None:
        self.question: Sequence[str] = ("HGET", meta_key, "namespace_id")
        self.expected: str | None = None

    def check(self, answer: Any) -> None:
        """`answer` to `question`, an error as a value too. Raises it, and OtherLog."""
        if isinstance(answer, Exception):
            raise answer
        if self.expected is not None and (answer is None or answer.decode() != self.expected):
            raise OtherLog
