"""One link of azure-servicebus on a connection to a judged address: a sender, and what its errors are called.

`receiving` has the other kind of link.

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
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from outpost import collecting
from outpost.adapters.azure import connection_string as servicebus_string
from outpost.adapters.codes import Code
from outpost.adapters.egress import addresses, connecting
from outpost.adapters.http import failures
from outpost.adapters.shared import answers, tls_faults, tracebacks

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, AzureNamedKeyCredential, AzureSasCredential
    from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch

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


class Credential(Protocol):
    """Where tokens come from that are not made of a connection string."""

    async def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
        """A token for one scope."""


class Opened:
    """The part of a link that both kinds have. `client` is the library's sender or receiver, and open."""

    def __init__(self, client: Any, handlers: list[Any]) -> None:
        self._client = client
        self._handlers = handlers
        self._link = handlers[-1]._link  # noqa: SLF001
        self._connection = handlers[-1]._connection  # noqa: SLF001
        self._wire = self._connection._transport  # noqa: SLF001
        self._allowance = self._wire.allowance

    @property
    def lost(self) -> bool:
        """Whether it has ended meanwhile."""
        wire = self._wire
        gone = wire.writer is None or wire.writer.is_closing() or wire.reader.at_eof()
        return bool(gone or self._link.state.value != _ATTACHED)

    async def close(self) -> None:
        """Says good-bye, and ends the connection whatever comes of that."""
        try:
            await self._client.close()
        finally:
            self.abort()

    def abort(self) -> None:
        """Ends the connection at once."""
        _abort(self._handlers)
        _end(self._connection)  # of which the handler knows nothing, where it was closed in good order

    @contextlib.contextmanager
    def reasoned(self) -> Iterator[None]:
        """Raises in place of an error what it means: a link that is closed meanwhile says why only in itself."""
        try:
            yield
        except Exception as exc:
            reason = self._link._error  # noqa: SLF001
            if isinstance(reason, Exception) and reason is not exc:
                raise reason from exc
            raise


class Link(Opened):
    """An open sender. `largest` and `largest_batch` are bytes, as the service wants them on this link."""

    def __init__(self, client: Any, handlers: list[Any]) -> None:
        super().__init__(client, handlers)
        self.largest: int = client._max_message_size_on_link  # noqa: SLF001
        self.largest_batch = min(self.largest, client._max_batch_size_on_link)  # noqa: SLF001

    async def batch(self) -> ServiceBusMessageBatch:
        """An empty batch of at most `largest_batch` bytes. One made without the sender is encoded twice."""
        made: ServiceBusMessageBatch = await self._client.create_message_batch(self.largest_batch)
        return made

    async def send(self, parcel: ServiceBusMessage | ServiceBusMessageBatch) -> None:
        """Until the service has it. Raises what `told_by` knows."""
        if self.lost:
            raise ConnectionResetError  # the library would open another one by itself
        self._allowance.refill()
        with self.reasoned():
            await self._client.send_messages(parcel)


async def open_link(
    namespace: servicebus_string.Namespace,
    entity: str,
    judged: Sequence[str],
    trust: ssl.SSLContext,
    limit_s: float,
    credential: Credential | None = None,
) -> Link:
    """A link to `entity` by the first of the `judged` addresses that answers, within `limit_s`. `credential`: in
    place of what the connection string has. Raises what `told_by` knows."""

    async def opened(address: str) -> Link:
        from azure.servicebus.aio import ServiceBusSender

        # A topic is addressed as a queue is.
        return await opened_by(Link, ServiceBusSender, namespace, address, trust, credential, queue_name=entity)

    return await by_first(judged, opened, limit_s)


_Kind = TypeVar("_Kind", bound=Opened)


async def by_first(judged: Sequence[str], opened: Callable[[str], Awaitable[_Kind]], limit_s: float) -> _Kind:
    """What opens by the first of the `judged` addresses that answers."""
    deadline = asyncio.get_running_loop().time() + limit_s
    return await connecting.first_reachable(judged, opened, deadline, lambda exc: told_by(exc)[0] in _NEXT_ADDRESS)


async def opened_by(
    kind: type[_Kind],
    client_type: type[Any],
    namespace: servicebus_string.Namespace,
    address: str,
    trust: ssl.SSLContext,
    credential: Credential | None,
    **named: Any,
) -> _Kind:
    """A link of that kind through the library's `client_type`, which gets `named`."""
    client = _watched(client_type)(  # type: ignore[arg-type]  # a class is hashable
        namespace.host,
        credential or _own_credential(namespace),
        custom_endpoint_address=f"sb://{f'[{address}]' if ':' in address else address}:{namespace.port}",
        transport_type=_transport_type(),
        use_tls=namespace.tls,
        ssl_context=_Named(trust, namespace.host),
        retry_total=0,
        keep_alive=0,  # publishers that are idle for a minute are closed, long before the service would
        **named,
    )
    try:
        await client.__aenter__()
        return kind(client, client.handlers)
    except BaseException as exc:
        _abort(client.handlers)
        tracebacks.clear(exc)
        raise


async def parcels(
    messages: list[ServiceBusMessage], link: Link
) -> AsyncGenerator[tuple[list[int], ServiceBusMessage | ServiceBusMessageBatch | None]]:
    """What goes out in one piece, each with the numbers of its messages: batches, a message that is larger than a
    batch may be, or None for one that the link does not take."""
    from azure.servicebus import ServiceBusMessageBatch
    from azure.servicebus.exceptions import MessageSizeExceededError

    def fits(batch: ServiceBusMessageBatch, message: ServiceBusMessage) -> bool:
        try:
            batch.add_message(message)
        except MessageSizeExceededError:
            return False
        return True

    batch, numbers = await link.batch(), list[int]()
    for number, message in enumerate(messages):
        if fits(batch, message):
            numbers.append(number)
            continue
        if numbers:
            yield numbers, batch
        batch, numbers = await link.batch(), []
        if fits(batch, message):
            numbers.append(number)
        else:
            yield [number], message if fits(ServiceBusMessageBatch(link.largest), message) else None
    if numbers:
        yield numbers, messages[numbers[0]] if len(numbers) == 1 else batch


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


def _own_credential(namespace: servicebus_string.Namespace) -> AzureNamedKeyCredential | AzureSasCredential:
    from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential

    if namespace.signature:
        return AzureSasCredential(namespace.signature)
    return AzureNamedKeyCredential(namespace.key_name, namespace.key)


def _transport_type() -> Any:
    from azure.servicebus import TransportType

    return TransportType.Amqp


@functools.cache
def _watched(client_type: type[Any]) -> Any:
    """The library's sender or receiver, which tells the handlers that it makes, also those that fail, and which it
    forgets. Each reads within the limits of `frames`: the library has no other place to say with what a connection
    reads."""
    from azure.core.settings import settings
    from azure.servicebus._pyamqp.aio import _connection_async

    from outpost.adapters.azure import frames as servicebus_frames

    _connection_async.SASLTransport = servicebus_frames.Transport  # type: ignore[attr-defined]
    settings.tracing_implementation = None  # else AZURE_SDK_TRACING_IMPLEMENTATION is read, and adds metadata

    class Watched(client_type):  # type: ignore[misc]
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
