"""The judged addresses of a host, for libraries that open their own sockets.

A library is handed an address that was judged, or a connected socket; the name stays what TLS checks.
"""

from __future__ import annotations

from outpost.adapters import egress
from outpost.adapters.http import names


class Blocked(OSError):
    """The host is, or resolves to, an address that may not be spoken to."""


class Unknown(OSError):
    """The host has no address, or nobody could say."""


class Addresses:
    """Bound to the loop that first asks."""

    def __init__(self, guard: egress.Guard, lookup: names.Lookup = names.system_lookup) -> None:
        self._guard = guard
        self._lookup = lookup
        self._names: names.Names | None = None

    async def of(self, host: str) -> tuple[str, ...]:
        """Every address of `host`, all of them permitted, in the resolver's order. Raises Blocked, Unknown. The
        caller ends it at its deadline."""
        match self._guard.host(host):
            case egress.Literal(address):
                return (address,)
            case egress.Refused():
                raise Blocked
            case egress.Name(name):
                self._names = self._names or names.Names(self._guard, self._lookup)
                match await self._names.resolve(name):
                    case names.Resolved(found):
                        return found
                    case egress.Refused():
                        raise Blocked
                    case names.Unresolved():
                        raise Unknown

    def close(self) -> None:
        """Ends the threads that look names up."""
        if self._names is not None:
            self._names.close()
