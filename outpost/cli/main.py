"""The command `outpost`: parses the command line, and says in one sentence why something cannot be done.

A command's module is imported only when that command is asked for, because all of them together take a second.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NamedTuple

REFUSED = 2  # exit code for settings or arguments that cannot be used
FAILED = 1


class Command(NamedTuple):
    """A line of the help, and a module with `add_arguments(parser)` and `run(args)`, which gives the exit code."""

    help: str
    module: str


COMMANDS = {
    "serve": Command("run the API, the delivery and the log, or one of them", "outpost.cli.serve"),
    "demo": Command("publish one event through everything, and show what happened", "outpost.cli.demo"),
    "receive": Command("show the webhooks that arrive, and answer them as told", "outpost.cli.receive"),
    "streams": Command("look into the log: list, tail, show, groups, skip", "outpost.cli.streams"),
    "queue": Command("look at the brokers of the queues, or empty one that is to be left", "outpost.cli.queue"),
    "doctor": Command("say what is wrong with a deployment, and what to do", "outpost.cli.doctor"),
    "migrate": Command("plan, apply or verify the schema in Postgres", "outpost.cli.migrate"),
    "config": Command("list the settings and where they are from", "outpost.cli.config"),
    "bench": Command("measure this server or any other that is compatible", "outpost.cli.bench"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    asked = next((word for word in words if not word.startswith("-")), None)
    return _run(parser([asked] if asked in COMMANDS else []).parse_args(words))


def parser(detailed: Sequence[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """The parser, which knows every command and the options of those in `detailed`."""
    root = argparse.ArgumentParser(prog="outpost", description="Deliver a platform's events to its customers.")
    root.add_argument("--version", action="version", version=f"outpost {version('outpost-events')}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        added = commands.add_parser(name, help=command.help)
        if name in detailed:
            module = importlib.import_module(command.module)
            module.add_arguments(added)
            added.set_defaults(run=module.run)
    return root


def _run(args: argparse.Namespace) -> int:
    from outpost import errors, telemetry

    telemetry.configure("info")
    try:
        code: int = args.run(args)
    except errors.ConfigurationError as exc:
        print("The settings cannot be used:", file=sys.stderr)
        for problem in exc.problems:
            print(f"  {problem}", file=sys.stderr)
        return REFUSED
    except errors.OutpostError as exc:
        print(f"outpost: {exc}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130
    return code
