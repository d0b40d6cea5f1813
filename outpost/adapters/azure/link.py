"""One sender of azure-servicebus on a connection to a judged address, and what its errors are called.

The library resolves names itself, so its `custom_endpoint_address` is the judged address; the context that it gets
shakes hands under the name all the same. Its retries and its keep-alive task are off, and its environment variable
for tracing is not read. It forgets a connection that breaks while it opens, and tells nobody that one is lost, so
the connection is watched here, which is what the private names are for. Two sends must not use a link at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import ssl
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from outpost import collecting
from outpost.adapters.azure import connection_string as servicebus_string
from outpost.adapters.codes import Code
from outpost.adapters.egress import addresses, connecting
from outpost.adapters.http import failures
from outpost.adapters.shared import answers, tls_faults, tracebacks

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch
    from azure.servicebus.aio import ServiceBusSender

READ_AHEAD_BYTES = 262_144  # what a connection that is given up may have received
_ATTACHED = 3  # the library's LinkState.ATTACHED
_NEXT_ADDRESS = frozenset({Code.CONNECTION_REFUSED, Code.CONNECTION_RESET, Code.NETWORK_UNREACHABLE, Code.TIMEOUT})
_BY_STATUS = {
    401: Code.INVALID_CREDENTIALS,
    403: Code.ACCESS_DENIED,
    404: Code.TARGET_NOT_FOUND,
    429: Code.THROTTLED,
}
# https://learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-troubleshoot, and the library's table
_BY_CONDITION = {
    b"amqp:unauthorized-access": Code.ACCESS_DENIED,
    b"com.microsoft:auth-failed": Code.ACCESS_DENIED,
    b"amqp:not-found": Code.TARGET_NOT_FOUND,
    b"com.microsoft:server-busy": Code.THROTTLED,
    b"amqp:resource-limit-exceeded": Code.THROTTLED,
    b"amqp:link:message-size-exceeded": Code.MESSAGE_TOO_LARGE,
    b"com.microsoft:timeout": Code.TIMEOUT,
    b"amqp:connection:forced": Code.CONNECTION_RESET,
    b"amqp:link:detach-forced": Code.CONNECTION_RESET,
    b"amqp:socket-error": Code.CONNECTION_RESET,
    b"amqp:unknown-error": Code.CONNECTION_RESET,
}

_UNREADABLE = (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, struct.error)
# Every failure is an outcome of ours; the library would say it again, with a traceback.
logging.getLogger("azure.servicebus").setLevel(logging.CRITICAL + 1)


class Link:
    """An open sender. `largest` and `largest_batch` are bytes, as the service wants them on this link."""

    def __init__(self, sender: ServiceBusSender, handlers: list[Any]) -> None:
        self._sender = sender
        self._handlers = handlers
        self._link = handlers[-1]._link  # noqa: SLF001
        self._connection = handlers[-1]._connection  # noqa: SLF001
        self._wire = self._connection._transport  # noqa: SLF001
        self._allowance = self._wire.allowance
        self.largest: int = sender._max_message_size_on_link  # noqa: SLF001
        self.largest_batch = min(self.largest, sender._max_batch_size_on_link)  # noqa: SLF001

    @property
    def lost(self) -> bool:
        """Whether it has ended meanwhile."""
        wire = self._wire
        gone = wire.writer is None or wire.writer.is_closing() or wire.reader.at_eof()
        return bool(gone or self._link.state.value != _ATTACHED)

    async def batch(self) -> ServiceBusMessageBatch:
        """An empty batch of at most `largest_batch` bytes. One made without the sender is encoded twice."""
        return await self._sender.create_message_batch(self.largest_batch)

    async def send(self, parcel: ServiceBusMessage | ServiceBusMessageBatch) -> None:
        """Until the service has it. Raises what `told_by` knows."""
        if self.lost:
            raise ConnectionResetError  # the library would open another one by itself
        self._allowance.refill()
        try:
            await self._sender.send_messages(parcel)
        except Exception as exc:
            if self._link._error is not None:  # noqa: SLF001 -- a link that is closed meanwhile says why only here
                raise self._link._error from exc  # noqa: SLF001
            raise

    async def close(self) -> None:
        """Says good-bye, and ends the connection whatever comes of that."""
        try:
            await self._sender.close()
        finally:
            _abort(self._handlers)
            _end(self._connection)  # of which the handler knows nothing, where it was closed in good order


async def open_link(
    namespace: servicebus_string.Namespace,
    entity: str,
    judged: Sequence[str],
    trust: ssl.SSLContext,
    limit_s: float,
) -> Link:
    """A link to `entity` by the first of the `judged` addresses that answers, within `limit_s`. Raises what
    `told_by` knows."""

    async def connect(address: str) -> Link:
        sender, handlers = _sender(namespace, entity, address, trust)
        try:
            await sender.__aenter__()
        except BaseException as exc:
            _abort(handlers)
            tracebacks.clear(exc)
            raise
        return Link(sender, handlers)

    deadline = asyncio.get_running_loop().time() + limit_s
    return await connecting.first_reachable(
        judged, connect, deadline, lambda exc: told_by(exc)[0] in _NEXT_ADDRESS
    )


def told_by(exc: BaseException) -> tuple[Code, str]:
    """The word for what opening or sending raised, and the text that says most about it."""
    if (too_much := answers.reason(exc)) is not None:
        return too_much
    match exc:
        case TimeoutError():
            return Code.TIMEOUT, ""
        case addresses.Blocked():
            return Code.BLOCKED_ADDRESS, ""
        case addresses.Unknown():
            return Code.DNS_ERROR, ""
        case OSError(errno=None) if not isinstance(exc, ssl.SSLError):
            return Code.CONNECTION_RESET, str(exc)  # the library's own, when it finds the end of the stream
        case ssl.SSLError():
            return Code.TLS_ERROR, tls_faults.reason(exc)
        case OSError():
            return Code(failures.code_of(exc)), str(exc)
    inner = getattr(exc, "inner_exception", None) or getattr(exc, "inner_error", None)
    if isinstance(inner, Exception):
        return told_by(inner)
    if _is_about_the_token(exc):
        return _BY_STATUS.get(getattr(exc, "status_code", 0), Code.INVALID_CREDENTIALS), str(exc)
    if isinstance(exc, _UNREADABLE):  # their texts are about the library
        return Code.ERR, f"the service gave no answer to be read: {type(exc).__name__}"
    condition = getattr(exc, "condition", None)
    return _BY_CONDITION.get(bytes(condition) if condition else b"", Code.ERR), str(exc)


def _is_about_the_token(exc: BaseException) -> bool:
    from azure.servicebus._pyamqp.error import AuthenticationException

    return isinstance(exc, AuthenticationException)


class _Named:
    """A TLS context that checks for `name`, whatever address the library believes to speak to."""

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._context = context
        self._name = name

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> ssl.SSLObject:
        return self._context.wrap_bio(incoming, outgoing, server_hostname=self._name)


def _sender(
    namespace: servicebus_string.Namespace, entity: str, address: str, trust: ssl.SSLContext
) -> tuple[ServiceBusSender, list[Any]]:
    """A sender that is not open yet, and the list of its handlers to be, of which it forgets those that fail."""
    from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
    from azure.servicebus import TransportType

    credential: AzureNamedKeyCredential | AzureSasCredential
    if namespace.signature:
        credential = AzureSasCredential(namespace.signature)
    else:
        credential = AzureNamedKeyCredential(namespace.key_name, namespace.key)
    sender = _watched()(
        namespace.host,
        credential,
        queue_name=entity,  # a topic is addressed in the same way
        custom_endpoint_address=f"sb://{f'[{address}]' if ':' in address else address}:{namespace.port}",
        transport_type=TransportType.Amqp,
        use_tls=namespace.tls,
        ssl_context=_Named(trust, namespace.host),
        retry_total=0,
        keep_alive=0,  # publishers that are idle for a minute are closed, long before the service would
    )
    return sender, sender.handlers


@functools.cache
def _watched() -> Any:
    """The library's sender, which tells the handlers that it makes. Each reads within the limits of
    `servicebus_frames`: the library has no other place to say with what a connection reads."""
    from azure.core.settings import settings
    from azure.servicebus._pyamqp.aio import _connection_async
    from azure.servicebus.aio import ServiceBusSender

    from outpost.adapters.azure import frames as servicebus_frames

    _connection_async.SASLTransport = servicebus_frames.Transport  # type: ignore[attr-defined]
    settings.tracing_implementation = None  # else AZURE_SDK_TRACING_IMPLEMENTATION is read, and adds metadata

    class Watched(ServiceBusSender):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.handlers: list[Any] = []

        def _create_handler(self, auth: Any) -> None:
            super()._create_handler(auth)
            self._handler._max_frame_size = servicebus_frames.MAX_FRAME_BYTES  # noqa: SLF001
            self.handlers.append(self._handler)

    return Watched


def _abort(handlers: list[Any]) -> None:
    for handler in handlers:
        if handler._connection is not None:  # noqa: SLF001
            _end(handler._connection)  # noqa: SLF001


def _end(connection: Any) -> None:
    """Ends the socket. The library's connection is a cycle: what is ours, and what arrived, is taken out of it."""
    transport, connection._transport = connection._transport, None  # noqa: SLF001
    if transport is None:
        return
    if transport.writer is not None:
        with contextlib.suppress(RuntimeError):  # the loop ends
            transport.writer.transport.abort()
    transport.reader = transport.writer = None
    collecting.count(READ_AHEAD_BYTES)
