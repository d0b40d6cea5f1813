"""The options of `outpost bench`: the argparse definition, and the checked struct that everything else
reads.
"""

from __future__ import annotations

import argparse
import os
from urllib.parse import urlsplit

import msgspec

from outpost import errors
from outpost.cli.bench import wire
from outpost.cli.demo import queues

KEY_VARIABLE = "OUTPOST_BENCH_KEY"

DESCRIPTION = """\
Drive an Outpost-compatible server over its public HTTP API and prove what it did.

Without --url a throw-away `outpost serve --embedded` is started on a free port and stopped at the end;
its processes are measured by themselves. With --url the server must run already; name its processes with
--pid to measure them. Generator, receiver and server share the machine unless the URL says otherwise.

Two kinds of load:
  open loop    (default) event n is due at start + n / RATE, fixed in advance, however the server does.
               Latency counts from the due time to the arrival at the receiver, so a server that stalls
               cannot hide the events that it made wait. Use it for latency at a rate.
  closed loop  (--max) every connection publishes again as soon as it has its answer, for SECONDS. The
               load adapts to the server: it shows the highest throughput, and its latencies say little.
"""

EPILOG = f"""\
checks: every event id sent must be accepted (202), be delivered once to each of the FAN-OUT destinations
of its tenant, and be listed once by GET /events and GET /attempts. Refusals (429, 503) are counted apart,
and what was refused must not show up. The exit code is 0 if all holds, 1 with a sentence a finding if not,
2 if the bench could not run.

figures: published -> delivered -> logged = accepted events / (log lists all of them - first one was due).
The log is not asked while the load lasts; then probe ids (the last ones accepted and a spread of others)
are looked up ten times a second, and at last everything is paged once. CPU time of the target covers the
load until the probes were listed, memory is taken then.

black holes: with --black-holes N the load runs alone first. Then N destinations of other tenants, whose port
accepts connections and never answers, are sent BLACK-HOLE-EVENTS events each, and the load runs again beside
them. The report has both latencies with the ratio of their p99, the sockets that were open to the black holes
at once, and the memory of the target before and after. The target's limit of destinations a tenant must be
20 or more.

environment: {KEY_VARIABLE} is the API key if --key is not given.

examples:
  outpost bench
  outpost bench --max --seconds 5 --json -
  outpost bench --black-holes 1000 --rate 50
  outpost bench --url http://127.0.0.1:3333/api/v1 --key "$API_KEY" --rate 500 --pid server=4711 --pid redis=4712
"""


class Named(msgspec.Struct, frozen=True):
    """A process to measure, with its descendants, under a name of the report."""

    name: str
    pid: int


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. `url` is None for a throw-away server; `rate` counts events a second."""

    url: str | None = None
    key: str = ""
    rate: float = 1000.0
    seconds: float = 10.0
    warmup_s: float = 2.0
    drain_s: float = 30.0
    closed: bool = False
    tenants: int = 1
    fan_out: int = 1
    connections: int = 64
    payload_bytes: int = 514
    topic: str | None = None
    receiver_host: str = "127.0.0.1"
    pids: tuple[Named, ...] = ()
    json_path: str | None = None
    keep: bool = False
    allow_duplicates: bool = False
    black_holes: int = 0
    black_hole_events: int = 10
    queue: str = "in-process"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add every option, with the defaults of `Options`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    default = Options()
    _add_target(parser)
    load = parser.add_argument_group("load")
    load.add_argument("--rate", type=float, default=default.rate, help="events a second, open loop (%(default)g)")
    load.add_argument("--max", action="store_true", dest="closed", help="closed loop: as fast as it answers")
    load.add_argument("--seconds", type=float, default=default.seconds, help="length of the load (%(default)g)")
    load.add_argument(
        "--warmup",
        type=float,
        default=default.warmup_s,
        dest="warmup_s",
        metavar="SECONDS",
        help="the same load before it, checked by id but in no figure; 0 for none (%(default)g)",
    )
    load.add_argument("--tenants", type=int, default=default.tenants, help="events rotate (%(default)s)")
    load.add_argument("--fan-out", type=int, default=default.fan_out, help="destinations a tenant (%(default)s)")
    load.add_argument(
        "--connections",
        type=int,
        default=default.connections,
        help="keep-alive connections of the generator, one request in flight on each (%(default)s)",
    )
    load.add_argument(
        "--payload-bytes", type=int, default=default.payload_bytes, help="size of a publish body (%(default)s)"
    )
    load.add_argument("--topic", default=None, help="topic (the first of GET /topics, or bench.event)")
    load.add_argument(
        "--black-holes",
        type=int,
        default=default.black_holes,
        metavar="N",
        help="destinations that never answer, beside the load (%(default)s)",
    )
    load.add_argument(
        "--black-hole-events",
        type=int,
        default=default.black_hole_events,
        metavar="N",
        help="events to each of them, all before the load (%(default)s)",
    )
    checks = parser.add_argument_group("checks and report")
    checks.add_argument(
        "--drain",
        type=float,
        default=default.drain_s,
        dest="drain_s",
        metavar="SECONDS",
        help="how long after the load to wait for answers, deliveries and the log (%(default)g)",
    )
    checks.add_argument("--allow-duplicates", action="store_true", help="report doubled deliveries, do not fail")
    checks.add_argument("--json", dest="json_path", metavar="FILE", help="write JSON; - prints only it")
    checks.add_argument("--keep", action="store_true", help="do not delete the tenants at the end")


def _add_target(parser: argparse.ArgumentParser) -> None:
    target = parser.add_argument_group("target")
    which = target.add_mutually_exclusive_group()
    which.add_argument("--url", help="base URL with the API prefix, such as http://127.0.0.1:3333/api/v1")
    which.add_argument("--spawn", action="store_true", help="start a throw-away server (default)")
    target.add_argument(
        "--queue",
        choices=list(queues.QUEUES),
        default=Options().queue,
        help="what carries deliveries of a throw-away server; a broker is started and measured (%(default)s)",
    )
    target.add_argument("--key", default=None, help=f"API key of the target ({KEY_VARIABLE})")
    target.add_argument(
        "--pid",
        action="append",
        default=[],
        dest="pids",
        metavar="NAME=PID",
        help="measure this process and its descendants under NAME; repeatable",
    )
    target.add_argument(
        "--receiver-host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address that the receiver listens on and the destinations name (%(default)s)",
    )


def from_args(args: argparse.Namespace) -> Options:
    """The checked options. Raises `ConfigurationError` with every problem."""
    problems: list[str] = []
    pids = tuple(named for text in args.pids if (named := _named(text, problems)))
    if args.url is not None:
        parts = urlsplit(args.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            problems.append(f"--url must be an http or https URL, not {args.url!r}")
    if not args.rate > 0:
        problems.append("--rate must be greater than 0")
    if not args.seconds > 0:
        problems.append("--seconds must be greater than 0")
    if args.warmup_s < 0 or args.drain_s < 0:
        problems.append("--warmup and --drain must not be negative")
    problems += [
        f"--{name.replace('_', '-')} must be at least 1"
        for name in ("tenants", "fan_out", "connections")
        if getattr(args, name) < 1
    ]
    if args.black_holes < 0 or args.black_hole_events < 1:
        problems.append("--black-holes must not be negative, and --black-hole-events at least 1")
    if args.black_holes and args.closed:
        problems.append("--black-holes is about latency at a rate: it excludes --max")
    if args.url is not None and args.queue != Options().queue:
        problems.append("--queue is that of a throw-away server: it excludes --url")
    if args.payload_bytes < wire.SMALLEST_BODY_BYTES:
        problems.append(f"--payload-bytes must be at least {wire.SMALLEST_BODY_BYTES}")
    if problems:
        raise errors.ConfigurationError(problems)
    return Options(
        url=args.url.rstrip("/") if args.url else None,
        key=args.key or os.environ.get(KEY_VARIABLE, ""),
        rate=args.rate,
        seconds=args.seconds,
        warmup_s=args.warmup_s,
        drain_s=args.drain_s,
        closed=args.closed,
        tenants=args.tenants,
        fan_out=args.fan_out,
        connections=args.connections,
        payload_bytes=args.payload_bytes,
        topic=args.topic,
        receiver_host=args.receiver_host,
        pids=pids,
        json_path=args.json_path,
        keep=args.keep,
        allow_duplicates=args.allow_duplicates,
        black_holes=args.black_holes,
        black_hole_events=args.black_hole_events,
        queue=args.queue,
    )


def _named(text: str, problems: list[str]) -> Named | None:
    name, _, number = text.partition("=")
    if name and number.isascii() and number.isdigit():
        return Named(name, int(number))
    problems.append(f"--pid must be NAME=PID, not {text!r}")
    return None
