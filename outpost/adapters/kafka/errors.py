"""What went wrong at a broker, as one exception with our code and the provider's text.

aiokafka hides causes behind errors of its own and knows only some of the protocol's numbers, so both are looked
through here; what leaves is a `Failure`, raised from its cause.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Mapping

from aiokafka import errors as theirs

from outpost.adapters import codes
from outpost.adapters.egress import addresses
from outpost.adapters.shared import answers, tls_faults

NONE = 0
UNKNOWN_TOPIC = 3
NOT_LEADER = 6
NOT_AVAILABLE = 5  # LEADER_NOT_AVAILABLE: no leader now, as just after a topic was made
_CODES: Mapping[int, codes.Code] = {
    3: codes.Code.TOPIC_NOT_FOUND,  # UNKNOWN_TOPIC_OR_PARTITION
    17: codes.Code.TOPIC_NOT_FOUND,  # INVALID_TOPIC: no topic can have this name
    7: codes.Code.TIMEOUT,  # REQUEST_TIMED_OUT: the replicas did not confirm in time
    10: codes.Code.MESSAGE_TOO_LARGE,
    18: codes.Code.MESSAGE_TOO_LARGE,  # RECORD_LIST_TOO_LARGE
    29: codes.Code.ACCESS_DENIED,  # TOPIC_AUTHORIZATION_FAILED
    31: codes.Code.ACCESS_DENIED,  # CLUSTER_AUTHORIZATION_FAILED
    33: codes.Code.AUTH_FAILED,  # UNSUPPORTED_SASL_MECHANISM
    34: codes.Code.AUTH_FAILED,  # ILLEGAL_SASL_STATE
    58: codes.Code.AUTH_FAILED,  # SASL_AUTHENTICATION_FAILED
    89: codes.Code.THROTTLED,  # THROTTLING_QUOTA_EXCEEDED
}
_UNKNOWN_TO_AIOKAFKA = {74: "FENCED_LEADER_EPOCH", 87: "INVALID_RECORD", 89: "THROTTLING_QUOTA_EXCEEDED"}
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})
# How much a failure says, where several brokers fail in different ways: who answered says more than who did not.
_SAYS_LITTLE = (
    codes.Code.CONNECTION_REFUSED,
    codes.Code.CONNECTION_RESET,
    codes.Code.TIMEOUT,
    codes.Code.NETWORK_UNREACHABLE,
    codes.Code.NETWORK_ERROR,
    codes.Code.DNS_ERROR,
    codes.Code.BLOCKED_ADDRESS,
)


class Failure(Exception):
    """Stays inside the Kafka modules. `number` is Kafka's own, if a broker answered with one."""

    def __init__(self, code: codes.Code, text: str, number: int = NONE) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.number = number


def answered(number: int) -> Failure:
    """The failure that a broker's error number means."""
    known = theirs.kafka_errors.get(number)
    name = _UNKNOWN_TO_AIOKAFKA.get(number) or (known.message if known is not None else "error")
    return Failure(_CODES.get(number, codes.Code.KAFKA_ERROR), f"{name} ({number})", number)


def met(exc: Exception, broker: str) -> Failure:
    """The failure that `exc`, met while speaking to `broker`, comes from."""
    cause = exc.__cause__ if isinstance(exc, theirs.KafkaConnectionError) else None
    match cause or exc:
        case Failure() as failure:
            return failure
        case theirs.BrokerResponseError() as answer:
            told = answered(answer.errno)
            detail = next((each for each in answer.args if isinstance(each, str) and each), "")[: codes.MOST_TEXT]
            return Failure(told.code, f"{told.text}: {detail}" if detail else told.text, told.number)
        case addresses.Blocked():
            return Failure(codes.Code.BLOCKED_ADDRESS, f"{broker} is at an address that is not permitted")
        case addresses.Unknown():
            return Failure(codes.Code.DNS_ERROR, f"{broker} has no address")
        case answers.AnswerTooLarge() as too_large:
            return Failure(codes.Code.ANSWER_TOO_LARGE, f"{broker}: {too_large}")
        case ssl.SSLError() as fault:
            return Failure(codes.Code.TLS_ERROR, f"{broker}: {tls_faults.reason(fault)}")
        case OSError() | EOFError() as fault:
            return Failure(_of_network(fault), f"{broker}: {str(fault) or type(fault).__name__}")
        case theirs.KafkaConnectionError():
            return Failure(codes.Code.CONNECTION_RESET, f"{broker} closed the connection")
        case RuntimeError() as fault if type(fault) is RuntimeError:  # of uvloop's: lost in this turn of the loop
            return Failure(codes.Code.CONNECTION_RESET, f"{broker} closed the connection")
        case other:  # its text may quote what it could not read
            return Failure(codes.Code.KAFKA_ERROR, f"{broker} gave no answer to be read: {type(other).__name__}")


def most_telling(failures: list[Failure]) -> Failure:
    """The one of several brokers' that says most."""
    return min(failures, key=lambda each: _SAYS_LITTLE.index(each.code) if each.code in _SAYS_LITTLE else -1)


def _of_network(fault: OSError | EOFError) -> codes.Code:
    match fault:
        case ssl.SSLError():
            return codes.Code.TLS_ERROR
        case TimeoutError():
            return codes.Code.TIMEOUT
        case ConnectionRefusedError():
            return codes.Code.CONNECTION_REFUSED
        case ConnectionError() | EOFError():
            return codes.Code.CONNECTION_RESET
        case OSError(errno=number) if number in _UNREACHABLE:
            return codes.Code.NETWORK_UNREACHABLE
        case _:
            return codes.Code.NETWORK_ERROR
