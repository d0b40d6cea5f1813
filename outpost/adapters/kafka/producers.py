"""The number by which a cluster knows us as a producer, and tells a batch that comes again from a new one."""

from __future__ import annotations

import asyncio

from aiokafka import errors as theirs
from aiokafka.protocol import transaction

from outpost.adapters.kafka import batch as kafka_batch
from outpost.adapters.kafka import errors as kafka_errors
from outpost.adapters.kafka import wire as kafka_wire

TIMEOUT_OF_TRANSACTIONS_MS = (1 << 31) - 1  # there are none
# REQUEST_TIMED_OUT, COORDINATOR_LOAD_IN_PROGRESS, _NOT_AVAILABLE, NOT_COORDINATOR, THROTTLING_QUOTA_EXCEEDED
PASSING = frozenset({7, 14, 15, 16, 89})


class Producers:
    """Of one publisher. The number outlives connections and leaders, until the brokers do not know it any more."""

    def __init__(self) -> None:
        self._refused = False  # the cluster gives none to us
        self._producer: kafka_batch.Producer | None = None
        self._asking = asyncio.Lock()

    async def get(self, connection: kafka_wire.Connection) -> kafka_batch.Producer | None:
        """The number, asked for if need be; None where the broker gives none: an old one, one that wants a right
        for it that the tenant lacks, or one that only speaks the protocol. Raises kafka_errors.Failure."""
        if self._refused or self._producer is not None:
            return self._producer
        async with self._asking:
            if not self._refused and self._producer is None:
                self._producer = await self._asked(connection)
        return self._producer

    def forget(self, producer: kafka_batch.Producer | None) -> None:
        """Another one is needed, if this is still the one."""
        if self._producer == producer:
            self._producer = None

    async def _asked(self, connection: kafka_wire.Connection) -> kafka_batch.Producer | None:
        try:
            request = transaction.InitProducerIdRequest(None, TIMEOUT_OF_TRANSACTIONS_MS)
            answer = await connection.ask(request)
        except kafka_errors.Failure as failure:
            if not isinstance(failure.__cause__, (theirs.IncompatibleBrokerVersion, NotImplementedError)):
                raise
            self._refused = True
            return None
        if answer.error_code == kafka_errors.NONE:
            return answer.producer_id, answer.producer_epoch
        self._refused = answer.error_code not in PASSING
        return None
