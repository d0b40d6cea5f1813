"""The sockets that the HTTP server listens on: one for a process of its own, or a port shared by several."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator

from outpost import errors

BACKLOG = 2048  # connections that the kernel keeps until we accept them
# Linux spreads connections over the sockets of a port; elsewhere several processes accept from one.
REUSE_PORT = sys.platform == "linux"


def bind(host: str, port: int) -> socket.socket:
    """A listening socket (port 0: a free one). `::` is every address of both families. Raises
    errors.StartRefused."""
    with _refused(host, port):
        sock = _bound(host, port, exclusive=True)
        sock.listen(BACKLOG)
        return sock


def url_of(listening: socket.socket) -> str:
    """Where this machine reaches it: by loopback if it listens on every address."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class SharedPort:
    """A port (0: a free one) that several processes of ours serve, held for them as long as this is open. Nothing
    reaches a process that does not listen yet. Raises errors.StartRefused, from `socket` too."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        if not REUSE_PORT:
            self._held = bind(host, port)
        else:
            with _refused(host, port):
                # What only holds a port does not listen, so that this fails only where another server does.
                _bound(host, port, exclusive=True).close()
                self._held = _bound(host, port)
        self.number: int = self._held.getsockname()[1]

    def socket(self) -> socket.socket:
        """The socket of one process, which is to call `listen`."""
        with _refused(self._host, self.number):
            return _bound(self._host, self.number) if REUSE_PORT else self._held.dup()

    def close(self) -> None:
        """Gives the port up. Harmless when repeated."""
        self._held.close()


def _bound(host: str, port: int, *, exclusive: bool = False) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
        0
    ]
    sock = socket.socket(family, kind)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not exclusive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:  # `::` takes IPv4, too, whatever the system's default is
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _refused(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise errors.StartRefused(
            f"port {port} on {host} cannot be used ({exc.strerror}); choose another with API_PORT or --port, "
            "or another address with API_HOST or --host"
        ) from exc
