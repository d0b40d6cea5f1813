"""The sockets of the AWS SDK: each goes to a judged address, keeps the deadline of its call, and can be cut off.

botocore's own HTTP session with connections of ours. A call runs in one thread, so a thread has one `Call`; what
the call connects or takes from the pool is noted there, and `cut` shuts it down, which wakes the thread. Nothing
here reads the environment: no proxies, no certificates but those of all deliveries. Imports botocore.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import io
import socket
import ssl
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any

from botocore import awsrequest, exceptions, httpsession

from outpost.adapters.egress import addresses, connecting
from outpost.adapters.shared import answers, trust

SHORTEST_S = 0.001  # a time-out of 0 would mean a socket that does not wait
# Of the answers to one call, heads and bodies together, unless the type says otherwise. They take a few kilobytes,
# and botocore's parsers hold the whole process while they read: 64 kB of XML take 15 ms.
MAX_ANSWER_BYTES = 65_536
_DECLARATION = b"<!DOCTYPE"  # where entities are declared, a few of which expand to any size


class Call:
    """One call of the SDK. `deadline` is by the clock of `loop`, on which names are looked up; the answer may have
    `max_bytes`. `failure`: why there was no connection, which the SDK's own error does not always tell."""

    def __init__(
        self, judge: addresses.Addresses, loop: asyncio.AbstractEventLoop, deadline: float, max_bytes: int
    ) -> None:
        self.failure: OSError | None = None
        self._allowance = answers.Allowance(max_bytes)
        self._judge = judge
        self._loop = loop
        self._until = time.monotonic() + deadline - loop.time()
        self._sockets: list[socket.socket] = []
        self._answers: list[io.BufferedReader] = []
        self._lock = threading.Lock()
        self._cut = False

    def refuses(self, host: str) -> bool:
        """See addresses.Addresses."""
        return self._judge.refuses(host)

    def left(self) -> float:
        """Seconds until the deadline, more than 0."""
        return max(self._until - time.monotonic(), SHORTEST_S)

    def connected(self, host: str, port: int) -> socket.socket:
        """A socket to a judged address of `host`; what is left of the time is shared among the addresses. Raises
        OSError."""

        def connect(address: str, seconds: float) -> socket.socket:
            return socket.create_connection((address, port), seconds)

        made = connecting.first_reachable_by_thread(self._judged(host), connect, self.left)
        made.settimeout(self.left())
        return made

    def use(self, used: socket.socket) -> None:
        """The call goes over `used` from now on. Raises OSError where it was cut off meanwhile."""
        with self._lock:
            if self._cut:
                raise ConnectionAbortedError
            self._sockets.append(used)

    def leave(self, used: socket.socket | None) -> None:
        """`used` goes back to the pool, where another call may take it."""
        with self._lock, contextlib.suppress(ValueError):  # one that was closed
            self._sockets.remove(used)  # type: ignore[arg-type]

    def read_from(self, answer: io.BufferedReader) -> None:
        """An answer is read from there. What was not read to its end would keep its socket open."""
        self._answers.append(answer)

    def end(self) -> None:
        """The SDK has returned: nothing is read any more. Called in the thread of the call."""
        for answer in self._answers:
            with contextlib.suppress(OSError, ValueError):
                answer.close()
        self._answers.clear()

    def received(self, count: int) -> None:
        """Counts bytes that came in. Raises AnswerTooLarge, which becomes the reason of the failure."""
        try:
            self._allowance.take(count)
        except answers.AnswerTooLarge as exc:
            self.failure = exc
            raise

    def cut(self) -> None:
        """Ends the call, from another thread: its sockets are shut down and not used again. Harmless after its
        end."""
        with self._lock:
            self._cut = True
            for used in self._sockets:
                with contextlib.suppress(OSError):  # ended already
                    socket.socket.shutdown(used, socket.SHUT_RDWR)  # not TLS's own, which waits for the thread

    def _judged(self, host: str) -> tuple[str, ...]:
        asking: Coroutine[Any, Any, tuple[str, ...]] = self._judge.of(host)
        try:
            asked = asyncio.run_coroutine_threadsafe(asking, self._loop)
        except RuntimeError:  # the loop has ended meanwhile
            asking.close()
            raise addresses.Unknown from None
        try:
            return asked.result(self.left())
        except concurrent.futures.CancelledError:
            raise addresses.Unknown from None
        finally:
            asked.cancel()


_current = threading.local()


@contextlib.contextmanager
def calling(call: Call) -> Iterator[None]:
    """What the SDK does in this thread belongs to `call`."""
    _current.call = call
    try:
        yield
    finally:
        del _current.call
        call.end()


def _call() -> Call:
    call = getattr(_current, "call", None)
    if call is None:
        raise addresses.Blocked  # nothing is connected without a judge
    assert isinstance(call, Call)
    return call


class _Counted(io.RawIOBase):
    """What a socket receives, counted for the call that reads it: heads, bodies and what stands between chunks."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__()
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count: int | None = self._raw.readinto(buffer)
        _call().received(count or 0)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(awsrequest.AWSHTTPResponse):  # type: ignore[misc]
    """An answer of which no more is read than the call may have."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("status_tuple", None)
        super().__init__(*args, **kwargs)
        self.fp: Any = io.BufferedReader(_Counted(self.fp.detach()))
        _call().read_from(self.fp)


class _Judged:
    """What the connections of both schemes have in common."""

    response_class = _Answer

    def _new_conn(self) -> socket.socket:
        made = _call().connected(self._dns_host, self.port)  # type: ignore[attr-defined]
        for option in self.socket_options or ():  # type: ignore[attr-defined]
            made.setsockopt(*option)
        return made

    def connect(self) -> None:
        call = _call()
        try:
            super().connect()  # type: ignore[misc]
        except OSError as exc:
            call.failure = exc
            raise
        call.use(self.sock)  # type: ignore[attr-defined]


class _Pooled:
    """What the pools of both schemes have in common."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection = super()._get_conn(timeout)  # type: ignore[misc]
        if connection.sock is not None:
            try:
                _call().use(connection.sock)
            except OSError:
                connection.close()
                raise
        return connection

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            _call().leave(conn.sock)
        super()._put_conn(conn)  # type: ignore[misc]


class _Plain(_Judged, awsrequest.AWSHTTPConnection):  # type: ignore[misc]
    pass


class _Encrypted(_Judged, awsrequest.AWSHTTPSConnection):  # type: ignore[misc]
    pass


class _PlainPool(_Pooled, awsrequest.AWSHTTPConnectionPool):  # type: ignore[misc]
    ConnectionCls = _Plain


class _EncryptedPool(_Pooled, awsrequest.AWSHTTPSConnectionPool):  # type: ignore[misc]
    ConnectionCls = _Encrypted


class Session(httpsession.URLLib3Session):  # type: ignore[misc]
    """botocore's HTTP session with such connections, at most `most_kept` of them while they are idle. `has_xml`:
    whether answers are parsed as XML."""

    def __init__(self, timeout_s: float, most_kept: int, ca_file: str = "", *, has_xml: bool = True) -> None:
        self._ca_file = ca_file
        super().__init__(proxies={}, timeout=timeout_s, max_pool_connections=most_kept, socket_options=_OPTIONS)
        self._has_xml = has_xml
        self._manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _EncryptedPool}

    def send(self, request: Any) -> Any:
        """Raises HTTPClientError for an XML that declares entities, before anybody expands them."""
        answer = super().send(request)
        if self._has_xml and _DECLARATION in answer.content:
            raise exceptions.HTTPClientError(error="the answer declares entities")
        return answer

    def _get_ssl_context(self) -> ssl.SSLContext:
        return trust.http(self._ca_file)

    def _setup_ssl_cert(self, conn: Any, url: str, verify: object) -> None:
        conn.cert_reqs = ssl.CERT_REQUIRED  # by the authorities that the context has


_OPTIONS = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
