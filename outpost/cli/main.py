"""The command `outpost`: parses the command line, and says in one sentence why something cannot be done."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from outpost import errors, settings, settings_load, telemetry
from outpost.cli import bench, config, demo, doctor, local, migrate, serve, streams

REFUSED = 2  # exit code for settings or arguments that cannot be used
FAILED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; its exit code."""
    args = parser().parse_args(argv)
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


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    root = argparse.ArgumentParser(prog="outpost", description="Deliver a platform's events to its customers.")
    root.add_argument("--version", action="version", version=f"outpost {settings.VERSION}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = commands.add_parser("serve", help="run the API, the delivery and the log, or one of them")
    serve.add_arguments(command)
    command.set_defaults(run=serve.run)

    command = commands.add_parser("demo", help="publish one event through everything, and show what happened")
    demo.add_arguments(command)
    command.set_defaults(run=demo.run)

    command = commands.add_parser("streams", help="look into the log: list, tail, show, groups, skip")
    streams.add_arguments(command)
    command.set_defaults(run=_streams)
    _add_config(command)

    command = commands.add_parser("doctor", help="say what is wrong with a deployment, and what to do")
    doctor.add_arguments(command)
    command.set_defaults(run=lambda a: doctor.run(a, _settings_of(a)))
    _add_config(command)

    _add_migrate(commands.add_parser("migrate", help="plan, apply or verify the schema in Postgres"))

    command = commands.add_parser("config", help="list the settings and where they are from")
    command.add_argument("action", choices=["list"])
    command.set_defaults(run=lambda a: config.list_settings(os.environ, a.config, sys.stdout))
    _add_config(command)

    command = commands.add_parser("bench", help="measure this server or any other that is compatible")
    bench.add_arguments(command)
    command.set_defaults(run=bench.run)
    return root


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument("-c", "--config", metavar="FILE", help="a YAML or .env file (also: CONFIG)")


def _add_migrate(command: argparse.ArgumentParser) -> None:
    actions = {"plan": migrate.plan, "apply": migrate.apply, "verify": migrate.verify}
    command.add_argument("action", choices=list(actions))
    _add_config(command)
    command.set_defaults(run=lambda a: actions[a.action](_settings_of(a)))


def _streams(args: argparse.Namespace) -> int:
    return streams.run(args, _settings_of(args))


def _settings_of(args: argparse.Namespace) -> settings.Settings:
    """Settings for a tool that serves no HTTP: as the role `log`, which needs no API key."""
    environ = {**local.environment(os.environ, args.config), "SERVICE": "log"}
    return settings_load.load(environ, args.config, "log")
