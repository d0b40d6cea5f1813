"""Runs attacks in a process of their own, so that what they cost is not taken for the server's time.

`python -m tests.hostile.assault --port N --key KEY --seconds S --pause S [--nice N] [--only NAME ..]` ends with 1
and a line on stderr for each attack that raised or did not end. With `--nice` it computes only while the server
and its stores do not want to: attackers have machines of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import traceback

from tests.hostile import attacks
from tests.hostile.attack import Attack, Target

END_S = 30.0  # an attack that has not ended so long after its time never will


async def run(target: Target, seconds: float, chosen: list[Attack]) -> list[str]:
    """Runs the attacks at once; returns a line for each that went wrong."""
    outcomes = await asyncio.gather(
        *(asyncio.wait_for(one.run(target, seconds), seconds + END_S) for one in chosen), return_exceptions=True
    )
    return [
        f"{one.name}: {''.join(traceback.format_exception(outcome))}"
        for one, outcome in zip(chosen, outcomes, strict=True)
        if isinstance(outcome, BaseException)
    ]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--pause", type=float, required=True)
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[one.name for one in attacks.ALL])
    args = parser.parse_args(argv)
    os.nice(args.nice)
    chosen = [one for one in attacks.ALL if one.name in args.only]
    problems = asyncio.run(run(Target("127.0.0.1", args.port, args.key, args.pause), args.seconds, chosen))
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
