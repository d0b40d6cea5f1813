"""What must be true when everything has come to rest: every entry once in the log tables, nothing live, nothing
pending, and every acknowledged event seen by its receiver.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Self

import asyncpg

from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.operator import inspect
from outpost.log.redis import client
from tests.harness import node as nodes
from tests.harness import servers
from tests.harness.polling import eventually
from tests.harness.toxic import Toxic

SCHEMA = "outpost"
LIMIT_S = 60.0


class Counts:
    """Looks at the stores beside the processes under test."""

    def __init__(self, redis: servers.RedisServer | Toxic, postgres_url: str) -> None:
        self.log = client.open_log(client.RedisAddress(redis.host, redis.port))
        self._url = postgres_url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.log.close()

    async def rest(self, limit: float = LIMIT_S) -> None:
        """Waits until everything is delivered, recorded and projected."""
        await nodes.quiet(self.log, limit)

        async def projected() -> bool:
            added = await self.added()
            return added["evt"] == await self._logged("evt", "event") and added["dlv"] == await self._logged(
                "dlv", "attempt", "delivery_change"
            )

        await eventually(projected, limit)

    async def added(self) -> dict[str, int]:
        """Entries ever added to each stream, over all partitions (`entries-added` of the server)."""
        totals: dict[str, int] = dict.fromkeys(partitions.STREAMS, 0)
        for keys in self.log.keys.partitions:
            for stream in partitions.STREAMS:
                if await self.log.command("EXISTS", keys.stream(stream)):
                    info = await self.log.command("XINFO", "STREAM", keys.stream(stream))
                    totals[stream] += info["entries-added"]
        return totals

    async def live(self) -> dict[str, int]:
        """Entries that are in each stream now, over all partitions."""
        totals: dict[str, int] = dict.fromkeys(partitions.STREAMS, 0)
        for keys in self.log.keys.partitions:
            for stream in partitions.STREAMS:
                totals[stream] += await self.log.command("XLEN", keys.stream(stream))
        return totals

    async def assert_trimmed_is_logged(self) -> None:
        """L5: entries added = entries in the stream and rows of those that were trimmed; `cfg` is whole."""
        rows = {"evt": await self._places("event"), "dlv": await self._places("attempt", "delivery_change")}
        for state in await inspect.streams(self.log):
            if state.stream == "cfg":
                assert state.added == state.length
                continue
            # The first entry that is there, or where the next one will stand.
            first = positions.entry_key((state.first or state.last).rsplit(".", 1)[1])
            edge = first if state.first else (first[0], first[1] + 1)
            gone = [key for p, *key in rows[state.stream] if p == state.partition and tuple(key) < edge]
            assert state.added == len(gone) + state.length, state
            logged = sum(p == state.partition for p, *_ in rows[state.stream])
            assert state.added == logged, state

    async def _places(self, *views: str) -> list[tuple[Any, ...]]:
        ms = "(extract(epoch FROM accepted_at) * 1000)::bigint"
        return [row for view in views for row in await self.sql(f"SELECT partition, {ms}, seq FROM {view}")]

    async def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of a statement."""
        connection = await asyncpg.connect(self._url, timeout=60, server_settings={"search_path": SCHEMA})
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    async def _logged(self, stream: str, *views: str) -> int:
        """Entries of a stream that are rows, of the log tables or of those that could not be written."""
        counts = [f"SELECT count(*) AS n FROM {view}" for view in views]
        counts.append(f"SELECT count(*) FROM log_rejected WHERE stream = '{stream}'")
        [(rows,)] = await self.sql(f"SELECT sum(n)::bigint FROM ({' UNION ALL '.join(counts)}) AS counted")
        return rows

    async def assert_exact(self, acknowledged: Iterable[str], requests: Iterable[Any]) -> None:
        """After `rest`: nothing lost, nothing twice in the log. `requests` are what the receivers saw."""
        acknowledged = set(acknowledged)
        twice = "SELECT {0} FROM {1} GROUP BY {0} HAVING count(*) > 1"
        assert [] == await self.sql(twice.format("tenant_id, event_id", "event"))
        attempt = "tenant_id, event_id, destination_id, attempt_number"
        assert [] == await self.sql(twice.format(attempt, "attempt"))
        stored = {id_ for (id_,) in await self.sql("SELECT event_id FROM event")}
        assert acknowledged <= stored, "acknowledged and not in the log"
        seen = {request.headers["x-outpost-event-id"] for request in requests}
        assert stored == seen, "in the log and not at the receiver, or the other way round"
        contiguous = await self.sql(
            "SELECT event_id FROM attempt GROUP BY tenant_id, event_id, destination_id"
            " HAVING count(*) <> max(attempt_number) OR min(attempt_number) <> 1"
        )
        assert [] == contiguous
        assert {} == await nodes.due(self.log)
        assert 0 == await nodes.pending(self.log)

    async def deliveries(self, status: str) -> int:
        """How many deliveries have exactly one logged attempt with this status."""
        rows = await self.sql(
            f"SELECT event_id FROM attempt WHERE status = '{status}'"
            " GROUP BY tenant_id, event_id, destination_id HAVING count(*) = 1"
        )
        return len(rows)


def doubles(requests: Iterable[Any]) -> dict[str, int]:
    """The event ids that a receiver saw more often than once."""
    counted = Counter(request.headers["x-outpost-event-id"] for request in requests)
    return {id_: times for id_, times in counted.items() if times > 1}
