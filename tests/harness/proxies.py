"""Debian's nginx and HAProxy in front of a server, on free ports of loopback with all files in one folder.

Both keep connections to the server open and share them between clients, which is what request smuggling needs.
nginx has the WebSocket configuration of its documentation, which forwards `Upgrade`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness.polling import free_port, wait_for_port

NGINX, HAPROXY = Path("/usr/sbin/nginx"), Path("/usr/sbin/haproxy")
STOP_S = 30.0

_NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream outpost {{ server 127.0.0.1:{server}; keepalive 1; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://outpost;
      proxy_http_version 1.1;
      proxy_request_buffering off;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header Host $host;
    }}
  }}
}}
"""
_HAPROXY = """
defaults
  mode http
  timeout connect 30s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend clients
  bind 127.0.0.1:{port}
  default_backend outpost
backend outpost
  server one 127.0.0.1:{server} pool-max-conn 1
"""


@contextlib.asynccontextmanager
async def nginx(server_port: int, folder: Path) -> AsyncIterator[int]:
    """The port of an nginx in front of a server."""
    async with _running(NGINX, _NGINX, server_port, folder, "-p", str(folder), "-c") as port:
        yield port


@contextlib.asynccontextmanager
async def haproxy(server_port: int, folder: Path) -> AsyncIterator[int]:
    """The port of an HAProxy in front of a server."""
    async with _running(HAPROXY, _HAPROXY, server_port, folder, "-db", "-f") as port:
        yield port


@contextlib.asynccontextmanager
async def _running(program: Path, form: str, server_port: int, folder: Path, *options: str) -> AsyncIterator[int]:
    if not program.exists():
        missing = f"{program.name} is not on this machine: apt-get install {program.name}"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    port = free_port()
    config = folder / f"{program.name}.conf"
    config.write_text(form.format(folder=folder, port=port, server=server_port))
    with (folder / f"{program.name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program, *options, config, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        try:
            await wait_for_port(port)
            yield port
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), STOP_S)
