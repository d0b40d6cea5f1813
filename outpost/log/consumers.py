"""Names in the consumer group: leased, so that a dead process's name, with what is pending under it, is taken over
by the next one instead of leaking."""

from __future__ import annotations

from outpost.log import client

LEASE_MS = 30_000
RENEW_MS = 10_000

_SCRIPT = client.load_script("lease_name")


async def lease_name(log: client.Log, holder: str, name: str = "") -> str | None:
    """The first free name, or `name` again; None if `name` has passed to another holder.
    Raises errors.StoreUnavailable."""
    reply = (await log.call(_SCRIPT, [((log.keys.slots,), (holder, LEASE_MS, name))]))[0]
    return None if reply is None else reply.decode()


async def release_name(log: client.Log, name: str) -> None:
    """Gives a name back at once. Raises errors.StoreUnavailable."""
    await log.command("HDEL", log.keys.slots, name)
