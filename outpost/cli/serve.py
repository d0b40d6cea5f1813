"""`outpost serve`: processes with the roles that their settings name; with `--embedded` their stores too."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import uvloop

from outpost import telemetry
from outpost.cli import receive
from outpost.embedded import folder, stores
from outpost.process import prefork, supervise
from outpost.process.http_server import ports
from outpost.settings import Settings
from outpost.settings import load as settings_load

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # a server in a container is reached from outside of it
LOOPBACK_CIDRS = ("127.0.0.0/8", "::1/128")
DEFAULT_FOLDER = Path(".outpost")

Announce = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `serve`."""
    parser.add_argument("--service", choices=["all", "api", "delivery", "log"], help="which roles (also: SERVICE)")
    parser.add_argument("--workers", type=int, metavar="N", help="how many processes (also: WORKERS; default 1)")
    parser.add_argument("-c", "--config", metavar="FILE", help="a YAML or .env file (also: CONFIG)")
    parser.add_argument(
        "--host",
        help=f"address (also: API_HOST; {EVERYWHERE}; {LOOPBACK} with --embedded; :: for both families)",
    )
    parser.add_argument("--port", type=int, help="port to listen on (also: API_PORT; default 3333)")
    parser.add_argument(
        "--embedded", action="store_true", help="start Valkey and Postgres too, with their data in --folder"
    )
    parser.add_argument(
        "--folder", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help="for --embedded (default ./.outpost)"
    )


def run(args: argparse.Namespace) -> int:
    """Serves until SIGINT or SIGTERM. Raises ConfigurationError, StartRefused and EmbeddedError."""
    if args.embedded:
        return _run_embedded(args)
    resolved = settings_load.checked(_environ(args, os.environ), args.config, args.service)
    settings = resolved.settings
    host = args.host or settings.api_host or EVERYWHERE
    port = settings.api_port if args.port is None else args.port
    return serve(settings, host, port, warnings=settings_load.later(resolved))


def serve(
    settings: Settings, host: str, port: int, announce: Announce | None = None, *, warnings: Sequence[str] = ()
) -> int:
    """One process on one event loop, or a parent with several of them; its exit code. `warnings` about settings
    are logged once, however many processes there are."""
    telemetry.configure(settings.log_level)
    for sentence in warnings:
        telemetry.emit("setting_warned", "warning", reason=sentence)

    def one(listening: socket.socket, up: Announce | None) -> int:
        return uvloop.run(supervise.run(settings, listening, up))

    if settings.workers == 1:
        return one(ports.bind(host, port), announce)
    with contextlib.closing(ports.SharedPort(host, port)) as shared:
        return prefork.run(shared, settings.workers, one, announce)


def _environ(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, str]:
    """What the command line says of the settings wins, and is checked like them."""
    return environ if args.workers is None else {**environ, "WORKERS": str(args.workers)}


def _run_embedded(args: argparse.Namespace) -> int:
    held = folder.hold(args.folder)
    try:
        kept = folder.secrets(held.path)
        settings, warnings = _embedded_settings(args, kept)
        started = stores.start(held.path)
        try:
            settings = msgspec.structs.replace(
                settings,
                redis_url="",
                redis_host=started.redis_host,
                redis_port=started.redis_port,
                redis_username="",
                redis_password=started.redis_password,
                redis_database=0,
                redis_tls_enabled=False,
                redis_unix_socket=started.redis_unix_socket,
                postgres_url=started.postgres_url,
            )

            def announce(base_url: str) -> None:
                held.write_state(base_url, started.redis_port, started.postgres_port)
                _print_banner(base_url, kept.api_key, held.path, settings)

            port = settings.api_port if args.port is None else args.port
            host = args.host or settings.api_host or LOOPBACK
            return serve(settings, host, port, announce, warnings=warnings)
        finally:
            started.stop()
    finally:
        held.release()


def _embedded_settings(args: argparse.Namespace, kept: folder.Secrets) -> tuple[Settings, list[str]]:
    """The settings, with the folder's secrets where none are given, and the warnings about them. Loopback
    destinations are allowed, because whoever tries this out has nothing else."""
    made = {
        "API_KEY": kept.api_key,
        "AES_ENCRYPTION_SECRET": kept.aes_encryption_secret,
        "API_JWT_SECRET": kept.api_jwt_secret,
    }
    environ = _environ(args, {**made, **{k: v for k, v in os.environ.items() if v}})
    resolved = settings_load.checked(environ, args.config, args.service, embedded=True)
    settings, warnings = resolved.settings, settings_load.later(resolved)
    if settings.destinations_allowed_cidrs:
        return settings, warnings
    return msgspec.structs.replace(settings, destinations_allowed_cidrs=LOOPBACK_CIDRS), warnings


def _print_banner(base_url: str, api_key: str, path: Path, settings: Settings) -> None:
    """Prints where Outpost is, and lines that end with a delivered event on the screen when they are pasted."""
    auth = f"-H 'Authorization: Bearer {api_key}'"
    json = "-H 'Content-Type: application/json'"
    secret = secrets.token_hex(16)
    url = f"http://127.0.0.1:{receive.DEFAULT_PORT}/"
    destination = (
        f'{{"type":"webhook","topics":"*","config":{{"url":"{url}"}},"credentials":{{"secret":"{secret}"}}}}'
    )
    event = '{"tenant_id":"acme","topic":"order.created","data":{"order":1}}'
    print(
        f"""
Outpost is running.

  base URL   {base_url}
  API key    {api_key}
  data       {path} (Valkey with AOF always, Postgres)
  allowed    webhooks to {", ".join(settings.destinations_allowed_cidrs)} besides public addresses

Try it in another terminal. The first line starts a receiver, which prints the event when it arrives:

  {_this_command()} receive --port {receive.DEFAULT_PORT} --secret {secret} & sleep 1
  curl -X PUT {base_url}/tenants/acme {auth}
  curl -X POST {base_url}/tenants/acme/destinations {auth} {json} -d '{destination}'
  curl -X POST {base_url}/publish {auth} {json} -d '{event}'

Ctrl-C stops it.
""",
        file=sys.stdout,
        flush=True,
    )


def _this_command() -> str:
    """The words that start `outpost` again as it was started, from the same folder."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m outpost"
    with contextlib.suppress(ValueError):
        started = started.absolute().relative_to(Path.cwd())
    return shlex.quote(str(started))
