"""The words by which attempts name what went wrong: one table for all types, stable for clients.

HTTP types name an answer by its status instead. What trying again cannot help is told here as well.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from outpost.adapters.shared import redaction
from outpost.domain import delivery

OK = "OK"  # the code of a success, where there is no HTTP status
MOST_TEXT = 1_024  # characters of a provider's own text that are kept
MAX_READ_CHARACTERS = 8_192  # of a provider's own text that are looked at: white space is taken out of it


class Code(enum.StrEnum):
    """The code of a failed attempt."""

    ERR = "ERR"  # nothing more is known than the provider's text
    ERROR = "ERROR"  # hookdeck: no answer at all

    # reaching the service
    BLOCKED_ADDRESS = "blocked_address"
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_RESET = "connection_reset"
    DNS_ERROR = "dns_error"
    EARLY_ANSWER = "early_answer"  # HTTP types
    NETWORK_UNREACHABLE = "network_unreachable"
    NETWORK_ERROR = "network_error"
    TIMEOUT = "timeout"
    TLS_ERROR = "tls_error"

    # what the service says
    ACCESS_DENIED = "access_denied"
    INVALID_CREDENTIALS = "invalid_credentials"
    AUTH_FAILED = "auth_failed"  # rabbitmq, kafka
    TARGET_NOT_FOUND = "target_not_found"
    EXCHANGE_NOT_FOUND = "exchange_not_found"  # rabbitmq
    TOPIC_NOT_FOUND = "topic_not_found"  # kafka
    UNROUTABLE = "unroutable"
    MESSAGE_TOO_LARGE = "message_too_large"
    MESSAGE_REFUSED = "message_refused"  # it takes no such message, whoever sends it how often
    ENCRYPTION_KEY_UNUSABLE = "encryption_key_unusable"  # AWS: the key of KMS that it encrypts with
    ANSWER_TOO_LARGE = "answer_too_large"  # it says more than is read from it
    THROTTLED = "throttled"
    CHANNEL_ERROR = "channel_error"  # rabbitmq
    CONNECTION_FORCED = "connection_forced"  # rabbitmq
    RABBITMQ_ERROR = "rabbitmq_error"
    KAFKA_ERROR = "kafka_error"


NOT_RETRIED = frozenset({Code.MESSAGE_TOO_LARGE, Code.MESSAGE_REFUSED})
UNFORMATTED = delivery.Failed(Code.ERR, {"error": "could not format event for delivery"})


def failed(code: Code, text: str = "", secrets: Iterable[str] = (), *, final: bool = False) -> delivery.Failed:
    """The outcome of `code`. `text` is the provider's own: `secrets` are taken out of it, and its length is
    bounded; nothing is kept of an empty one. `final`: trying again cannot help, as the destination's config has
    an address that may not be spoken to; what a resolver said of a name may change."""
    response: dict[str, object] | None = {"error": cleaned(text, secrets)} if text else None
    return delivery.Failed(code.value, response, retryable=not final and code not in NOT_RETRIED)


def cleaned(text: str, secrets: Iterable[str]) -> str:
    """`text` without `secrets`, in one line, cut to `MOST_TEXT` characters. Of a longer text only the first
    `MAX_READ_CHARACTERS` are looked at."""
    kept = redaction.of(tuple(secrets)).cut(text, MAX_READ_CHARACTERS, words=True)
    return " ".join(kept.split())[:MOST_TEXT]
