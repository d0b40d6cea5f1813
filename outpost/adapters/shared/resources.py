"""What the destination types of a process share: settings, names and addresses, the HTTP client, threads.

Nothing is opened before it is used; `close` ends all.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import importlib
import sys

from outpost import collecting
from outpost import settings as settings_
from outpost.adapters.egress import addresses, names
from outpost.adapters.egress import guard as egress
from outpost.adapters.http import client as clients
from outpost.adapters.http import protocol_client
from outpost.adapters.shared import trust, turns


class Shared:
    """Raises errors.ConfigurationError where an allowed network is none."""

    def __init__(self, settings: settings_.Settings) -> None:
        self.settings = settings
        self.aws_builds = turns.Turns()  # of clients, which botocore builds one at a time
        self._imported: set[str] = set()
        self.guard = egress.Guard(settings.destinations_allowed_cidrs, settings.destinations_allowed_hosts)
        self.names = names.Names(self.guard)
        self.addresses = addresses.Addresses(self.guard, known=self.names)
        self.http: clients.Client = protocol_client.ProtocolClient(
            self.guard,
            self.names,
            max_body_bytes=settings.webhook_max_response_body_bytes,
            connections=settings.delivery_max_concurrency,
            trust=trust.http(settings.destinations_ca_file),
        )

    @property
    def timeout_s(self) -> float:
        """Of one attempt."""
        return self.settings.delivery_timeout_ms / 1000

    @property
    def ca_file(self) -> str:
        """Authorities of the operator's, beside those of the system; "" for none."""
        return self.settings.destinations_ca_file

    @functools.cached_property
    def threads(self) -> concurrent.futures.ThreadPoolExecutor:
        """For libraries that block: as many threads as there are send slots, made as they are needed, so that
        destinations that do not answer hold no more than their share."""
        return concurrent.futures.ThreadPoolExecutor(
            self.settings.delivery_max_concurrency, thread_name_prefix="outpost-send"
        )

    async def imported(self, module: str) -> None:
        """Imports a module that brings a library with it. The first time that takes up to a second, in which
        nothing else would run, so it happens in a thread."""
        if module not in self._imported:
            if module not in sys.modules:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self.threads, importlib.import_module, module)
                collecting.leave_out_what_is_loaded()
            self._imported.add(module)

    async def close(self) -> None:
        """Ends what was opened; threads that still wait for a service end with their time-outs."""
        await self.http.close()
        self.names.close()
        if "threads" in self.__dict__:
            self.threads.shutdown(wait=False, cancel_futures=True)
