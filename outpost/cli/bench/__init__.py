"""`outpost bench`: load for any Outpost-compatible server over its public HTTP API, with the proof that
nothing was lost. A generator publishes, a receiver takes the webhooks, each in a process of its own; the
command sets up tenants and destinations, compares sent, accepted, delivered and logged by distinct id, and
reports rates, latency and CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from outpost import errors

# The generator and the receiver import this package too: what only the command needs is imported inside `run`.

REFUSED_EXIT = 2  # the bench did not run: bad options, or the target did not take the set-up


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `outpost bench` to `parser`, with its description and epilogue."""
    from outpost.cli.bench import options

    options.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the bench; returns 0 if every check held, 1 if one failed, 2 if the bench could not run."""
    try:
        found = _load(args)
    except errors.ConfigurationError as error:
        for problem in error.problems:
            print(f"outpost bench: {problem}", file=sys.stderr)
        return REFUSED_EXIT
    except errors.OutpostError as error:
        print(f"outpost bench: {error}", file=sys.stderr)
        return REFUSED_EXIT
    except KeyboardInterrupt:
        print("outpost bench: interrupted", file=sys.stderr)
        return REFUSED_EXIT
    return 1 if found else 0


def _load(args: argparse.Namespace) -> list[str]:
    """The findings of the bench of a server, after its report."""
    from outpost.adapters import extras
    from outpost.cli.bench import options

    if sentence := extras.missing("outpost bench", "psutil", "bench"):
        raise errors.StartRefused(sentence)
    from outpost.cli.bench import report, session

    chosen = options.from_args(args)
    result = asyncio.run(session.run(chosen, tell=report.progress))
    report.show(result, chosen.json_path)
    return result.problems
