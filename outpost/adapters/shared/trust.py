"""Whom deliveries believe: the one place that makes TLS contexts, for every destination type.

Python 3.13 began to verify by the letter of RFC 5280, by which certificates of company authorities fail that
browsers, curl and older Pythons take. It is not asked for here: a newer interpreter must not stop deliveries.
"""

from __future__ import annotations

import functools
import os
import ssl
from pathlib import Path


@functools.cache
def plain(ca_file: str = "") -> ssl.SSLContext:
    """The system's authorities, and those in `ca_file` (PEM) beside them; building it takes 15 ms and half a
    megabyte. Raises OSError for a file that cannot be read or holds none."""
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


@functools.cache
def http(ca_file: str = "") -> ssl.SSLContext:
    """The same for HTTP, which is said to the server."""
    context = plain.__wrapped__(ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def added(ca_file: str) -> bytes:
    """The authorities that the operator names, as PEM, for a library that makes its own context: those of
    `ca_file` and of `SSL_CERT_FILE`. Raises OSError."""
    named = [Path(name) for name in (ca_file, os.environ.get("SSL_CERT_FILE", "")) if name]
    return b"\n".join(path.read_bytes() for path in named if path.is_file())
