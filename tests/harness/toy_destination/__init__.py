"""A destination type as another package would bring it: events are appended to a file, a line each.

`dist_info` makes what an installer leaves beside a package: the metadata by which its entry points are found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from outpost import errors
from outpost.adapters import base, codes, declared, descriptions
from outpost.adapters.shared import metadata
from outpost.adapters.shared import resources as shared
from outpost.domain import delivery

DATA = Path(__file__).parent / "data"


class Toy(declared.Declared):
    """The type; see base.Adapter."""

    def problems(self, config: Mapping[str, str], credentials: Mapping[str, str]) -> list[errors.Problem]:
        """The folder of the file has to be there."""
        if Path(config["file"]).parent.is_dir():
            return []
        return [errors.Problem("config.file", "exists")]

    def target(self, destination: base.OpenDestination) -> tuple[str, str | None]:
        """The file."""
        return destination.config["file"], None

    async def connect(self, destination: base.OpenDestination) -> Publisher:
        """Opens nothing."""
        return Publisher(Path(destination.config["file"]), self._metadata(destination))


def build(shared: shared.Shared) -> Toy:
    """What the entry point names."""
    return Toy(descriptions.load("toy", DATA), shared)


class Publisher:
    """Writes to one file; see base.Publisher."""

    max_batch = 10

    def __init__(self, file: Path, merger: metadata.Merger) -> None:
        self._file = file
        self._merger = merger

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """One line an event."""
        lines = [
            json.dumps({"metadata": self._merger.merged(event), "data": event.data.decode()}) for event in batch
        ]
        with self._file.open("a") as output:
            output.writelines(f"{line}\n" for line in lines)
        return [delivery.Delivered(codes.OK, {}) for _ in batch]

    async def close(self) -> None:
        """Nothing is held."""


def dist_info(site: Path, package: str, **entry_points: str) -> None:
    """As if `package` were installed in `site`, with these entry points of ours: name = `module:function`."""
    folder = site / f"{package}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}\n" for name, value in entry_points.items()]
    (folder / "entry_points.txt").write_text("[outpost.destinations]\n" + "".join(lines))
