"""`outpost queue status|drain`: the brokers that the settings name, as they are now."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import TextIO

import msgspec

from outpost import errors
from outpost.cli import local
from outpost.log.delivery import tasks
from outpost.log.redis import client
from outpost.process import opening
from outpost.queue import base, broker, chunk, draining, selected
from outpost.settings import Settings, queues

OK = 0
PROBLEM = 1


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One queue. `problems` and `advice` are sentences; a count is None where the broker does not tell it."""

    use: str  # `delivery` or `publish`
    broker: str
    names: dict[str, str] = {}
    problems: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    ready: int | None = None
    unacknowledged: int | None = None
    consumers: int | None = None
    dead_letters: int | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions and their options."""
    local.add_config(parser)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    action = actions.add_parser("status", help="which brokers are configured, and what lies there")
    action.add_argument("--json", action="store_true", help="one JSON object a line")
    action = actions.add_parser("drain", help="hand what is left on the delivery queue back to the schedulers")
    letters = "empty the dead letters too: their tasks have come due by themselves"
    action.add_argument("--dead-letters", action="store_true", help=letters)


def run(args: argparse.Namespace) -> int:
    """Runs the action; 1 if a broker cannot be used. Raises errors.ConfigurationError."""
    settings = local.settings_of(args)
    if args.action == "status":
        rows = asyncio.run(status(settings))
        _print(rows, sys.stdout, as_json=args.json)
        return PROBLEM if any(row.problems for row in rows) else OK
    return asyncio.run(drain(settings, sys.stdout, dead_letters=args.dead_letters))


async def status(settings: Settings) -> list[Row]:
    """Both queues, as they are now. Changes nothing. Raises errors.StartRefused where a library is missing."""
    rows = [await _row("delivery", selected.delivery_broker(settings))]
    if queues.source(settings) is not None:
        rows.append(await _row("publish", selected.source_broker(settings)))
    return rows


async def _row(use: str, opened: broker.Broker | None) -> Row:
    if opened is None:
        return Row(use=use, broker="in process")
    names = dict(opened.names)
    try:
        async with broker.deadline(broker.PREPARE_S, "the broker did not answer"):
            problems = await opened.prepare(False)
            depth = None if problems else await opened.depth()
            advice = await opened.advice() if isinstance(opened, broker.Advising) and not problems else []
    except broker.BrokerError as exc:
        return Row(use=use, broker=opened.name, names=names, problems=(str(exc),))
    finally:
        await broker.end(opened)
    depth = depth or broker.Depth()
    return Row(
        use=use,
        broker=opened.name,
        names=names,
        problems=tuple(problems),
        advice=tuple(advice),
        ready=depth.ready,
        unacknowledged=depth.unacknowledged,
        consumers=depth.consumers,
        dead_letters=depth.dead_letters,
    )


def _print(rows: Sequence[Row], out: TextIO, *, as_json: bool) -> None:
    for row in rows:
        if as_json:
            print(msgspec.json.encode(row).decode(), file=out)
            continue
        names = " ".join(f"{name}={value}" for name, value in row.names.items())
        print(f"{row.use:<9} {row.broker:<11} {names}".rstrip(), file=out)
        for problem in row.problems:
            print(f"          problem: {problem}", file=out)
        for sentence in row.advice:
            print(f"          advice: {sentence}", file=out)
        if row.broker != "in process" and not row.problems:
            counts = ("ready", "unacknowledged", "consumers", "dead_letters")
            told = [f"{name.replace('_', ' ')} {_told(getattr(row, name))}" for name in counts]
            print(f"          {', '.join(told)}", file=out)


def _told(count: int | None) -> str:
    return "not told" if count is None else f"{count:,}"


async def drain(settings: Settings, out: TextIO, *, dead_letters: bool) -> int:
    """Empties the delivery queue, with `dead_letters` those too; prints how far it came. The exit code."""
    sources = [("queue", selected.delivery_broker(settings))]
    if sources[0][1] is None:
        print("the delivery queue is in process: there is nothing to drain", file=out)
        return OK
    if dead_letters:
        sources.append(("dead letters", selected.dead_letters_broker(settings)))
    log = opening.open_log(settings)
    try:
        namespace = await log.command("HGET", log.keys.meta, "namespace_id")
        if namespace is None:
            print("Redis holds no log: REDIS_HOST names another one, or it is empty", file=out)
            return PROBLEM
        codec = chunk.Codec(namespace.decode(), settings.aes_encryption_secret, 0)
        codes = [await _drain_one(name, source, codec, log, out) for name, source in sources if source]
        return max(codes)
    except errors.StoreUnavailable as exc:
        print(f"{exc}; what was read and not acknowledged stays on the queue", file=out)
        return PROBLEM
    finally:
        await log.close()


async def _drain_one(name: str, source: broker.Broker, codec: chunk.Codec, log: client.Log, out: TextIO) -> int:
    async def release(found: Sequence[base.Task]) -> int:
        held: dict[int, list[str]] = defaultdict(list)
        for task in found:
            held[task.partition].append(task.text)
        lost = 0
        for partition, texts in held.items():
            for at in range(0, len(texts), tasks.HOLD_TASKS):
                lost += len(await tasks.hold(log, {partition: texts[at : at + tasks.HOLD_TASKS]}, 0))
        return len(found) - lost

    done = draining.Drained()
    terminal = out.isatty()

    def told(now: draining.Drained) -> None:
        nonlocal done
        done = now
        if terminal:
            print(f"\r{name}: {now.messages:,} messages", end="", file=out, flush=True)

    problem = ""
    try:
        async with broker.deadline(broker.PREPARE_S, "the broker did not answer"):
            problems = await source.prepare(False)
        problem = "; ".join(problems)
        if not problems:
            await draining.drain(source, codec, release, told)
    except broker.BrokerError as exc:
        problem = str(exc)
    finally:
        await broker.end(source)
        start = "\r" if terminal else ""
        print(
            f"{start}{name}: {done.messages:,} messages; {done.live:,} tasks live, "
            f"{done.gone:,} gone, {done.foreign:,} messages of others, {done.unreadable:,} unreadable",
            file=out,
        )
    if problem:
        print(f"{name}: {problem}", file=out)
    return PROBLEM if problem else OK
