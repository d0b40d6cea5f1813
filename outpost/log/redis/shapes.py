"""The shapes of replies to plain commands: as Redis sends them, but for those that are lists of pairs.

What `INFO`, `HGETALL`, `CONFIG GET` and `XINFO` answer is a dict here. All other replies are plain lists, bytes
and integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def shaped(command: Sequence[object], reply: Any) -> Any:
    """The reply to `command` as callers get it; an error stays as it is."""
    shape = _SHAPES.get(str(command[0]))
    return reply if shape is None or isinstance(reply, Exception) else shape(command, reply)


def clock_ms(reply: Sequence[bytes]) -> int:
    """What `TIME` answers: Unix ms."""
    return int(reply[0]) * 1000 + int(reply[1]) // 1000


def pairs(flat: Sequence[Any]) -> dict[bytes, Any]:
    """A flat list of names and values, such as a hash or the fields of an entry."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _named(flat: Sequence[Any]) -> dict[str, Any]:
    return {name.decode(): value for name, value in pairs(flat).items()}


def _info(_: Sequence[object], reply: bytes) -> dict[str, int | str]:
    """The fields of all sections; whole numbers as such."""
    lines = (line.partition(":") for line in reply.decode().splitlines() if not line.startswith("#"))
    return {name: int(value) if value.isdigit() else value for name, colon, value in lines if colon}


def _hash(_: Sequence[object], reply: Sequence[bytes]) -> dict[bytes, bytes]:
    return pairs(reply)


def _config(command: Sequence[object], reply: Any) -> Any:
    return {name: value.decode() for name, value in _named(reply).items()} if command[1] == "GET" else reply


def _xinfo(command: Sequence[object], reply: Sequence[Any]) -> dict[str, Any] | list[dict[str, Any]]:
    return _named(reply) if command[1] == "STREAM" else [_named(each) for each in reply]


_SHAPES: dict[str, Callable[[Sequence[object], Any], Any]] = {
    "INFO": _info,
    "HGETALL": _hash,
    "CONFIG": _config,
    "XINFO": _xinfo,
}
