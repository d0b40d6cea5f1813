"""A resolver for servers under test: names below `slow.test` take long to fail, those below `good.test` are found.

It takes the place of `socket.getaddrinfo` in the process in which `install` is called, since the name servers of
the machine are not ours to change. All other names go where they went.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

SLOW, GOOD = ".slow.test", ".good.test"
SECONDS = 10.0  # what a dead name server takes with the usual resolv.conf


def install(wait: Callable[[float], object] = time.sleep) -> None:
    """Replaces the resolver of this process. `wait` blocks for so many seconds."""
    socket.getaddrinfo = resolver(wait)


def resolver(wait: Callable[[float], object] = time.sleep) -> Callable[..., list[Any]]:
    """What takes the place of `socket.getaddrinfo`."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
        if isinstance(host, str) and host.endswith(SLOW):
            wait(SECONDS)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if isinstance(host, str) and host.endswith(GOOD):
            host = "127.0.0.1"
        return real(host, port, *args, **options)

    return getaddrinfo
