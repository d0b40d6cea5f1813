"""How many connections the descriptors of this process allow, with some kept back for everything else.

A server without descriptors can neither accept a health check nor deliver, so clients never get them all.
"""

from __future__ import annotations

import resource

from outpost import telemetry
from outpost.process.http_server import connections
from outpost.settings import Settings

KEPT_BACK = 128  # for stores, look-ups, files and libraries


def raise_limit() -> int:
    """Raises the soft limit of open descriptors to the hard one, as far as it can be; the limit from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # such as a hard limit beyond what the system allows one process
        return soft
    return hard


def max_connections(settings: Settings, limit: int) -> int:
    """API_MAX_CONNECTIONS, or less where `limit` descriptors do not suffice for it and for what is kept back: the
    send slots and `KEPT_BACK`, half of all at most."""
    sending = settings.delivery_max_concurrency if settings.service in ("all", "delivery") else 0
    kept_back = min(limit // 2, sending + KEPT_BACK)
    allowed = max(1, limit - kept_back - connections.MAX_SPARE)
    if allowed < settings.api_max_connections:
        telemetry.emit("connections_lowered", "warning", descriptors=limit, connections=allowed)
    return min(allowed, settings.api_max_connections)
