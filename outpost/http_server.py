"""uvicorn, without its own signal handling: when to stop is decided by `supervise` alone."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from outpost import errors, http_in_place

BACKLOG = 2048
KEEP_ALIVE_S = 75  # longer than the usual load balancer's 60, so that it is not us who closes first
GRACE_S = 5  # open requests may take so long at shutdown


class Server(uvicorn.Server):
    """An HTTP server on a socket that is bound already."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket (port 0: a free one). Raises errors.StartRefused."""
    try:
        return socket.create_server((host, port), backlog=BACKLOG)
    except OSError as exc:
        raise errors.StartRefused(
            f"port {port} on {host} cannot be used ({exc.strerror}); choose another with API_PORT or --port"
        ) from exc


def build(app: Any, in_place: http_in_place.Route | None = None) -> Server:
    """A server for an ASGI app, which answers `in_place` itself; `await serve(sockets=[...])` runs it until
    `should_exit`."""
    return Server(
        uvicorn.Config(
            app,
            http="httptools" if in_place is None else http_in_place.protocol_for(in_place),
            loop="none",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody asks for the address of a client
            date_header=True,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
