"""A small process that starts the embedded stores of a folder, says where they are, and waits to be killed.

`python -m tests.harness.store_parent FOLDER [orphans]`: with `orphans` the kernel is not asked to end the
stores with it, as on a system that cannot.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from outpost.embedded import folder, postgres, stores, valkey


def main(path: str, *words: str) -> None:
    if "orphans" in words:
        valkey.DEATH_SIGNAL = postgres.DEATH_SIGNAL = 0  # type: ignore[assignment]
    folder.hold(Path(path))
    started = stores.start(Path(path))
    told = {name: value for name, value in vars(started).items() if not name.startswith("_")}
    print(json.dumps(told, default=str), flush=True)
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
