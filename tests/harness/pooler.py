"""Debian's PgBouncer in transaction mode before a Postgres of the tests, which uses its connections in turn."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from tests.harness.polling import free_port, wait_for_port
from tests.harness.servers import leave_out

PROGRAM = Path("/usr/sbin/pgbouncer")
CONNECTIONS = 4  # to Postgres, used in turn, so that hardly two transactions of a client meet the same
STOP_LIMIT_S = 30.0


class Pooler:
    """One PgBouncer for the server of `postgres_url`; `url` is the same database through it."""

    def __init__(self, postgres_url: str, folder: Path) -> None:
        if not PROGRAM.exists():
            leave_out("pgbouncer is missing: apt-get install pgbouncer")
        self._behind = urlsplit(postgres_url)
        self._folder = folder
        self.port = free_port()
        self.url = self._behind._replace(
            netloc=f"{self._behind.username}:{self._behind.password}@127.0.0.1:{self.port}"
        ).geturl()
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        behind, users, settings = self._behind, self._folder / "users.txt", self._folder / "pgbouncer.ini"
        users.write_text(f'"{behind.username}" "{behind.password}"\n')
        settings.write_text(
            f"""[databases]
* = host={behind.hostname} port={behind.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = md5
auth_file = {users}
pool_mode = transaction
default_pool_size = {CONNECTIONS}
server_round_robin = 1
max_client_conn = 500
"""
        )
        command = [str(PROGRAM), str(settings)]
        if os.getuid() == 0:  # as whom it does not start
            for path in (users, settings):
                path.chmod(0o644)
            command[1:1] = ["-u", "nobody"]
        with (self._folder / "pgbouncer.log").open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        await wait_for_port(self.port)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(STOP_LIMIT_S)

    @property
    def said(self) -> str:
        return (self._folder / "pgbouncer.log").read_text()
