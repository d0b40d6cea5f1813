"""The judged addresses of a host, for libraries that open their own sockets.

A library is handed an address that was judged, or a connected socket, wherever it lets us; the name stays what TLS
checks. Both ways are here: on the event loop, and in a thread.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable

from outpost.adapters import egress
from outpost.adapters.http import names

SHORTEST_S = 0.001  # 0 would mean: do not wait at all
_EVERYTHING = egress.Guard(("0.0.0.0/0", "::/0"))


class Blocked(OSError):
    """The host is, or resolves to, an address that may not be spoken to."""


class Unknown(OSError):
    """The host has no address, or nobody could say."""


class Addresses:
    """Bound to the loop that first asks. `hosts` are names that are trusted whatever they resolve to: the
    operator's own list."""

    def __init__(
        self, guard: egress.Guard, hosts: Iterable[str] = (), lookup: names.Lookup = names.system_lookup
    ) -> None:
        self._guard = guard
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._lookup = lookup
        self._names: names.Names | None = None
        self._trusted: names.Names | None = None

    async def of(self, host: str) -> tuple[str, ...]:
        """Every address of `host`, all of them permitted, in the resolver's order. Raises Blocked, Unknown. The
        caller ends it at its deadline."""
        match self._guard.host(host):
            case egress.Literal(address):
                return (address,)
            case egress.Refused():
                raise Blocked
            case egress.Name(name):
                match await self._resolver(name).resolve(name):
                    case names.Resolved(found):
                        return found
                    case egress.Refused():
                        raise Blocked
                    case names.Unresolved():
                        raise Unknown

    def of_blocking(self, host: str) -> tuple[str, ...]:
        """The same in a thread: takes as long as the system's resolver does."""
        match self._guard.host(host):
            case egress.Literal(address):
                return (address,)
            case egress.Refused():
                raise Blocked
            case egress.Name(name):
                try:
                    found = tuple(self._lookup(name))
                except (OSError, UnicodeError):
                    raise Unknown from None
                if not found:
                    raise Unknown
                if not self.trusted(name) and not self._guard.permits_all(found):
                    raise Blocked
                return found

    def trusted(self, host: str) -> bool:
        """Whether the operator lists `host` itself (DESTINATIONS_ALLOWED_HOSTS)."""
        return host.lower().rstrip(".") in self._hosts

    def close(self) -> None:
        """Ends the threads that look names up."""
        for resolver in (self._names, self._trusted):
            if resolver is not None:
                resolver.close()

    def _resolver(self, name: str) -> names.Names:
        if self.trusted(name):
            self._trusted = self._trusted or names.Names(_EVERYTHING, self._lookup)
            return self._trusted
        self._names = self._names or names.Names(self._guard, self._lookup)
        return self._names


def connect_blocking(addresses: Iterable[str], port: int, timeout_s: float) -> socket.socket:
    """A socket connected to the first of the judged `addresses` that answers, with `timeout_s` as its time-out. An
    address that does not answer gets its share of that time while others are left. Raises OSError."""
    last: OSError = Unknown()
    given = list(addresses)
    deadline = time.monotonic() + timeout_s
    for tried, address in enumerate(given):
        share = (deadline - time.monotonic()) / (len(given) - tried)
        try:
            connected = socket.create_connection((address, port), timeout=max(share, SHORTEST_S))
        except OSError as exc:
            last = exc
        else:
            connected.settimeout(timeout_s)
            return connected
    raise last
