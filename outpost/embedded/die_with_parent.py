"""Becomes a server that ends when the process that started it does, however that ends.

Run as a script of its own (`python -I -S die_with_parent.py PARENT SIGNAL IDENTITY LOCK_FD COMMAND ..`), it
imports nothing of ours: it writes its process id and its parent's into the lock that it inherited, asks the
kernel for SIGNAL at its parent's death, changes its identity where the server refuses root, and executes
COMMAND in its place. The lock stays with the server and its children until the last of them is gone.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

# Only these two identities need root; "same" is everybody's.
SAME = "same"
USER_NAMESPACE = "userns"
NOBODY = "nobody"
NOBODY_ID = 65534

# From linux/prctl.h, linux/sched.h and linux/capability.h.
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CLONE_NEWUSER = 0x10000000
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1


def _check(name: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _enter_user_namespace(libc: ctypes.CDLL) -> None:
    """Root outside, nobody inside: the server finds that it is not root, and the files stay root's."""
    user, group = os.geteuid(), os.getegid()
    _check("unshare", libc.unshare(CLONE_NEWUSER))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY_ID} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY_ID} {group} 1")


def _become_nobody(libc: ctypes.CDLL) -> None:
    """Nobody, who may still pass root's closed folders: virtual environment and data often lie in one.

    The one capability kept is CAP_DAC_OVERRIDE; without it (a container may lack it) the paths must be open.
    """
    libc.prctl(PR_SET_KEEPCAPS, ctypes.c_ulong(1), 0, 0, 0)
    # Without it access(2), by which initdb looks for its sister programs, disregards the capability.
    libc.prctl(PR_SET_SECUREBITS, ctypes.c_ulong(SECBIT_NO_SETUID_FIXUP), 0, 0, 0)
    os.setgroups([])
    os.setresgid(NOBODY_ID, NOBODY_ID, NOBODY_ID)
    os.setresuid(NOBODY_ID, NOBODY_ID, NOBODY_ID)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    kept = 1 << CAP_DAC_OVERRIDE
    sets = (ctypes.c_uint32 * 6)(kept, kept, kept, 0, 0, 0)
    if libc.capset(header, sets) == 0:
        libc.prctl(PR_CAP_AMBIENT, ctypes.c_ulong(PR_CAP_AMBIENT_RAISE), ctypes.c_ulong(CAP_DAC_OVERRIDE), 0, 0)


def tie(parent: int, death_signal: int) -> bool:
    """Asks the kernel for `death_signal` at the death of `parent`, which Linux can do; False where it has died
    before. To be asked last: the kernel forgets it at a change of identity."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        _check("prctl", libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(death_signal), 0, 0, 0))
    return os.getppid() == parent


def main(arguments: list[str]) -> None:
    """Does what the module says; on failure exits 1 with a sentence on stderr."""
    parent, death_signal, lock = int(arguments[0]), int(arguments[1]), int(arguments[3])
    identity, command = arguments[2], arguments[4:]
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()} {parent}\n".encode(), 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if identity == USER_NAMESPACE:
        _enter_user_namespace(libc)
    elif identity == NOBODY:
        _become_nobody(libc)
    if not tie(parent, death_signal):
        sys.exit("the process that starts this server is gone")
    os.execv(command[0], command)  # noqa: S606  (the command is ours, and there is to be no shell)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
