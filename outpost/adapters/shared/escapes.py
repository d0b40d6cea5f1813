"""Decodes what servers escape: percent-encoding, JSON, HTML, and the bytes that Python and JavaScript print.

A text may be escaped several times over, such as JSON within JSON, so it is decoded step by step; each step keeps
the way back, from a place in the decoded text to where that stands in the text as it came. Linear and bounded.
"""

from __future__ import annotations

import bisect
import functools
import html
import json
import re
import urllib.parse

MAX_DEPTH = 3  # texts within each other
MAX_ESCAPES = 30_000  # of one text, in all steps together; decoding them takes 20 ms

_ESCAPE = re.compile(
    r"""(?: %[0-9A-Fa-f]{2} )+
      | (?: \\x[0-9A-Fa-f]{2} )+
      | \\u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}
      | \\u[0-9A-Fa-f]{4}
      | \\[\\/"'bfnrt]
      | & (?: amp | lt | gt | quot | apos | \#[0-9]{1,7} | \#[xX][0-9A-Fa-f]{1,6} ) ;""",
    re.VERBOSE,
)
MAX_CACHED_CHARACTERS = 12
_MARKS = "%\\&"


class Decoding:
    """`text` is as far as it is decoded. `escaped`: whether something in it may be an escape; `exhausted`: whether
    there is more to decode than `MAX_ESCAPES`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.exhausted = False
        self._steps: list[_Step] = []
        self._left = MAX_ESCAPES

    @property
    def escaped(self) -> bool:
        return any(mark in self.text for mark in _MARKS)

    def decode(self) -> bool:
        """Takes one more step; False where there is nothing to decode, or too much."""
        if len(self._steps) == MAX_DEPTH:
            return False
        self._left -= sum(map(self.text.count, _MARKS))
        if self._left < 0:
            self.exhausted = True
            return False
        decoded = _ESCAPE.sub(_of_match, self.text)
        if decoded == self.text:
            return False
        self._steps.append(_Step(self.text))
        self.text = decoded
        return True

    def origin(self, start: int, stop: int) -> tuple[int, int]:
        """Where the part of `text` from `start` to `stop` stands in the text as it came. An escape that stands for
        several characters is never divided."""
        for step in reversed(self._steps):
            start, stop = step.origin(start, stop)
        return start, stop


class _Step:
    """The way back over one step, worked out when it is asked for."""

    def __init__(self, text: str) -> None:
        self._text = text

    def origin(self, start: int, stop: int) -> tuple[int, int]:
        starts, escapes = self._escapes
        at = bisect.bisect_right(starts, start) - 1
        if at >= 0:
            decoded_stop, origin_start, origin_stop = escapes[at]
            start = origin_start if start < decoded_stop else origin_stop + start - decoded_stop
        at = bisect.bisect_left(starts, stop) - 1
        if at >= 0:
            decoded_stop, _, origin_stop = escapes[at]
            stop = origin_stop + max(stop - decoded_stop, 0)
        return start, stop

    @functools.cached_property
    def _escapes(self) -> tuple[list[int], list[tuple[int, int, int]]]:
        """Where each escape begins in the decoded text; where it ends there, begins and ends in this one."""
        starts: list[int] = []
        escapes: list[tuple[int, int, int]] = []
        gained = 0  # by how much the decoded text is shorter
        for found in _ESCAPE.finditer(self._text):
            length = len(_decoded(found[0]))
            start = found.start() - gained
            starts.append(start)
            escapes.append((start + length, found.start(), found.end()))
            gained += found.end() - found.start() - length
        return starts, escapes


def _of_match(found: re.Match[str]) -> str:
    return _decoded(found[0])


def _decoded(escape: str) -> str:
    return _decoded_once(escape) if len(escape) <= MAX_CACHED_CHARACTERS else _decode(escape)


def _decode(escape: str) -> str:
    if escape[0] == "&":
        return html.unescape(escape)
    if escape[0] == "%":
        return _text(urllib.parse.unquote_to_bytes(escape))
    if escape[1] == "x":
        return _text(bytes.fromhex(escape.replace("\\x", "")))
    return "'" if escape == "\\'" else str(json.loads(f'"{escape}"'))


_decoded_once = functools.lru_cache(maxsize=1024)(_decode)


def _text(raw: bytes) -> str:
    """UTF-8, or else Latin-1, as old servers have it."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
