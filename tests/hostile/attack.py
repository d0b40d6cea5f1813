"""The seam of the hostile suite: one `Attack` is one client, receiver or broker that misbehaves.

`tests/hostile/test_*.py` run each attack alone against its own expectations. `tests/hostile/together.py` runs all
of `tests/hostile/attacks.ALL` at once beside a healthy tenant and measures the server under attack.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Target:
    """The server under attack, which listens on loopback and may deliver to loopback."""

    host: str
    port: int
    api_key: str
    pause_s: float = 0.1  # between two publishes of one attack, longer where many run at once


class Attack(Protocol):
    """One kind of hostile behaviour. It sends and serves at most tens of MB and keeps to loopback."""

    name: str

    async def run(self, target: Target, seconds: float) -> None:
        """Attacks until `seconds` have passed, then gives back every socket, task and thread. Refusals by the
        target (closed connections, 4xx, 503) are what it expects and raise nothing."""
