"""Starts and stops both embedded stores of a folder, as `serve --embedded` and `outpost demo` need them."""

from __future__ import annotations

from pathlib import Path

from outpost.embedded import folder, postgres, valkey


class EmbeddedStores:
    """Both stores, running; what settings need to reach them. Not a struct, so that no `repr` shows a
    password.
    """

    def __init__(self, path: Path, redis: valkey.Valkey, log_store: postgres.Postgres, *, throwaway: bool) -> None:
        self.path = path
        self.redis_host = redis.host
        self.redis_port = redis.port
        self.redis_password = redis.password
        self.redis_unix_socket = redis.unix_socket
        self.redis_pid = redis.server.pid
        self.postgres_port = log_store.port
        self.postgres_url = log_store.url()
        self.postgres_pid = log_store.server.pid
        self._servers = (log_store.server, redis.server)
        self._throwaway = throwaway

    def stop(self) -> None:
        """Stops both at the same time, at most 5 s in all; deletes a throw-away folder. Harmless when
        repeated.

        The clients are expected to have closed; Postgres, which only follows the log, gets its signal first.
        """
        for server in self._servers:
            server.begin_stop()
        for server in self._servers:
            server.stop()
        if self._throwaway:
            postgres.delete(self.path)


def start(path: Path, *, throwaway: bool = False) -> EmbeddedStores:
    """Starts both stores on free ports with their data in `path`, which the caller holds (`folder.hold`).

    Must run in the main thread. With `throwaway`, `stop` deletes the folder. Raises EmbeddedError; then
    nothing that it started is left running.
    """
    path = folder.make(path)
    secrets = folder.secrets(path)
    redis = valkey.start(path, password=secrets.redis_password)
    try:
        log_store = postgres.start(path, password=secrets.postgres_password, throwaway=throwaway)
    except BaseException:
        redis.server.stop()
        raise
    return EmbeddedStores(path, redis, log_store, throwaway=throwaway)
