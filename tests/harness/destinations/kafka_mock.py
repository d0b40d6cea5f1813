"""librdkafka's mock cluster, out of the confluent-kafka wheel: brokers on the wire that fail as they are told.

It gives out producer numbers and checks sequences, as Tansu does not; it knows neither logins nor TLS. It runs in
threads of this process.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any, Self

PRODUCE, METADATA, INIT_PRODUCER = 0, 3, 22
ERROR_BYTES = 512
PRODUCER = 0
_P, _S, _I, _I32, _I16 = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int32, ctypes.c_int16
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "rd_kafka_conf_new": (_P, []),
    "rd_kafka_new": (_P, [_I, _P, _S, ctypes.c_size_t]),
    "rd_kafka_destroy": (None, [_P]),
    "rd_kafka_mock_cluster_new": (_P, [_P, _I]),
    "rd_kafka_mock_cluster_destroy": (None, [_P]),
    "rd_kafka_mock_cluster_bootstraps": (_S, [_P]),
    "rd_kafka_mock_topic_create": (_I, [_P, _S, _I, _I]),
    "rd_kafka_mock_topic_set_error": (None, [_P, _S, _I]),
    "rd_kafka_mock_partition_set_leader": (_I, [_P, _S, _I32, _I32]),
    "rd_kafka_mock_push_request_errors_array": (None, [_P, _I16, ctypes.c_size_t, ctypes.POINTER(_I)]),
    "rd_kafka_mock_clear_request_errors": (None, [_P, _I16]),
    "rd_kafka_mock_broker_set_rtt": (_I, [_P, _I32, _I]),
}


class Mock:
    """A cluster of `brokers`, numbered from 1."""

    def __init__(self, brokers: int = 1) -> None:
        self._brokers = brokers

    @classmethod
    def missing(cls) -> str:
        return "" if importlib.util.find_spec("confluent_kafka") else "pip install confluent-kafka"

    def __enter__(self) -> Self:
        self._library = _library()
        error = ctypes.create_string_buffer(ERROR_BYTES)
        self._client = self._library.rd_kafka_new(PRODUCER, self._library.rd_kafka_conf_new(), error, ERROR_BYTES)
        assert self._client, error.value
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, self._brokers)
        self.bootstrap: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        self.port = int(self.bootstrap.partition(",")[0].rpartition(":")[2])
        return self

    def __exit__(self, *_: object) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)

    def topic(self, name: str, partitions: int = 1) -> None:
        """Makes a topic, its partitions led by the brokers in turn."""
        self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, self._brokers)

    def topic_error(self, name: str, number: int) -> None:
        """The topic's error in metadata; 0 for none."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, name.encode(), number)

    def lead(self, name: str, partition: int, broker: int) -> None:
        """The broker that leads a partition; -1 for none."""
        self._library.rd_kafka_mock_partition_set_leader(self._cluster, name.encode(), partition, broker)

    def fail(self, api: int, *numbers: int) -> None:
        """The next requests of this kind are answered so; 0 is a success between."""
        array = (ctypes.c_int * len(numbers))(*numbers)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, api, len(numbers), array)

    def forgive(self, api: int) -> None:
        """What `fail` said and was not answered yet is forgotten."""
        self._library.rd_kafka_mock_clear_request_errors(self._cluster, api)

    def delay(self, broker: int, ms: int) -> None:
        """How long this broker takes for every answer."""
        self._library.rd_kafka_mock_broker_set_rtt(self._cluster, broker, ms)


def _library() -> Any:
    found = importlib.util.find_spec("confluent_kafka")
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    beside = (package.parent / "confluent_kafka.libs", package / ".dylibs")
    [path] = [path for folder in beside for path in folder.glob("librdkafka*")]
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
