"""Every scenario and every guard of the models in this folder."""

from __future__ import annotations

from docs.models import marks
from docs.models.delivery import scenarios as delivery
from docs.models.search import Result

SCENARIOS = (*delivery.SCENARIOS, *marks.SCENARIOS)
SHORT = (*delivery.SHORT, *marks.SCENARIOS)  # those that every run of the unit tests searches
GUARDS = delivery.GUARDS | marks.GUARDS  # guard -> the scenario that breaks without it


def run(name: str) -> Result:
    """Searches one scenario."""
    return marks.search(name) if name in marks.SCENARIOS else delivery.search(name)
