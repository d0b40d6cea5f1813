"""What a delivery of each type costs, from the senders of a process to a stand-in of
the service, beside a single call of the service's own library. Every event is looked for at the stand-in.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

import msgspec
import uvloop

from outpost import errors
from outpost import settings as settings_
from outpost.adapters import registry
from outpost.process.roles import delivery as delivery_role
from tests.benchmarks import load, ours, report, sdk, stand_ins

# As many as one destination may have under way at the default of DELIVERY_MAX_CONCURRENCY.
AT_ONCE = settings_.Settings().delivery_max_concurrency // delivery_role.LANE_SHARE


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to run; no `types` are all of them."""

    types: tuple[str, ...]
    events: int
    seconds: float
    json_path: str | None


def from_args(args: argparse.Namespace) -> Options:
    """The checked options. Raises `ConfigurationError` with every problem."""
    known = [one.type for one in registry.build(settings_.Settings()).types() if one.type in sdk.LIBRARIES]
    problems = [
        f"--type {type_}: there is no such type; known are {', '.join(known)}"
        for type_ in args.types
        if type_ not in known
    ]
    if args.events < 1:
        problems.append("--events must be at least 1")
    if not args.seconds > 0:
        problems.append("--seconds must be greater than 0")
    if problems:
        raise errors.ConfigurationError(problems)
    chosen = tuple(type_ for type_ in known if not args.types or type_ in args.types)
    return Options(types=chosen, events=args.events, seconds=args.seconds, json_path=args.json_path)


def run(options: Options, tell: Callable[[str], None]) -> report.Result:
    """All types, one after another, on the loop that a server uses. Raises `StartRefused` where no
    type can be measured on this machine."""
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # its threads live on while stand-ins are started
    return uvloop.run(_run(options, tell))


async def _run(options: Options, tell: Callable[[str], None]) -> report.Result:
    unavailable = {one.type: one.unavailable for one in registry.build(settings_.Settings()).types()}
    rows: list[report.Row] = []
    left_out: dict[str, str] = {}
    problems: list[str] = []
    for type_ in options.types:
        try:
            found = unavailable[type_] or await _one(type_, options, tell)
        except errors.StartRefused as exc:
            problems.append(f"{type_}: {exc}")
            continue
        if isinstance(found, str):
            left_out[type_] = found
        else:
            rows.append(found)
    if not rows:
        told = "; ".join([*problems, *(f"{type_}: {sentence}" for type_, sentence in left_out.items())])
        raise errors.StartRefused(f"no type can be measured on this machine: {told}")
    return report.Result(
        events=options.events,
        seconds=options.seconds,
        payload_bytes=load.PAYLOAD_BYTES,
        at_once=AT_ONCE,
        types=rows,
        left_out=left_out,
        problems=[*problems, *(sentence for row in rows for sentence in report.problems(row))],
    )


async def _one(type_: str, options: Options, tell: Callable[[str], None]) -> report.Row | str:
    """The figures of a type, or what has to be installed for its stand-in."""
    async with stand_ins.opened(type_) as stand_in:
        if isinstance(stand_in, str):
            return stand_in
        tell(f"{type_}: starting the stand-in")
        place = await stand_in.target()
        tell(f"{type_}: {options.events:,} deliveries by Outpost")
        async with ours.opened(type_, place, AT_ONCE) as side:
            warm = await load.measured(side.send, min(AT_ONCE, options.events), options.seconds)
            side.sizes()
            tally = await load.measured(side.send, options.events, options.seconds)
            batches = report.batches(side.sizes())
        mine = report.side(tally, warm, await stand_in.arrived(place, tally.delivered + warm.delivered))
        place = await stand_in.target()
        library = sdk.LIBRARIES[type_]
        tell(f"{type_}: {tally.sent:,} calls of {library.name}")
        async with sdk.opened(type_, place) as bare:
            warm = await load.measured(bare.send, min(library.callers, tally.sent), options.seconds)
            tally = await load.measured(bare.send, tally.sent, options.seconds)
        single = report.side(tally, warm, await stand_in.arrived(place, tally.delivered + warm.delivered))
        return report.Row(
            type=type_,
            ours=mine,
            batches=batches,
            library=library.name,
            callers=library.callers,
            single=single,
        )
