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
from typing import Literal

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

Level = Literal["debug", "info", "warn", "error"]

# Every event name that the code emits, and what it tells an operator. A test holds it against the sources.
EVENTS: dict[str, str] = {
    "config_halted": "the config projection stopped before an entry that it cannot decode",
    "deliveries_recorded": "a batch of attempts was appended to the log",
    "dispatch_opened": "a batch of events became delivery tasks",
    "library_warning": "a library used the standard logging; its words, without what it put into them",
    "log_projected": "a batch of entries became rows in Postgres",
    "log_rejected": "an entry could not be decoded, or Postgres refused its row; it is kept in log_rejected",
    "partition_tables_created": "the log tables of coming days were made",
    "service_started": "the roles of this process run",
    "service_stopped": "everything is flushed and closed",
    "service_stopping": "no new work is taken",
    "store_recovered": "a store answers again",
    "store_unavailable": "a store cannot be reached or does not answer",
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

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}

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
    """Masks what a key's name or a value's type gives away as a payload or a secret."""
    first = {key: line.pop(key) for key in _FIRST_KEYS if key in line}
    return first | {key: _guarded(key, value, 0) for key, value in line.items()}


def _to_json(line: EventDict, **_: object) -> str:
    return msgspec.json.encode(line, enc_hook=repr).decode()


def _guarded(key: str, value: object, depth: int) -> object:
    words = _WORDS.findall(key.lower())
    if not _SECRET_WORDS.isdisjoint(words) and words[-1] not in _ABOUT_WORDS:
        return _MASK
    if isinstance(value, bytes | bytearray | memoryview | msgspec.Raw):
        return _MASK
    if isinstance(value, dict | list | tuple) and depth >= _MAX_DEPTH:
        return _MASK
    if isinstance(value, dict):
        return {name: _guarded(str(name), item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_guarded("", item, depth + 1) for item in value]
    return value


class _LibraryHandler(logging.Handler):
    """Turns a record of the standard logging into one of our lines.

    Only the first line of the text before anything is put into it, and the type of the exception: the rest may
    quote a request, a row or a URL.
    """

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0] if record.exc_info else None
        emit(
            "library_warning",
            "error" if record.levelno >= logging.ERROR else "warn",
            logger=record.name,
            text=str(record.msg).partition("\n")[0][:200],
            error_type=kind.__name__ if kind else None,
            place=f"{record.filename}:{record.lineno}",
        )
