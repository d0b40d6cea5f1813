"""`docs/glossary.md`: one word stands once, and the names in the code that it gives exist."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs/glossary.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for table in re.findall(r"<!-- words -->\n(.*?)<!-- end -->", TEXT, re.DOTALL)
    for line in table.strip().split("\n")[2:]
]
NAMED = [(row[0], row[2].strip("`")) for row in ROWS if row[2]]


def test_a_word_stands_once() -> None:
    words = Counter(word for row in ROWS for word in row[0].split(", "))
    assert [] == [word for word, count in words.items() if count > 1]


@pytest.mark.parametrize(("word", "name"), NAMED, ids=[word for word, _ in NAMED])
def test_the_code_has_what_the_glossary_names(word: str, name: str) -> None:
    module, _, last = name.rpartition(".")
    if last[0].isupper():
        assert hasattr(importlib.import_module(module), last)
    else:
        importlib.import_module(name)
