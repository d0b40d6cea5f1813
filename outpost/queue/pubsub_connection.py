"""The connection of a queue on Pub/Sub: which service it is, and as whom it is called.

The operator's key, as JSON or in a file, or else the application default credentials; an emulator gets none.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
from pathlib import Path

from outpost.adapters.gcp import calls as gcp_calls
from outpost.adapters.gcp import default_tokens
from outpost.adapters.gcp import key as gcp_key
from outpost.adapters.gcp import type as destination_type
from outpost.queue import operator, polls
from outpost.settings import queues

PULL_MESSAGES = 64
MAX_ANSWER_BYTES = 33_554_432  # of messages; a single one fits
KEEPALIVE_MS = 30_000  # a connection that is dead shows within this and ten seconds
MAX_KEY_FILE_BYTES = 65_536
EMULATOR = "PUBSUB_EMULATOR_HOST"

_CREDENTIALS = "GCP_PUBSUB_SERVICE_ACCOUNT_CREDENTIALS"


class Unusable(Exception):
    """What this process was given cannot be used; the sentence says which."""


class Connection:
    """What `prepare` opens and `close` ends."""

    def __init__(
        self,
        library: gcp_calls.Library,
        service: gcp_calls.Service,
        tokens: gcp_calls.Tokens | None,
        threads: concurrent.futures.Executor,
        ask: polls.Ask,
    ) -> None:
        from google.protobuf import empty_pb2

        self.library = library
        self.empty = empty_pb2.Empty
        self.pull, self.pulled = library.pubsub.PullRequest.pb(), library.pubsub.PullResponse.pb()
        self.polls = polls.Polls(ask, PULL_MESSAGES)
        self._known = operator.known_addresses()
        self._threads = threads
        # 0: any number of pings, since a call that waits for messages sends nothing meanwhile
        options = {"max_answer_bytes": MAX_ANSWER_BYTES, "keepalive_ms": KEEPALIVE_MS, "pings_without_data": 0}
        self.calls = gcp_calls.Calls(library, self._known, service, tokens, **options)
        # Calls that wait have a channel of their own: a send that is cut off takes its channel with it.
        self.pulls = gcp_calls.Calls(library, self._known, service, tokens, **options)

    async def close(self) -> None:
        """Cuts off what is under way."""
        await self.pulls.close()
        await self.calls.close()
        self._known.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


async def connected(named: queues.PubSub, ask: polls.Ask) -> Connection:
    """Not connected yet. Raises Unusable."""
    threads = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="outpost-pubsub")
    try:
        loop = asyncio.get_running_loop()
        library = await loop.run_in_executor(threads, gcp_calls.load)
        service = destination_type.GOOGLE
        tokens: gcp_calls.Tokens | None = None
        if host := os.environ.get(EMULATOR):
            service = _emulator(host)
        elif named.credentials:
            variable = _CREDENTIALS if named.prefix.startswith("GCP") else f"PUBLISH_{_CREDENTIALS}"
            tokens = await loop.run_in_executor(threads, _tokens, named.credentials, variable)
        else:
            tokens = default_tokens.DefaultTokens(threads)
        return Connection(library, service, tokens, threads, ask)
    except BaseException:
        threads.shutdown(wait=False, cancel_futures=True)
        raise


def _emulator(host: str) -> gcp_calls.Service:
    found = destination_type.parse_endpoint(host)
    if found is None:
        raise Unusable(f"{EMULATOR} must be host:port")
    return found


def _tokens(told: str, variable: str) -> gcp_key.Tokens:
    """Of a key, or of the file with one; in a thread."""
    text = told
    if not told.lstrip().startswith("{"):
        try:
            with Path(told).open("rb") as file:
                text = file.read(MAX_KEY_FILE_BYTES).decode(errors="replace")
        except (OSError, ValueError):
            raise Unusable(f"{variable} names no file that can be read, and is no JSON") from None
    broken = gcp_key.check(text)
    key = gcp_key.parse(text)
    if isinstance(key, list) or broken:
        raise Unusable("; ".join(f"{variable} {gcp_key.RULES[rule] or _UNTOLD}" for rule in broken))
    return gcp_key.Tokens(key, destination_type.AUDIENCE)


_UNTOLD = "must be the JSON of a service account's key"
