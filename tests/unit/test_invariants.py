"""What must hold of the log, projections, deliveries, the API and bounds, and that tests prove each of it.

A test says by `@pytest.mark.invariant("L1")` what it proves; `python -m tests.unit.test_invariants` prints it all.
"""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parents[1]

INVARIANTS = {
    "L1": "An acknowledged append is there after a kill -9 of the server.",
    "L2": "One id is one entry and one answer, whatever is retried or times out.",
    "L3": "No event carries matches of a version other than the one current at its position.",
    "L4": "Of concurrent commands on one tenant one wins each version.",
    "L5": "Entries added = trimmed + live, always.",
    "L6": "A head that went backwards is detected before anything is read.",
    "P1": "A rebuild is what is live, byte for byte.",
    "P2": "The result is the same for any batch size and any cut.",
    "P3": "Applying a batch twice changes nothing.",
    "P4": "Two runners at once give the same result.",
    "P6": "All old versions of entries decode.",
    "P7": "A rebuild causes no side effect.",
    "P8": "How the events and their deliveries are interleaved does not matter.",
    "D1": "No delivery is lost for a crash at any step, or for a queue that loses or doubles messages.",
    "D2": "Attempts are 1 to k without a gap, with one record each.",
    "D3": "Unless `due` is being mended: due + tasks of un-acknowledged entries = fold of the log.",
    "D4": "Nothing follows a terminal record except a manual retry.",
    "D5": "No attempt begins after a disable or delete is visible.",
    "D6": "A late record is the one record, or a duplicate, or dropped: the delivery was closed meanwhile.",
    "D7": "Pending returns to 0.",
    "D8": "A re-created destination never receives its namesake's deliveries.",
    "D9": "Two processes send one attempt only after its lease ended or its holder died.",
    "R1": "What one API process acknowledged every other one shows.",
    "R2": "A duplicate publish gets the first answer.",
    "R3": "Backpressure: 503 before the store is out of memory, and nothing is half written.",
    "B1": "Every byte from outside has a limit that is checked before it is kept.",
    "B2": "Every wait for something outside has a deadline.",
    "B3": "Work over outside data on the event loop is linear and has a budget.",
    "B4": "What one tenant or connection holds of a shared resource is a share of it.",
}


@functools.cache
def proofs() -> dict[str, list[str]]:
    """Invariant -> `file::test` of those that carry its marker."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for name in _marked(node):
                    found[name].append(f"{path.relative_to(TESTS)}::{node.name}")
    return found


def _marked(test: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    names = []
    for decorator in test.decorator_list:
        match decorator:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="mark"), attr="invariant"), args=arguments):
                names += [ast.literal_eval(argument) for argument in arguments]
    return names


def test_every_invariant_has_a_test() -> None:
    assert [] == sorted(INVARIANTS.keys() - proofs().keys())


def test_a_marker_names_an_invariant() -> None:
    assert [] == sorted(proofs().keys() - INVARIANTS.keys())


def test_only_tests_carry_markers() -> None:
    assert [] == [place for places in proofs().values() for place in places if "::test_" not in place]


def main() -> None:
    """Prints each invariant with its tests."""
    found = proofs()
    for name, sentence in INVARIANTS.items():
        print(f"{name}  {sentence}")
        for place in found.get(name, []):
            print(f"      {place}")


if __name__ == "__main__":
    main()
