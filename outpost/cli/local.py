"""Tools beside a server with embedded stores: run where it was started, they find its stores without settings."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from outpost.embedded import folder, postgres, valkey
from outpost.settings import Settings
from outpost.settings import load as settings_load

FOLDER = Path(".outpost")
# Whoever names one of these means another server.
LOCATIONS = ("REDIS_URL", "REDIS_HOST", "REDIS_UNIX_SOCKET", "POSTGRES_URL")


def environment(environ: Mapping[str, str], config_path: str | None, path: Path = FOLDER) -> Mapping[str, str]:
    """`environ`, completed with the stores of the server that runs with its data in `path`.

    Unchanged where there is none, or where environment or file say which stores to use.
    """
    given = settings_load.resolve(environ, config_path, None).given
    state = folder.read_state(path)
    if state is None or any(name in given for name in LOCATIONS):
        return environ
    secrets = folder.secrets(path)
    return {
        **environ,
        "REDIS_HOST": valkey.HOST,
        "REDIS_PORT": str(state.redis_port),
        "REDIS_PASSWORD": secrets.redis_password,
        "POSTGRES_URL": postgres_url(state, secrets),
        "AES_ENCRYPTION_SECRET": environ.get("AES_ENCRYPTION_SECRET") or secrets.aes_encryption_secret,
    }


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds the option that names the file with the settings."""
    parser.add_argument("-c", "--config", metavar="FILE", help="a YAML or .env file (also: CONFIG)")


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings for a tool that serves no HTTP: as the role `log`, which needs no API key. Raises
    errors.ConfigurationError."""
    environ = {**environment(os.environ, args.config), "SERVICE": "log"}
    return settings_load.load(environ, args.config, "log")


def postgres_url(state: folder.State, secrets: folder.Secrets) -> str:
    """Where the Postgres of a running server answers, with the password in it."""
    location = f"{valkey.HOST}:{state.postgres_port}/{postgres.DATABASE}"
    return f"postgresql://{postgres.USER}:{secrets.postgres_password}@{location}"
