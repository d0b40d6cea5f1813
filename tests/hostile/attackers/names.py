"""Webhooks whose names take long to fail: each look-up holds a thread of the resolver for 10 s.

The server under attack runs with the resolver of `tests.harness.slow_names`; with any other one the names fail as
fast as the machine's name servers say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time

import httpx

from tests.harness import slow_names
from tests.hostile import attack


@dataclasses.dataclass(frozen=True)
class SlowNames:
    """`tenants` tenants with `webhooks` webhooks each, and every event of them goes to all of these."""

    name: str = "slow names"
    tenants: int = 5
    webhooks: int = 20

    async def run(self, target: attack.Target, seconds: float) -> None:
        """See attack.Attack."""
        until = time.monotonic() + seconds
        base, headers = f"http://{target.host}:{target.port}/api/v1", {"Authorization": f"Bearer {target.api_key}"}
        async with httpx.AsyncClient(
            base_url=base, headers=headers, trust_env=False, timeout=seconds + 60
        ) as http:
            await asyncio.gather(
                *(self._tenant(http, f"slow-names-{n}", until, target.pause_s) for n in range(self.tenants))
            )

    async def _tenant(self, http: httpx.AsyncClient, tenant: str, until: float, pause_s: float) -> None:
        event = {"tenant_id": tenant, "topic": "user.created", "data": {}}
        with contextlib.suppress(httpx.HTTPError):
            await http.put(f"/tenants/{tenant}")
            for n in range(self.webhooks):
                config = {"url": f"http://n{n}.{tenant}{slow_names.SLOW}/"}
                made = {"type": "webhook", "topics": ["*"], "config": config}
                await http.post(f"/tenants/{tenant}/destinations", json=made)
        while time.monotonic() < until:
            with contextlib.suppress(httpx.HTTPError):
                await http.post("/publish", json=event)
            await asyncio.sleep(pause_s)
