"""What a process is made of: the parts of each role, built from the settings.

`api` is HTTP and config catch-up, `delivery` the dispatcher, workers and scheduler, `log` the log projector
with its table partitions and the trimmer; `all` is every role in one process.
"""

from __future__ import annotations

from outpost.api import app as http_api
from outpost.process.roles import api, base, delivery, log


class Roles:
    """The roles that `settings.service` names. `health` tells how the loops of this process are."""

    def __init__(self, parts: base.Parts, health: http_api.Health) -> None:
        service = parts.settings.service
        self.all: list[base.Role] = [log.Log(parts)] if service in ("log", "all") else []
        self.api: api.Api | None = None
        if service == "log":
            return
        memory = base.Memory(parts)
        self.all.append(memory)
        if service in ("delivery", "all"):
            self.all.append(delivery.Delivery(parts, memory))
        if service in ("api", "all"):
            self.api = api.Api(parts, health, memory)
            self.all.append(self.api)
