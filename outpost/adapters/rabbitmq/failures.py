"""What came of a message, by our code and the broker's words."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence

from aiormq import exceptions

from outpost.adapters import base, codes
from outpost.adapters.egress import addresses as judged
from outpost.adapters.http import failures
from outpost.adapters.shared import answers, tls_faults
from outpost.domain import delivery

CONNECTION_FORCED, ACCESS_REFUSED = 320, 403  # AMQP's reply codes
NOT_TAKEN = "the broker did not take the message (basic.nack): a queue is full, or failed"
BLOCKED = "the broker takes no messages for now (connection.blocked): {}"
# Words of RabbitMQ since 3.7; the size is that of the body.
_TOO_LARGE = re.compile(r"message size (\d+) (?:is )?larger than")


class Blocked(Exception):
    """The broker has said that it takes no messages for now, and why."""

    def __init__(self, reason: str) -> None:
        super().__init__(BLOCKED.format(reason or "no reason given"))


def failed(
    exc: Exception, event: base.Delivery, secrets: Sequence[str], *, final: bool = False
) -> delivery.Failed:
    """The outcome of `event` where `exc` came of it; `final` as codes.failed has it."""
    code, text = reason(exc, event.topic)
    return codes.failed(code, text, secrets, final=final)


def too_large(exc: Exception) -> int | None:
    """The size (bytes) that the broker names where it closed a channel over a message that is too large."""
    found = _TOO_LARGE.search(words(exc)) if isinstance(exc, exceptions.ChannelPreconditionFailed) else None
    return int(found[1]) if found else None


def words(exc: Exception) -> str:
    """What the broker said, without the code that stands in the class or before it."""
    return " ".join(str(arg) for arg in exc.args if isinstance(arg, str))


def reason(exc: Exception, routing_key: str = "") -> tuple[codes.Code, str]:
    """Our code for `exc` and the broker's words, which may hold secrets. `routing_key`: of what was published."""
    if (too_much := answers.reason(exc)) is not None:
        return too_much
    match exc:
        case judged.Blocked():
            return codes.Code.BLOCKED_ADDRESS, ""
        case judged.Unknown():
            return codes.Code.DNS_ERROR, ""
        case Blocked():
            return codes.Code.THROTTLED, str(exc)
        case exceptions.PublishError():
            return codes.Code.UNROUTABLE, f"{exc.args[0]}: no queue for {routing_key!r}"
        case exceptions.DeliveryError():
            return codes.Code.THROTTLED, NOT_TAKEN
        case exceptions.AMQPChannelError():
            return _of_channel(exc), words(exc)
        case exceptions.AMQPConnectionError() | exceptions.AMQPError():
            return _of_connection(exc), words(exc)
        case TimeoutError():
            return codes.Code.TIMEOUT, ""
        case ssl.SSLError():
            return codes.Code.TLS_ERROR, tls_faults.reason(exc)
        case OSError():
            return codes.Code(failures.code_of(exc)), str(exc)
        case RuntimeError() if type(exc) is RuntimeError:  # closed meanwhile
            return codes.Code.CONNECTION_RESET, ""
        case _:
            return codes.Code.RABBITMQ_ERROR, type(exc).__name__


def _of_channel(exc: exceptions.AMQPChannelError) -> codes.Code:
    match exc:
        case exceptions.ChannelAccessRefused():
            return codes.Code.ACCESS_DENIED
        case exceptions.ChannelNotFoundEntity():
            return codes.Code.EXCHANGE_NOT_FOUND
        case exceptions.ChannelPreconditionFailed() if too_large(exc) is not None:
            return codes.Code.MESSAGE_TOO_LARGE
        case _:
            return codes.Code.CHANNEL_ERROR


def _of_connection(exc: exceptions.AMQPError) -> codes.Code:
    reply = exc.args[0] if exc.args else None
    match exc:
        case exceptions.AuthenticationError() | exceptions.ProbableAuthenticationError():
            return codes.Code.AUTH_FAILED
        case exceptions.ConnectionNotAllowed():  # a virtual host that is not there, or not for this user
            return codes.Code.ACCESS_DENIED
        case exceptions.ConnectionChannelError():
            return codes.Code.CHANNEL_ERROR
        case exceptions.ConnectionClosed() if reply == CONNECTION_FORCED:
            return codes.Code.CONNECTION_FORCED
        case exceptions.ConnectionClosed() if reply == ACCESS_REFUSED:  # while logging in
            return codes.Code.AUTH_FAILED
        case exceptions.ConnectionClosed() | exceptions.IncompatibleProtocolError():
            return codes.Code.RABBITMQ_ERROR
        case exceptions.AMQPConnectionError():
            return codes.Code.CONNECTION_RESET
    return codes.Code.RABBITMQ_ERROR
