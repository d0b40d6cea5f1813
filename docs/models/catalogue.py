"""Every scenario and every guard of the models in this folder."""

from __future__ import annotations

from docs.models import chunks, marks
from docs.models.delivery import scenarios as delivery
from docs.models.search import Result

SCENARIOS = (*delivery.SCENARIOS, *chunks.SCENARIOS, *marks.SCENARIOS)
SHORT = (*delivery.SHORT, *chunks.SHORT, *marks.SCENARIOS)  # those that every run of the unit tests searches
GUARDS = delivery.GUARDS | chunks.GUARDS | marks.GUARDS  # guard -> the scenario that breaks without it


def run(name: str) -> Result:
    """Searches one scenario."""
    if name in chunks.SCENARIOS:
        return chunks.search(name)
    return marks.search(name) if name in marks.SCENARIOS else delivery.search(name)
