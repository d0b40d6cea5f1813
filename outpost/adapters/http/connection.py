"""One connection: a request out, an answer in, and the question whether it may carry another.

Nothing here waits but `exchange`, and nothing makes a task or a timer a request: a timer that is due too early is
set anew when it fires, which is once in seconds instead of once a delivery.
"""

from __future__ import annotations

import asyncio
import fcntl
import select
import struct
import termios
from collections.abc import Callable
from typing import cast

from outpost.adapters.http import client, failures, reading

IDLE_SECONDS = 15.0  # how long an unused connection is kept
MAX_AGE_SECONDS = 300.0  # then it makes room for one to where the name points now
KEEP_MARGIN_SECONDS = 1.0  # less than the peer says that it keeps a connection: the request has a way to go
LARGE_REQUEST_BYTES = 16_384  # a smaller request is with the peer by the time that any answer to it is here
REQUEST_TIMEOUT = 408
TIMER_SLACK_SECONDS = 0.001  # uvloop's timers fire up to this early

Outcome = client.Answer | client.Unanswered


class Connection(asyncio.Protocol):
    """To `origin`. `lost` is called when the socket is closed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: str,
        reader: reading.Reader,
        lost: Callable[[Connection], None],
    ) -> None:
        self.origin = origin
        self._loop = loop
        self._lost = lost
        self._reader = reader
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._file = -1  # the descriptor of the socket
        self._usable = True
        self._good_until = 0.0
        self._expires = loop.time() + MAX_AGE_SECONDS
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._asked = False  # whether a request was ever written
        self._kept = False  # whether it has carried a whole exchange
        self._large = False  # whether the last one was
        self._timely: bool | None = None  # whether the request was out when the head of its answer came
        # Set while an answer is expected: from the start, since a peer may hang up before we ask.
        self._waiter: asyncio.Future[Outcome] | None = loop.create_future()

    async def exchange(self, request: bytes, deadline: float) -> Outcome:
        """Writes `request` and waits for its answer until `deadline` (the loop's clock). To be called on a new
        connection or on one that was `fit`."""
        waiter = self._waiter
        if waiter is None:
            waiter = self._waiter = self._loop.create_future()
        if waiter.done():
            self.abort()  # an answer to nothing
        elif self._transport is not None:
            self._deadline = deadline
            if self._timer is None or deadline < self._timer.when():
                self._set_timer()
            if self._asked or not self._spoke_first():
                self._asked = True
                self._timely = None
                self._large = len(request) > LARGE_REQUEST_BYTES
                self._transport.write(request)
        try:
            return await waiter
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._waiter = None

    def keep(self) -> bool:
        """Whether it may carry another exchange; to be asked once after each. While it is kept it holds nothing of
        the last answer."""
        if not self._usable or not self._reader.reusable or self._transport is None:
            return False
        now = self._loop.time()
        seconds = IDLE_SECONDS
        if self._reader.keep_seconds is not None:
            seconds = min(seconds, self._reader.keep_seconds - KEEP_MARGIN_SECONDS)
        self._good_until = min(now + seconds, self._expires)
        self._reader.begin()
        self._kept = True
        return now < self._good_until

    def unheard(self, outcome: Outcome) -> bool:
        """Whether a connection that was kept has brought no answer of this exchange, to be asked before `keep`: it
        ended without one, with what was left of the last one, or with the 408 of a server that closes a connection
        on which it waited (RFC 9110, 15.5.9)."""
        if not self._kept:
            return False
        if isinstance(outcome, client.Answer):
            return outcome.status == REQUEST_TIMEOUT and not self._reader.reusable
        return outcome.code != "timeout" and self._reader.unheard

    def fit(self) -> bool:
        """Whether a kept connection can be used now. A hang-up that the event loop has not seen yet is seen."""
        return self._usable and self._loop.time() < self._good_until and not self._poll.poll(0)

    def abort(self) -> None:
        """Closes it without regard for what is unsent; whoever waits gets the word for that."""
        self._usable = False
        if self._transport is not None:
            self._transport.abort()
        else:  # it was never connected, or is closed already
            self._reader.close()

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its bases
        self._file = self._transport.get_extra_info("socket").fileno()
        self._poll.register(self._file, select.POLLIN)
        if not self._usable:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done():
            self.abort()  # nobody asked
            return
        if not self._asked:
            self._waiter.set_result(failures.EARLY)
            self.abort()
            return
        outcome = self._reader.feed(data)
        if self._timely is None and self._reader.status:
            self._timely = self._is_out()
        if outcome is not None:
            self._answer(outcome)

    def eof_received(self) -> None:
        self._settle(None)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle(exc)
        self._usable = False
        self._transport = None
        self._reader.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._lost(self)

    def _settle(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._answer(self._reader.end(exc))

    def _answer(self, outcome: Outcome) -> None:
        """Tells who waits. A peer may refuse a request before it has all of it (RFC 9112, 9.3), but what it has
        not read it cannot have taken."""
        assert self._waiter is not None
        if self._timely is False:
            self._usable = False
            if isinstance(outcome, client.Answer) and 200 <= outcome.status < 300:
                outcome = failures.EARLY
        self._waiter.set_result(outcome)

    def _is_out(self) -> bool:
        """Whether the whole request is with the peer's machine, as far as this one can tell."""
        if self._transport is None or self._transport.get_write_buffer_size():
            return False
        return not self._large or not _unacknowledged_bytes(self._file)

    def _spoke_first(self) -> bool:
        """Whether a new connection has something to read, or was hung up, before anything was written: the event
        loop is about to tell which. With TLS there is always something, which is not the peer's application."""
        return not self.origin.startswith("https:") and bool(self._poll.poll(0))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() + TIMER_SLACK_SECONDS < self._deadline:
            self._set_timer()
            return
        self._answer(self._reader.late())
        self.abort()


def _unacknowledged_bytes(file: int) -> int:
    """What the kernel holds of what was written to a socket, until the peer's kernel has it; 0 where it does not
    tell. An answer acknowledges what its sender had when it was sent."""
    try:
        held: int = struct.unpack("i", fcntl.ioctl(file, termios.TIOCOUTQ, bytes(4)))[0]
    except OSError:
        return 0
    return held
