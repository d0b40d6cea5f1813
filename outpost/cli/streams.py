"""`outpost streams list|tail|show|groups|skip`: looking into the log.

Tables for a terminal, aligned text otherwise, JSON lines where that is asked for. Nothing sealed is ever opened,
and payloads are shown only with `--payload`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TextIO

import msgspec
from rich.console import Console
from rich.table import Table

from outpost import terminal
from outpost.cli import local
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.operator import describe, inspect, skip
from outpost.log.redis import client
from outpost.process import opening
from outpost.settings import Settings

OK = 0
REFUSED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions and their options."""
    local.add_config(parser)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    action = actions.add_parser("list", help="every stream with its length and memory")
    _add_json(action)

    action = actions.add_parser("tail", help="entries, decoded, merged by time")
    action.add_argument("--stream", action="append", choices=partitions.STREAMS, help="only this one (repeatable)")
    action.add_argument("--tenant", metavar="ID", help="only entries of this tenant")
    action.add_argument("--type", metavar="TYPE", help="only entries of this type, such as attempt.failed")
    start = "where to begin: 0, now, or a position (default: now, without --follow 0)"
    action.add_argument("--from", dest="since", type=_since, metavar="POSITION|now|0", help=start)
    wait = "wait for more until Ctrl-C (default)"
    action.add_argument("-f", "--follow", action=argparse.BooleanOptionalAction, default=True, help=wait)
    action.add_argument("--limit", type=_count, metavar="N", help="end after N entries")
    _add_payload(action)
    _add_json(action)

    action = actions.add_parser("show", help="everything of one entry")
    action.add_argument("position", type=_position, metavar="POSITION", help="such as evt.07.1790000000000-0")
    _add_payload(action)
    _add_json(action)

    action = actions.add_parser("groups", help="the dispatcher's group, what is pending and what is due")
    _add_json(action)

    action = actions.add_parser("skip", help="pass over an entry of cfg that halts the config projection")
    action.add_argument("position", type=_position, metavar="POSITION", help="such as cfg.07.1790000000000-0")
    action.add_argument("--write", action="store_true", help="do it; otherwise only say what would be done")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _add_payload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--payload", action="store_true", help="show payloads and responses, not only their size")


def _position(text: str) -> positions.Position:
    found = positions.parse(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a position, such as evt.07.1790000000000-0")
    return found


def _since(text: str) -> str | positions.Position:
    return text if text in {"0", "now"} else _position(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a number from 1")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Runs the action that was parsed. Raises errors.ConfigurationError and errors.StoreUnavailable."""
    return run_with(args, local.settings_of(args))


def run_with(args: argparse.Namespace, settings: Settings) -> int:
    """The same with these settings."""
    actions: dict[str, Callable[[client.Log, argparse.Namespace, TextIO], Awaitable[int]]] = {
        "list": _list,
        "tail": _tail,
        "show": _show,
        "groups": _groups,
        "skip": _skip,
    }
    try:
        return asyncio.run(_with_log(settings, actions[args.action], args))
    except KeyboardInterrupt:  # the way to end a tail
        return OK
    except BrokenPipeError:  # as is `| head`; what is left in the buffer has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


async def _with_log(
    settings: Settings,
    action: Callable[[client.Log, argparse.Namespace, TextIO], Awaitable[int]],
    args: argparse.Namespace,
) -> int:
    log = opening.open_log(settings)
    try:
        return await action(log, args, sys.stdout)
    finally:
        await log.close()


async def _list(log: client.Log, args: argparse.Namespace, out: TextIO) -> int:
    found = await inspect.streams(log)
    if args.json:
        _print_json(found, out)
        return OK
    headings = ("stream", "length", "added", "memory", "first", "last")
    rows = [
        (f"{s.stream}.{s.partition:02}", s.length, s.added, _bytes(s.memory_bytes), s.first or "-", s.last)
        for s in found
    ]
    total = ("total", sum(s.length for s in found), sum(s.added for s in found))
    rows.append((*total, _bytes(sum(s.memory_bytes for s in found)), "", ""))
    _print_table(headings, rows, out)
    return OK


async def _groups(log: client.Log, args: argparse.Namespace, out: TextIO) -> int:
    found = await inspect.groups(log)
    if args.json:
        _print_json(found, out)
        return OK
    headings = ("partition", "group", "lag", "pending", "due", "due now", "next due", "consumers")
    rows = [
        (
            f"{g.partition:02}",
            "missing" if not g.present else "mending" if g.mending else "ok",
            "?" if g.lag is None else g.lag,
            g.pending,
            g.due,
            g.due_now,
            "-" if g.next_in_ms is None else f"in {g.next_in_ms / 1000:.1f} s",
            ", ".join(f"{c.name}: {c.pending} pending, idle {c.idle_ms / 1000:.0f} s" for c in g.consumers) or "-",
        )
        for g in found
    ]
    _print_table(headings, rows, out)
    return OK


async def _show(log: client.Log, args: argparse.Namespace, out: TextIO) -> int:
    item = await inspect.one(log, args.position)
    if item is None:
        print(f"There is no entry at {args.position}.", file=sys.stderr)
        return REFUSED
    told = describe.describe(item, payload=args.payload)
    if args.json:
        _print_json([told], out)
        return OK
    width = max(map(len, told))
    for name, value in told.items():
        text = value if isinstance(value, str) else msgspec.json.format(msgspec.json.encode(value)).decode()
        lines = [terminal.printable(line) for line in text.split("\n")]
        print(name.ljust(width), f"\n{' ' * (width + 1)}".join(lines), file=out)
    return OK


async def _tail(log: client.Log, args: argparse.Namespace, out: TextIO) -> int:
    among = range(partitions.PARTITIONS) if args.tenant is None else [partitions.partition_of(args.tenant)]
    places: list[inspect.Place] = [(s, p) for s in args.stream or partitions.STREAMS for p in among]
    since = args.since or ("now" if args.follow else "0")
    left = args.limit
    async for item in inspect.tail(log, await inspect.starts(log, places, since), follow=args.follow):
        if not _wanted(item.fields, args):
            continue
        told = describe.describe(item, payload=args.payload)
        print(_json(told) if args.json else describe.one_line(told), file=out, flush=True)
        left = None if left is None else left - 1
        if left == 0:
            break
    return OK


def _wanted(fields: dict[bytes, bytes], args: argparse.Namespace) -> bool:
    return (args.tenant is None or fields.get(b"ten") == args.tenant.encode()) and (
        args.type is None or fields.get(b"t") == args.type.encode()
    )


async def _skip(log: client.Log, args: argparse.Namespace, out: TextIO) -> int:
    verdict = await skip.skip(log, args.position, write=args.write)
    match verdict.outcome:
        case "refused":
            print(f"Nothing was written: {verdict.reason}.", file=sys.stderr)
            return REFUSED
        case "would skip":
            print(f"{verdict.reason}. With --write it would be passed over for good, rebuilds included.", file=out)
        case "skipped":
            print(f"{verdict.reason}. The projection goes on with the next read or write of the tenant.", file=out)
    return OK


def _bytes(count: int) -> str:
    return f"{count / 1_048_576:.1f} MiB" if count >= 1_048_576 else f"{count / 1024:.1f} KiB"


def _json(told: object) -> str:
    return msgspec.json.encode(told).decode()


def _print_json(found: Sequence[object], out: TextIO) -> None:
    for each in found:
        print(_json(each), file=out)


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[Any]], out: TextIO) -> None:
    """Numbers stand right; the last column, which may be long, is not padded."""
    cells = [[terminal.printable(str(value)) for value in row] for row in rows]
    numeric = [all(isinstance(row[at], int) for row in rows) for at in range(len(headings))]
    if out.isatty():
        table = Table(box=None, pad_edge=False)
        for heading, right in zip(headings, numeric, strict=True):
            table.add_column(heading, justify="right" if right else "left")
        for row in cells:
            table.add_row(*row)
        Console(file=out, markup=False, highlight=False).print(table)
        return
    lines = [[*headings], *cells]
    widths = [max(len(line[at]) for line in lines) for at in range(len(headings))]
    for line in lines:
        parts = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        print("  ".join(parts).rstrip(), file=out)
