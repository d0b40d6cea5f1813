"""Whom TLS to destinations believes, as this process would."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from outpost.cli.doctor import findings as say
from outpost.cli.doctor.findings import Finding
from outpost.settings import Settings


def look(settings: Settings) -> Finding:
    """Where the authorities come from by which destinations of every type are checked."""
    paths = ssl.get_default_verify_paths()
    chosen = os.environ.get(paths.openssl_cafile_env)
    if chosen and not Path(chosen).is_file():
        return say.problem(
            "tls",
            f"{paths.openssl_cafile_env} names no file: {chosen}",
            "name a file with certificates in PEM, or unset it",
        )
    found = [f"{paths.openssl_cafile_env}={chosen}" if chosen else paths.cafile or paths.capath]
    if settings.destinations_ca_file:
        found.append(f"DESTINATIONS_CA_FILE={settings.destinations_ca_file}")
    if not any(found):
        return say.problem(
            "tls",
            "this machine has no authorities, so that no certificate is believed",
            "install ca-certificates, or set DESTINATIONS_CA_FILE",
        )
    return say.ok("tls", f"destinations are checked by the authorities of {' and '.join(filter(None, found))}")
