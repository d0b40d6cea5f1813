"""Runs the models: every scenario, or those that are named.

python -m docs.models                              every scenario: states, steps, time, result
python -m docs.models --short                      those that the unit tests search
python -m docs.models --break all                  every guard removed in turn: each must break an invariant
python -m docs.models --break NAME --trace         the shortest counterexample; scenario names may follow
"""

from __future__ import annotations

import argparse
import sys

from docs.models import catalogue, search


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.models", description="Search the models exhaustively.")
    parser.add_argument(
        "scenarios", nargs="*", help=f"default: all of {', '.join(map(repr, catalogue.SCENARIOS))}"
    )
    parser.add_argument("--break", dest="guard", help=f"all, or one of {', '.join(catalogue.GUARDS)}")
    parser.add_argument("--short", action="store_true", help="only the small scenarios")
    parser.add_argument("--trace", action="store_true", help="print the shortest counterexample")
    options = parser.parse_args()
    good, total = True, 0
    for guard in catalogue.GUARDS if options.guard == "all" else [options.guard]:
        usual = [catalogue.GUARDS[guard]] if guard else catalogue.SHORT if options.short else catalogue.SCENARIOS
        for name in options.scenarios or usual:
            with search.without(guard):
                found = catalogue.run(name)
            total += found.states
            good &= bool(found.broken) == bool(guard)
            print(
                f"{guard or '':38}{name:36}{found.states:>9,} states{found.steps:>11,} steps"
                f"{found.seconds:7.1f} s  {found.broken or 'holds'}",
                flush=True,
            )
            for number, label in enumerate(found.trace if options.trace else (), 1):
                print(f"    {number:2} {label}")
    print(f"{total:,} states; {'as expected' if good else 'NOT as expected'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
