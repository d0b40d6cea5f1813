"""From bytes to an answer: the reading half of HTTP/1.1 without the socket.

However the bytes are cut, the answer is the same. Interim answers (100, 102, 103) are passed over; 101
is an answer after which the connection speaks no HTTP. llhttp, below httptools, knows the framing; what it
does not bound is bounded here, and a head that it refuses goes to `odd_heads`.
"""

from __future__ import annotations

import sys

import httptools
import msgspec

from outpost.adapters.http import client, failures, odd_heads

MAX_FRUITLESS_BYTES = 65_536  # in a row that end no head and are no body: a giant head, trailers without end
MAX_FRAMING_BYTES = 131_072  # of one answer that are not its body: interim answers, its head, trailers
FRAMING_PER_BODY_BYTE = 8  # and beside them for each byte of the body: chunks of one byte have 5
MAX_FOLDS = 256  # lines that go on with a header's value: the parser copies the value for each of them
MAX_KEPT_HEADERS = 256  # of an answer that is to have them
MAX_KEEP_ALIVE_BYTES = 128  # of a Keep-Alive header that are looked at
SLICE_BYTES = 8_192  # fed to the parser at once: between slices the limits are checked
MAX_INTERIM = 20  # interim answers to one request
SWITCHING_PROTOCOLS = 101
NO_CONTENT = 204

_SHORTEST_NAME = len(b"keep-alive")  # of those looked at


class _Enough(Exception):
    """Stops the parser; never leaves this module."""


class Reader:
    """Reads the answers of one connection, one after the other. `max_body` is in bytes, 0: no cap."""

    __slots__ = (
        "_announced",
        "_body",
        "_close_delimits",
        "_coding",
        "_fed",
        "_folds",
        "_interim",
        "_max_body",
        "_odd",
        "_parser",
        "_reason",
        "_result",
        "_retry_after",
        "_said",
        "_useful",
        "keep_seconds",
        "reusable",
        "status",
    )

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body or sys.maxsize
        self._parser: httptools.HttpResponseParser | None = self._new_parser()
        self.begin()

    def _new_parser(self) -> httptools.HttpResponseParser:
        parser = httptools.HttpResponseParser(self)
        # What browsers and other clients forgive too: old servers end lines with LF, or pad the size of a chunk.
        parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        return parser

    def begin(self) -> None:
        """A request goes out, its answer is the next."""
        self.reusable = False  # whether the answer is over and another may follow
        self.keep_seconds: int | None = None  # for how long the peer says that it keeps the connection
        self._result: client.Answer | client.Unanswered | None = None
        self.status = 0  # until the final head is complete
        self._said: bytearray | None = None  # what came while it is not
        self._odd = False  # whether the parser refused a head of this answer
        self._reason = ""  # why it cannot be read
        self._close_delimits = True
        self._announced = False  # whether the head speaks of a body
        self._body: bytes | bytearray = b""
        self._retry_after = b""
        self._coding = b""
        self._fed = 0  # bytes of this answer
        self._useful = 0  # of them, up to the last that ended a head or were body
        self._folds = 0
        self._interim = 0

    @property
    def unheard(self) -> bool:
        """Whether nothing came, or nothing that an answer could begin with: what was left of the last one."""
        if self.status:
            return False
        said = self._said or b""
        return not said.strip(b"\r\n") or odd_heads.begins_otherwise(said)

    def feed(self, data: bytes) -> client.Answer | client.Unanswered | None:
        """Takes what came in. The answer, once it is over, or what makes waiting for its rest pointless."""
        if len(data) <= SLICE_BYTES:
            return self._feed(data)
        view = memoryview(data)
        for start in range(0, len(data), SLICE_BYTES):
            if self._feed(view[start : start + SLICE_BYTES]) is not None:
                if start + SLICE_BYTES < len(data):  # more than was announced
                    self.reusable = False
                break
        return self._result

    def _feed(self, piece: bytes | memoryview) -> client.Answer | client.Unanswered | None:
        if self._parser is None:
            return self._result
        self._fed += len(piece)
        if self._odd and not self.status:
            self._read_odd(piece, len(self._said or b""))
        else:
            self._parse(piece)
        if self._result is None:
            if not self.status and not self._odd:
                self._keep(piece)
            if self._is_too_much(piece):
                self._reason = "it has more beside its body than any answer needs"
                self._result = self._cut(failures.NOT_READ, "broken")
        return self._result

    def _parse(self, piece: bytes | memoryview) -> None:
        assert self._parser is not None
        try:
            self._parser.feed_data(piece)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.reusable = False
            if self._result is None:
                if self._odd or self.status or self._reason:
                    self._result = self._cut(failures.NOT_READ, "broken")
                else:
                    self._odd = True
                    self._interim = 0
                    self._read_odd(piece, 0)

    def _read_odd(self, piece: bytes | memoryview, seen: int) -> None:
        """Reads the heads that came so far from their first byte; no head ends within the first `seen` bytes."""
        said = self._keep(piece)
        try:
            while (head := odd_heads.read(said, seen)) is not None:
                said = self._said = bytearray(head.rest)
                seen = 0
                if not 100 <= head.status < 200 or head.status == SWITCHING_PROTOCOLS:
                    self._parser = self._new_parser()
                    self._parse(head.text)
                    if head.rest and self._result is None:
                        self._parse(head.rest)
                    self._said = None
                    return
                self._pass_over()
        except odd_heads.Unreadable as exc:
            self._reason = str(exc)
        except _Enough:
            pass
        else:
            return
        self._result = self._cut(failures.NOT_READ, "broken")

    def _keep(self, piece: bytes | memoryview) -> bytearray:
        """What came of heads that are not complete."""
        if self._said is None:
            self._said = bytearray()
        self._said += piece
        return self._said

    def _pass_over(self) -> None:
        """An interim answer."""
        self._interim += 1
        if self._interim > MAX_INTERIM:
            self._reason = f"it has more than {MAX_INTERIM} interim answers before it"
            raise _Enough

    def _is_too_much(self, piece: bytes | memoryview) -> bool:
        """Whether there is more beside the body than any answer needs. Asked where an answer goes on."""
        fruitless = self._fed - self._useful
        if fruitless > SLICE_BYTES:
            text = bytes(piece)
            self._folds += text.count(b"\n ") + text.count(b"\n\t")
        return (
            fruitless > MAX_FRUITLESS_BYTES
            or self._folds > MAX_FOLDS
            or self._fed > MAX_FRAMING_BYTES + (1 + FRAMING_PER_BODY_BYTE) * len(self._body)
        )

    def end(self, exc: BaseException | None) -> client.Answer | client.Unanswered:
        """The answer where the connection is over, by the peer's hang-up or by `exc`."""
        if self.status and self._close_delimits and exc is None:
            return self._whole()
        return self._cut(failures.unanswered(exc), "broken")

    def _whole(self) -> client.Answer:
        body = bytes(self._body)
        if self._coding:
            return client.Answer(self.status, body, "", self._retry_after, coding=self._coding)
        return client.Answer(self.status, body, "", self._retry_after)

    def late(self) -> client.Answer | client.Unanswered:
        """The answer where there is no more time."""
        return self._cut(failures.TIMEOUT, "late")

    def close(self) -> None:
        """Lets go of the parser, which holds on to this object."""
        self._parser = None

    def _cut(self, why: client.Unanswered, fault: client.BodyFault) -> client.Answer | client.Unanswered:
        if self.status:
            return client.Answer(self.status, b"", fault, self._retry_after)
        return failures.unreadable(self._reason) if why is failures.NOT_READ else why

    # Called by the parser. An exception makes feed_data raise an HttpParserError.

    def on_message_begin(self) -> None:
        if self._result is not None:
            raise _Enough  # more than was announced
        self._close_delimits = True
        self._announced = False
        self._retry_after = b""
        self._coding = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) < _SHORTEST_NAME:
            return
        match name.rstrip().lower():  # llhttp forgives a space before the colon of a length
            case b"content-length":
                self._close_delimits = False
                self._announced = self._announced or value.strip() != b"0"
            case b"transfer-encoding":
                self._announced = True
                self._close_delimits = not value.rstrip().lower().endswith(b"chunked")
            case b"keep-alive":
                self.keep_seconds = _timeout_in(value)
            case b"content-encoding" if not self.status:
                self._coding = b"%b,%b" % (self._coding, value) if self._coding else value
            case b"retry-after" if not self.status:  # not a trailer
                self._retry_after = value

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        self._useful = self._fed
        if status == SWITCHING_PROTOCOLS:
            self._result = client.Answer(status, b"")
            raise _Enough
        if 100 <= status < 200:
            self._pass_over()
        elif status < 100:
            self._reason = "its status is no HTTP status"
            raise _Enough
        else:
            self.status = status
            self._said = None
            # What is announced of a body that such an answer does not have may come all the same, and late.
            self.reusable = self._parser.should_keep_alive() and not (self._announced and status == NO_CONTENT)

    def on_body(self, part: bytes) -> None:
        self._useful = self._fed
        if len(self._body) + len(part) > self._max_body:
            self._result = client.Answer(self.status, b"", "too_large", self._retry_after)
            self._body = b""
            raise _Enough
        if not self._body:
            self._body = part
            return
        if not isinstance(self._body, bytearray):
            self._body = bytearray(self._body)
        self._body += part

    def on_message_complete(self) -> None:
        if self.status:
            self._result = self._whole()


class HeaderReader(Reader):
    """Its answers have their headers. A reader of its own, because whoever does not want them should not pay."""

    __slots__ = ("_headers",)

    def begin(self) -> None:
        super().begin()
        self._headers: list[tuple[bytes, bytes]] = []

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._headers.clear()

    def feed(self, data: bytes) -> client.Answer | client.Unanswered | None:
        outcome = super().feed(data)
        return None if outcome is None else self._with_headers(outcome)

    def end(self, exc: BaseException | None) -> client.Answer | client.Unanswered:
        return self._with_headers(super().end(exc))

    def late(self) -> client.Answer | client.Unanswered:
        return self._with_headers(super().late())

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status and len(self._headers) < MAX_KEPT_HEADERS:  # not a trailer
            self._headers.append((name.rstrip(), value))
        super().on_header(name, value)

    def _with_headers(self, outcome: client.Answer | client.Unanswered) -> client.Answer | client.Unanswered:
        if isinstance(outcome, client.Unanswered):
            return outcome
        return msgspec.structs.replace(outcome, headers=tuple(self._headers))


def _timeout_in(value: bytes) -> int | None:
    """The seconds in `timeout=5, max=100`."""
    for part in value[:MAX_KEEP_ALIVE_BYTES].split(b","):
        key, _, number = part.strip().partition(b"=")
        if key.lower() == b"timeout" and number.isdigit():
            return int(number[:9])
    return None
