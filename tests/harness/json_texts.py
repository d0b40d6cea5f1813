"""JSON texts by their grammar (RFC 8259), for Hypothesis: every escape, number and blank that it allows."""

from __future__ import annotations

from hypothesis import strategies as st

_BLANKS = st.text(" \t\r\n", max_size=2)
_HEX = st.sampled_from("0123456789abcdefABCDEF")
_ESCAPES = st.one_of(
    st.sampled_from(['\\"', "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t"]),
    st.tuples(_HEX, _HEX, _HEX, _HEX).map(lambda digits: "\\u" + "".join(digits)),
    st.tuples(st.sampled_from(["d8", "DB", "dc", "dF"]), _HEX, _HEX).map(lambda digits: "\\u" + "".join(digits)),
)
_PLAIN = st.characters(exclude_categories=("Cs",), exclude_characters='"\\', min_codepoint=0x20)
STRINGS = st.lists(st.one_of(_ESCAPES, _PLAIN), max_size=6).map(lambda parts: '"' + "".join(parts) + '"')
NUMBERS = st.one_of(
    st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][-+]?[0-9]{1,4})?", fullmatch=True),
    st.integers(4_200, 5_200).map(lambda digits: "9" * digits),
    st.integers(300, 400).map(lambda digits: "-8" + "0" * digits),
)
_LITERALS = st.sampled_from(["true", "false", "null"])


def _listed(parts: list[str], opening: str, closing: str, blanks: tuple[str, str]) -> str:
    before, behind = blanks
    return before + opening + before + f"{behind},{before}".join(parts) + behind + closing + behind


def _objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.tuples(STRINGS, _BLANKS, values).map(
        lambda member: f"{member[0]}{member[1]}:{member[1]}{member[2]}"
    )
    return st.tuples(st.lists(members, max_size=4), _BLANKS, _BLANKS).map(
        lambda of: _listed(of[0], "{", "}", (of[1], of[2]))
    )


def _arrays(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(st.lists(values, max_size=4), _BLANKS, _BLANKS).map(
        lambda of: _listed(of[0], "[", "]", (of[1], of[2]))
    )


VALUES = st.recursive(
    st.one_of(STRINGS, NUMBERS, _LITERALS), lambda inner: st.one_of(_objects(inner), _arrays(inner)), max_leaves=12
)
OBJECTS = _objects(VALUES).map(lambda text: text.strip(" \t\r\n").encode())
