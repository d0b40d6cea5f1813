"""Who asks: written into every entry as `by`, and telling a request's retry from another request."""

from __future__ import annotations

from typing import Literal

import msgspec


class Actor(msgspec.Struct, frozen=True):
    """`role` as authenticated; `request` is unique to one request (no spaces)."""

    role: Literal["admin", "tenant", "operator"]
    request: str

    @property
    def by(self) -> str:
        return f"{self.role}/{self.request}"

    @property
    def admin(self) -> bool:
        return self.role != "tenant"
