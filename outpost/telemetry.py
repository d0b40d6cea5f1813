"""What the process says about itself: one log line a unit of work, and counters in memory.

Every line is an event out of EVENTS with its data in keys, JSON on stderr or coloured text on a terminal. A line
never holds a payload or a secret; the guard here catches a key that got in by mistake, callers must not rely on
it.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections import Counter
from json import dumps
from pathlib import PurePath
from typing import Literal

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]

# Every event name that the code emits, and what it tells an operator. A test holds it against the sources.
EVENTS: dict[str, str] = {
    "adapter_failed": "a destination type raised where it should answer; the attempt counts as failed",
    "budget_exceeded": "the log takes more of Redis' memory than it may; publishing to some partitions is refused",
    "budget_kept": "publishing is refused nowhere any more",
    "chunk_not_ours": "the queue carries messages of another log or of a later release; they are given back",
    "chunk_unreadable": "a message on the delivery queue is no chunk of ours; its tasks come due by themselves",
    "config_halted": "the config projection stopped before an entry that it cannot decode",
    "connections_lowered": "the limit of open descriptors allows fewer connections than API_MAX_CONNECTIONS",
    "deliveries_recorded": "a batch of attempts was appended to the log",
    "destination_gone": "a destination answered 410 and was disabled for that reason",
    "dispatch_opened": "a batch of events became delivery tasks",
    "entry_undecodable": "the dispatcher passed over an event that it cannot decode",
    "library_warning": "a library used the standard logging; its words, without what it put into them",
    "log_halted": "the log no longer holds what the log projection is to read next",
    "log_projected": "a batch of entries became rows in Postgres",
    "log_rejected": "an entry could not be decoded, or Postgres refused its row; it is kept in log_rejected",
    "log_trimmed": "entries that nobody needs any more left the streams",
    "partition_tables_created": "the log tables of coming days were made",
    "pooler_found": "a connection pooler stands before Postgres, so every statement runs in a transaction",
    "publish_poison": "a message on the publish queue is no event; it went to the dead letters with this reason",
    "publisher_refused": "what is stored of a destination cannot be used; its attempts fail",
    "schema_migrated": "one migration of the log tables was applied",
    "service_failed": "a background task ended with an error, so the process stops",
    "request_failed": "a request met an error that nothing expected; the client was told 500",
    "request_refused": "a request broke HTTP or a limit and its connection ended; sampled, counted whole",
    "service_started": "the roles of this process run",
    "service_stopped": "everything is flushed and closed",
    "service_stopping": "no new work is taken",
    "setting_warned": "a setting works, and does something else than whoever set it may expect",
    "store_awaited": "the start waits for a store that does not answer yet",
    "store_recovered": "a store answers again",
    "store_unavailable": "a store cannot be reached or does not answer",
    "task_without_event": "the event of a due task is not to be had now; the task stays due",
    "worker_ended": "one of several processes ended without being asked to; another takes its place after a pause",
    "workers_gave_up": "one of several processes does not start, or keeps ending, so that all of them stop",
}

# Words that make a key suspect wherever they stand in it, such as `api_token` or `response_body` ..
_SECRET_WORDS = frozenset(
    {"authorization", "body", "credential", "credentials", "data", "password", "payload", "secret", "token"}
    | {"bodies", "passwords", "payloads", "secrets", "tokens"}
)
# .. unless the last word says that the value is only about it, such as `body_bytes`.
_ABOUT_WORDS = frozenset({"bytes", "count", "dir", "folder", "ms"})
_MASK = "[redacted]"
# What every line has, in front, so that lines under each other can be read.
_FIRST_KEYS = ("timestamp", "level", "event")
_WORDS = re.compile(r"[a-z0-9]+")
# A line is flat by rule; what is deeper than this is not looked through but masked.
_MAX_DEPTH = 4

# LOG_LEVEL says warn, a line says warning.
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

# In memory, for the metrics route and the lines of a batch; a restart begins at nought.
counters: Counter[str] = Counter()

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

# Event name -> the second it was last emitted in by `emit_sampled`, how often, and how many were left out since.
_samples: dict[str, tuple[int, int, int]] = {}


def configure(level: str, *, json: bool | None = None) -> None:
    """Sends lines of at least `level` (LOG_LEVEL) to stderr; `json` None asks whether that is a terminal."""
    as_json = not sys.stderr.isatty() if json is None else json
    # Tracebacks without local variables: those may hold a payload.
    renderer: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_to_json)]
        if as_json
        else [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redact,
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        # Asked anew for each line: who redirects stderr, as tests do, must not leave us a closed file.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [_LibraryHandler(logging.WARNING)]
    root.setLevel(logging.WARNING)


def emit(event: str, level: Level = "info", **fields: object) -> None:
    """One line. `event` is written out where it is emitted and stands in EVENTS: a test reads the sources."""
    log.log(_LEVELS[level], event, **fields)


def emit_sampled(event: str, level: Level = "info", *, per_second: int = 5, **fields: object) -> None:
    """As `emit`, for what may happen thousands of times a second: the first few of each second.

    The next line says in `suppressed` how many were left out before it; they are counted as well.
    """
    second = int(time.monotonic())
    last, emitted, suppressed = _samples.get(event, (second, 0, 0))
    if last != second:
        emitted = 0
    if emitted >= per_second:
        _samples[event] = (second, emitted, suppressed + 1)
        count(f"suppressed.{event}")
        return
    _samples[event] = (second, emitted + 1, 0)
    if suppressed:
        fields["suppressed"] = suppressed
    emit(event, level, **fields)


def count(name: str, n: int = 1) -> None:
    """Adds to a counter of this process."""
    counters[name] += n


def redact(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Masks what its key gives away as a payload or a secret; of an object it leaves the type's name."""
    first = {key: line.pop(key) for key in _FIRST_KEYS if key in line}
    return first | {key: _guarded(key, value, 0) for key, value in line.items()}


def _to_json(line: EventDict, **_: object) -> str:
    try:
        return msgspec.json.encode(line).decode()
    except (UnicodeEncodeError, OverflowError):
        # Half a surrogate pair, such as in a path, or an integer beyond 64 bits: logging must not raise.
        return dumps(line)


def _guarded(key: str, value: object, depth: int) -> object:
    words = _WORDS.findall(key.lower())
    if not _SECRET_WORDS.isdisjoint(words) and words[-1] not in _ABOUT_WORDS:
        return _MASK
    if isinstance(value, dict | list | tuple) and depth >= _MAX_DEPTH:
        return _MASK
    if isinstance(value, dict):
        return {name: _guarded(str(name), item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_guarded("", item, depth + 1) for item in value]
    if isinstance(value, str | int | float | None) or key == "exc_info":
        return value
    # Any other object may hold or print a payload; msgspec would even write out the fields of a struct.
    return str(value) if isinstance(value, PurePath) else f"<{type(value).__name__}>"


class _LibraryHandler(logging.Handler):
    """Turns a record of the standard logging into one of our lines.

    Only the first line of the text before anything is put into it, and the type of the exception: the rest may
    quote a request, a row or a URL.
    """

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0] if record.exc_info else None
        emit(
            "library_warning",
            "error" if record.levelno >= logging.ERROR else "warning",
            logger=record.name,
            text=str(record.msg).partition("\n")[0][:200],
            error_type=kind.__name__ if kind else None,
            place=f"{record.filename}:{record.lineno}",
        )


class Health:
    """How a background loop is; one line when that changes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.healthy = True
        self.reason = ""

    def fell(self, store: str, reason: str) -> None:
        """A step failed because `store` is away."""
        if self.healthy:
            emit("store_unavailable", "warning", store=store, by=self.name, reason=reason)
        self.healthy, self.reason = False, f"{store}: {reason}"

    def rose(self) -> None:
        """A step succeeded."""
        if not self.healthy:
            emit("store_recovered", by=self.name)
        self.healthy, self.reason = True, ""
