"""The `.outpost` folder: made for its owner alone, held by one process at a time, with the secrets made once.

Held means a lock on the file `pid` for the life of the process, so a pid left by a crash never blocks a
start. The file `state` tells a second start where the first one answers.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets as random_secrets
import tempfile
from pathlib import Path

import msgspec

from outpost.embedded import process
from outpost.embedded.die_with_parent import NOBODY_ID
from outpost.errors import EmbeddedError

FOLDER_MODE = 0o700
FILE_MODE = 0o600
SECRET_BYTES = 32
DATA_FOLDERS = ("valkey", "postgres")
LONGEST_SOCKET_NAME = ".s.PGSQL.65535.lock"


class Secrets:
    """What is made once for a folder. Not a struct, so that no `repr` can show it."""

    NAMES = ("API_KEY", "AES_ENCRYPTION_SECRET", "API_JWT_SECRET", "REDIS_PASSWORD", "POSTGRES_PASSWORD")

    def __init__(self, values: dict[str, str]) -> None:
        self.api_key = values["API_KEY"]
        self.aes_encryption_secret = values["AES_ENCRYPTION_SECRET"]
        self.api_jwt_secret = values["API_JWT_SECRET"]
        self.redis_password = values["REDIS_PASSWORD"]
        self.postgres_password = values["POSTGRES_PASSWORD"]


class State(msgspec.Struct, frozen=True):
    """Where the process that holds the folder can be reached."""

    pid: int
    base_url: str
    redis_port: int
    postgres_port: int


class Held:
    """The folder, held by this process until `release` or its end."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def write_state(self, base_url: str, redis_port: int, postgres_port: int) -> None:
        """Tells a second start where this process answers."""
        state = State(os.getpid(), base_url, redis_port, postgres_port)
        _replace(self.path / "state", msgspec.json.encode(state) + b"\n")

    def release(self) -> None:
        """Gives the folder up; the files stay, an empty `pid` among them. Harmless when repeated."""
        if self._lock >= 0:
            (self.path / "state").unlink(missing_ok=True)
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = -1


def hold(path: Path) -> Held:
    """Makes the folder if need be and takes it.

    Raises EmbeddedError with the sentence for the user if another process has it.
    """
    path = make(path)
    lock = os.open(path / "pid", os.O_RDWR | os.O_CREAT, FILE_MODE)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise EmbeddedError(_already_running(path)) from None
    except OSError as error:
        os.close(lock)
        raise EmbeddedError(f"{path} cannot be locked: {error.strerror}; choose one on a local disk") from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return Held(path, lock)


def _already_running(path: Path) -> str:
    pid = (path / "pid").read_text().strip() or "unknown"
    state = read_state(path)
    if state is None or str(state.pid) != pid:
        return f"Outpost is already starting (pid {pid}) in {path}, stop it first"
    return f"Outpost is already running (pid {pid}) at {state.base_url}, stop it first"


def read_state(path: Path) -> State | None:
    """What the holder wrote, or None if it has not, or not in a form that we know."""
    try:
        return msgspec.json.decode((path / "state").read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError):
        return None


def make(path: Path) -> Path:
    """The folder with mode 700, as an absolute path. Raises EmbeddedError if it cannot be made."""
    try:
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        path.chmod(FOLDER_MODE)
        return path.resolve(strict=True)
    except OSError as error:
        raise EmbeddedError(f"{path} cannot be made a private folder: {error.strerror}") from error


def secrets(path: Path) -> Secrets:
    """Reads the file `secrets` (mode 600), making what is not in it; the form is NAME=value, a line each.

    Raises EmbeddedError if the file is gone while the data is there: that data could not be opened with new
    secrets.
    """
    file = path / "secrets"
    values: dict[str, str] = {}
    if file.exists():
        file.chmod(FILE_MODE)
        lines = [line.partition("=") for line in file.read_text().splitlines()]
        values = {name: value for name, _, value in lines if value}
    elif any((path / data).exists() for data in DATA_FOLDERS):
        raise EmbeddedError(
            f"{file} is missing, and the data in {path} is of no use without it: "
            f"restore the file, or delete {path} to begin anew"
        )
    missing = [name for name in Secrets.NAMES if name not in values]
    if missing:
        values |= {name: random_secrets.token_hex(SECRET_BYTES) for name in missing}
        _replace(file, "".join(f"{name}={value}\n" for name, value in values.items()).encode())
    return Secrets(values)


def _replace(file: Path, content: bytes) -> None:
    """Writes a file of mode 600 that is there wholly or not at all, after a loss of power too."""
    fresh = file.with_name(file.name + ".new")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    with os.fdopen(handle, "wb") as output:
        output.write(content)
        output.flush()
        os.fsync(output.fileno())
    fresh.replace(file)


def private_file(file: Path, content: str) -> Path:
    """Writes a file that only its owner can read, and returns its path."""
    _replace(file, content.encode())
    return file


def socket_folder(path: Path) -> Path:
    """Where the servers of a folder put their unix sockets: `run` in it, or a short private one in the temp
    folder.

    The short one is named after the user and the folder, so that a crash leaves no litter behind.
    """
    sockets = path / "run"
    if len(os.fsencode(sockets / LONGEST_SOCKET_NAME)) > process.SOCKET_PATH_MAX_BYTES:
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
        sockets = Path(tempfile.gettempdir()) / f"outpost-{os.getuid()}-{digest}"
        if len(os.fsencode(sockets / LONGEST_SOCKET_NAME)) > process.SOCKET_PATH_MAX_BYTES:
            sockets = Path("/tmp") / sockets.name  # noqa: S108  (its owner and mode are checked below)
    sockets.mkdir(mode=FOLDER_MODE, exist_ok=True)
    found = sockets.lstat()
    if sockets.is_symlink() or found.st_uid not in {os.getuid(), NOBODY_ID} or found.st_mode & 0o077:
        raise EmbeddedError(f"{sockets} is not a private folder of this user; delete it first")
    return sockets
