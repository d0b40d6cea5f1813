"""The judged addresses of a host, for libraries that open their own sockets.

A library is handed an address that was judged, or a connected socket; the name stays what TLS checks.
"""

from __future__ import annotations

from outpost.adapters.egress import guard as egress
from outpost.adapters.egress import names


class Blocked(OSError):
    """The host is, or resolves to, an address that may not be spoken to."""


class Unknown(OSError):
    """The host has no address, or nobody could say."""


class Addresses:
    """`known` are the names that a process shares; where there are none, it has its own."""

    def __init__(
        self,
        guard: egress.Guard,
        lookup: names.Lookup = names.system_lookup,
        *,
        known: names.Names | None = None,
        tenant: str = "",
    ) -> None:
        self._guard = guard
        self._names = known or names.Names(guard, lookup)
        self._tenant = tenant

    def for_tenant(self, tenant: str) -> Addresses:
        """The same, where names are looked up on account of `tenant`."""
        return Addresses(self._guard, known=self._names, tenant=tenant)

    def refuses(self, host: str) -> bool:
        """Whether `host` is itself an address that may not be spoken to. Of a name that is never said: what it
        resolves to may be another address the next time."""
        return isinstance(self._guard.host(host), egress.Refused)

    async def of(self, host: str) -> tuple[str, ...]:
        """Every address of `host`, all of them permitted, in the resolver's order. Raises Blocked, Unknown. The
        caller ends it at its deadline."""
        match self._guard.host(host):
            case egress.Literal(address):
                return (address,)
            case egress.Refused():
                raise Blocked
            case egress.Name(name):
                match await self._names.resolve(name, self._tenant):
                    case names.Resolved(found):
                        return found
                    case egress.Refused():
                        raise Blocked
                    case names.Unresolved():
                        raise Unknown

    def close(self) -> None:
        """Ends the threads that look names up."""
        self._names.close()
