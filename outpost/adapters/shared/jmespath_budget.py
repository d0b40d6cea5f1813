"""A JMESPath interpreter whose work is bounded: a tenant's template runs on the loop that everybody shares.

`[@,@]|[@,@]|...` doubles a value at every step, so each visit, each element that is copied and each value that is
walked costs a unit, and the evaluation ends when they are spent. Imports jmespath, which only some types need.
"""

from __future__ import annotations

from typing import Any

from jmespath import functions, visitor

UNITS = 20_000  # some 10 ms; a template that names a field costs fewer than ten
_CHARACTERS = 64  # of a text cost one unit
_WALKING = frozenset({"to_string", "contains", "join"})  # the functions that look at more than the first level


class Spent(Exception):
    """The template asks for more work than it may."""


class Budget:
    """What one evaluation may still do."""

    def __init__(self) -> None:
        self._left = UNITS

    def spend(self, units: int) -> None:
        """Raises Spent."""
        self._left -= units
        if self._left < 0:
            raise Spent

    def walk(self, value: object) -> None:
        """Pays for all that `value` holds, each thing as often as it stands there. Raises Spent."""
        waiting = [value]
        while waiting:
            each = waiting.pop()
            self.spend(_width(each))
            if isinstance(each, dict):
                waiting += each.values()
            elif isinstance(each, list):
                waiting += each


class Interpreter(visitor.TreeInterpreter):  # type: ignore[misc]  # jmespath has no types
    """Evaluates one parsed template once."""

    def __init__(self, budget: Budget) -> None:
        super().__init__(visitor.Options(custom_functions=_Functions(budget)))
        self._budget = budget

    def visit(self, node: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Every step of the way comes by here."""
        self._budget.spend(1)
        return super().visit(node, *args, **kwargs)

    def visit_flatten(self, node: dict[str, Any], value: Any) -> Any:
        """The one step that copies lists of any length at once."""
        flat = super().visit_flatten(node, value)
        self._budget.spend(_width(flat))
        return flat

    def visit_comparator(self, node: dict[str, Any], value: Any) -> Any:
        """Equality looks at all that both sides hold."""
        sides = [self.visit(child, value) for child in node["children"]]
        self._budget.walk(sides)
        found = [{"type": "literal", "value": side, "children": []} for side in sides]
        return super().visit_comparator({**node, "children": found}, value)


class _Functions(functions.Functions):  # type: ignore[misc]  # jmespath has no types
    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def call_function(self, function_name: str, resolved_args: list[Any]) -> Any:
        for argument in resolved_args:
            if function_name in _WALKING:
                self._budget.walk(argument)
            else:
                self._budget.spend(_width(argument))
        return super().call_function(function_name, resolved_args)


def _width(value: object) -> int:
    if isinstance(value, str):
        return 1 + len(value) // _CHARACTERS
    return 1 + len(value) if isinstance(value, dict | list) else 1
