"""`python -m outpost.cli.bench`: the bench alone, with the options of `outpost bench`."""

from __future__ import annotations

import argparse
import sys

from outpost.cli import bench


def main() -> int:
    """Parse the command line and run the bench; returns the exit code."""
    parser = argparse.ArgumentParser(prog="outpost bench")
    bench.add_arguments(parser)
    return bench.run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
