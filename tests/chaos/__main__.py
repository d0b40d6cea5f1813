"""`python -m tests.chaos --seconds 600 --seed N`: prints the seed, what it does and what it found; 1 if something
did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import run
from tests.harness import clocks, servers

SECONDS = 600.0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument(
        "--redis",
        choices=servers.REDIS_KINDS,
        default=servers.VALKEY_9,
        help="clocks are stepped on valkey9 only (%(default)s)",
    )
    args = parser.parse_args(argv)
    if not servers.present(args.redis):
        parser.error(f"{args.redis} is missing: {servers.INSTALL[args.redis]}")
    if args.redis == servers.VALKEY_9 and clocks.library() is None:
        parser.error(f"clocks cannot be stepped without libfaketime: {clocks.INSTALL}")
    folder = Path(tempfile.mkdtemp(prefix="outpost-chaos-"))
    begin = time.monotonic()
    result = asyncio.run(
        run.run(args.seed, args.seconds, folder, lambda line: print(line, flush=True), args.redis)
    )
    print(result)
    for fault in result.faults:
        print(f"DOES NOT HOLD: {fault}", file=sys.stderr)
    if result.faults:
        print(f"seed {args.seed}; what the processes said: {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    print(f"everything holds, after {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
