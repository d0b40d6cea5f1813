"""`python -m tests.hostile`, or `make hostile`: every attack at once for ten minutes, and every figure held.

Half of the time the server runs on a loop that measures each callback, which takes time itself; the other half on
the loop of the product, where the healthy tenant's p99 is held.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from collections.abc import Sequence

from tests.harness import servers
from tests.hostile import attacks, together

SECONDS = 600.0
ALONE_S = 30.0
NICE = 10  # of the attacks, so that what they compute is not taken from the server


async def run(seconds: float, only: Sequence[str], *, own_loop: bool) -> together.Report:
    """Measures a server on stores of its own."""
    folder = servers.new_folder()
    redis, postgres = servers.RedisServer(servers.VALKEY_9), servers.PostgresServer(servers.POSTGRES_18)
    try:
        url = postgres.url_of(await postgres.create_database())
        return await together.measure(
            redis,
            url,
            folder,
            alone_s=min(ALONE_S, seconds),
            attack_s=seconds,
            nice=NICE,
            only=only,
            own_loop=own_loop,
        )
    finally:
        redis.close()
        postgres.close()
        shutil.rmtree(folder, ignore_errors=True)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make hostile")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of the attacks")
    names = [one.name for one in attacks.ALL]
    parser.add_argument("--only", nargs="+", default=[], choices=names, metavar="ATTACK", help="these alone")
    args = parser.parse_args(argv)
    chosen = args.only or names
    print(f"{len(chosen)} attacks at once for {args.seconds:.0f} s: {', '.join(chosen)}")
    problems = []
    for own_loop in (False, True):
        report = asyncio.run(run(args.seconds / 2, args.only, own_loop=own_loop))
        print("on the loop of the product:" if own_loop else "on a loop that measures each callback:")
        for line in report.lines():
            print(f"  {line}")
        problems += report.problems(timed=own_loop)
    for problem in problems:
        print(f"FAILED: {problem}")
    print("FAILED" if problems else "every figure held")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
