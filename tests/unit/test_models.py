"""The models of docs/models: the small scenarios hold, and each guard of the protocol is needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.models import catalogue, search

README = (Path(__file__).parents[2] / "docs" / "models" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", catalogue.SHORT)
def test_every_invariant_holds_in_every_state_of_the_scenario(name: str) -> None:
    found = catalogue.run(name)
    assert ("", ()) == (found.broken, found.trace)


@pytest.mark.parametrize(("guard", "name"), catalogue.GUARDS.items())
def test_an_invariant_breaks_without_the_guard(guard: str, name: str) -> None:
    with search.without(guard):
        found = catalogue.run(name)
    assert "" != found.broken
    assert not found.broken.startswith("bound")
    assert found.trace


def test_the_note_says_how_much_is_searched() -> None:
    assert f"{len(catalogue.SCENARIOS)} scenarios" in README
    assert f"{len(catalogue.GUARDS)} guards" in README
    named = {*re.findall(r"^\| `([a-z-]+)` \|", README, re.MULTILINE)}
    assert {*catalogue.GUARDS} == named
