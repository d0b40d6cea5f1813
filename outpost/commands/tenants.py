"""Commands on a tenant: put, delete."""

from __future__ import annotations

from outpost.commands import actor as actors
from outpost.commands import writer as writers
from outpost.domain import tenant as tenants


async def put(
    writer: writers.Writer, actor: actors.Actor, tenant: str, metadata: dict[str, str] | None, now_ms: int
) -> writers.Written:
    """Creates the tenant or replaces its metadata. Raises as `Writer.execute`."""
    done = await writer.execute(tenant, actor, lambda _: tenants.UpsertTenant(tenant, metadata, now_ms))
    assert isinstance(done, writers.Written)
    return done


async def delete(writer: writers.Writer, actor: actors.Actor, tenant: str) -> writers.Written:
    """Deletes the tenant with its destinations. Raises errors.NotFound, and as `Writer.execute`."""
    done = await writer.execute(tenant, actor, lambda _: tenants.DeleteTenant(tenant))
    assert isinstance(done, writers.Written)
    return done
