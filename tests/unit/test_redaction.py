"""What a receiver echoes is kept without the destination's secrets, in whatever spelling they come back."""

from __future__ import annotations

import html
import json
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from outpost.adapters.shared import redaction
from outpost.domain import delivery

SECRET = 'p@ss "wörd"/<1>&%'
TOKEN = "tok_0123456789"
SPELT: dict[str, Callable[[str], str]] = {
    "plain": str,
    "percent-encoded": lambda text: urllib.parse.quote(text, safe=""),
    "percent-encoded in small letters": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "percent-encoded in Latin-1": lambda text: urllib.parse.quote(text, safe="", encoding="latin-1"),
    "as a form": urllib.parse.quote_plus,
    "in JSON": json.dumps,
    "in JSON, not ASCII": lambda text: json.dumps(text, ensure_ascii=False),
    "in JSON, slashes escaped": lambda text: json.dumps(text).replace("/", "\\/"),
    "in JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "in HTML": html.escape,
    "in HTML by numbers": lambda text: "".join(f"&#x{ord(character):x};" for character in text),
    "as Python prints bytes": lambda text: repr(text.encode())[2:-1],
    "taken for Latin-1": lambda text: text.encode().decode("latin-1"),
}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=6, max_size=20)


def redactor(*secrets: str) -> redaction.Redactor:
    return redaction.Redactor(lambda: secrets)


@pytest.mark.parametrize("secret", [SECRET, TOKEN])
@pytest.mark.parametrize("outer", SPELT)
@pytest.mark.parametrize("inner", SPELT)
def test_a_secret_is_found_in_the_spelling_of_an_echo(secret: str, inner: str, outer: str) -> None:
    if inner == outer == "in JSON in JSON":
        pytest.skip("four texts within each other are one more than is looked at")
    if inner == outer == "taken for Latin-1":
        pytest.skip("nobody takes it for that twice")
    told = redactor(secret).text(f"before {SPELT[outer](SPELT[inner](secret))} after")
    assert told.startswith("before ")
    assert told.endswith(" after")
    assert redaction.MASK in told
    assert not [part for part in ("rd", "ss", "tok", "0123") if part in told]


@given(before=st.text(max_size=30), secret=TEXTS, after=st.text(max_size=30))
@example(before="aaaaaa", secret="aaaaaa", after="aaaaaa")
@example(before="", secret="*******", after="")
def test_nothing_of_a_secret_is_left(before: str, secret: str, after: str) -> None:
    told = redactor(secret).text(before + secret + after)
    assert secret not in told.replace(redaction.MASK, "") or not redaction.is_secret(secret)


@given(text=st.text(max_size=60), limit=st.integers(0, 60))
def test_a_text_without_secrets_is_kept_as_it_is(text: str, limit: int) -> None:
    assert text[:limit] == redactor("not in the text").cut(text, limit)
    assert text is redactor().text(text)


@given(at=st.integers(0, 40), limit=st.integers(0, 50))
def test_a_secret_that_a_cut_divides_does_not_survive_in_part(at: int, limit: int) -> None:
    """What stands behind the cut does not come into the text either, though a mask is shorter than a secret."""
    text = "." * at + TOKEN + "," * 20 + TOKEN + ";" * 20
    told = redactor(TOKEN).cut(text, limit)
    assert "tok" not in told
    assert len(told) <= max(limit, limit + len(redaction.MASK) - 1)
    assert min(at, limit) == told.count(".")
    assert max(0, min(limit - at - len(TOKEN), 20)) == told.count(",")


def test_secrets_that_overlap_are_masked_as_one() -> None:
    assert "x***y" == redactor("abcdef", "defghi", "abcdefg").text("xabcdefghiy")
    assert "x***y" == redactor("aaaaaa").text("xaaaaaaaaay")


@pytest.mark.parametrize("word", ["", "short", "Production", "application/json"])
def test_short_values_and_common_words_are_not_cut_out_of_texts(word: str) -> None:
    assert not redaction.is_secret(word)
    told = f"a {word} text"
    assert told == redactor(word).text(told)


def test_a_response_is_cleared_at_every_depth_and_kept_where_there_is_nothing() -> None:
    response: dict[str, object] = {
        "status": 200,
        "body": f"<{TOKEN}>",
        "headers": {"X-A": [f"Bearer {TOKEN}", "b"], TOKEN: "c", "X-D": "d"},
        "nothing": None,
    }
    told = redactor(TOKEN).outcome(delivery.Delivered("200", response))
    headers = {"X-A": ["Bearer ***", "b"], "***": "c", "X-D": "d"}
    assert delivery.Delivered("200", {**response, "body": "<***>", "headers": headers}) == told
    for outcome in (
        delivery.Delivered("200", {"status": 200, "body": "thank you"}),
        delivery.Failed("timeout"),
        delivery.Failed("503", {"status": 503, "body": "later", "headers": {"A": ["b", "c"]}}, retry_after_ms=5),
    ):
        assert outcome is redactor(TOKEN).outcome(outcome)


def test_everything_else_of_an_outcome_stays() -> None:
    failed = delivery.Failed("410", {"body": TOKEN}, retryable=False, gone=True, retry_after_ms=7)
    told = redactor(TOKEN).outcome(failed)
    assert delivery.Failed("410", {"body": "***"}, retryable=False, gone=True, retry_after_ms=7) == told


def test_secrets_are_not_asked_for_before_there_is_a_text() -> None:
    asked: list[int] = []

    def secrets() -> tuple[str, ...]:
        asked.append(1)
        return (TOKEN,)

    made = redaction.Redactor(secrets)
    made.outcome(delivery.Delivered("200", {"status": 200, "body": ""}))
    made.outcome(delivery.Failed("timeout"))
    assert [] == asked
    assert "***" == made.text(TOKEN) == made.text(TOKEN)
    assert [1] == asked


@pytest.mark.parametrize(
    ("secrets", "text"),
    [
        ([f"secret-{n}" for n in range(redaction.MAX_SECRETS + 1)], "anything"),
        (["x" * (redaction.MAX_SECRET_CHARACTERS + 1)], "anything"),
        ([TOKEN], TOKEN * (redaction.MAX_FOUND + 1)),
        ([f"secret-{n}" for n in range(100)], "x" * (redaction.MAX_SEARCH // 100 + 1)),
    ],
    ids=["many secrets", "long secrets", "a text full of them", "a long text and many secrets"],
)
def test_what_would_take_long_is_not_kept(secrets: list[str], text: str) -> None:
    made = redactor(*secrets)
    assert redaction.WITHHELD == made.text(text)
    assert "short" == made.text("short")


def test_a_long_text_is_searched_as_far_as_it_is_kept() -> None:
    class Text(str):
        __slots__ = ()

        def __getitem__(self, part: object) -> str:
            assert isinstance(part, slice)
            assert part.stop in (100, 100 + len(TOKEN) * redaction.LONGEST_ESCAPE)
            return "x" * part.stop

        find = __contains__ = count = None  # type: ignore[assignment]

    assert "x" * 100 == redactor(TOKEN).cut(Text("x" * 10_000_000), 100)


def test_a_redactor_does_not_print_what_it_knows() -> None:
    made = redactor(TOKEN)
    made.text("anything")
    assert TOKEN not in repr(made)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("connection refused by the exchange orders", "connection refused by the exchange ***"),
        ("reconnect: connect, connected; orders-eu reorders", "reconnect: ***, connected; ***-eu reorders"),
        ("orders", "***"),
        ("user=orders&password=connect", "user=***&password=***"),
        ("user%3Dorders%26connect", "user%3D***%26***"),
        ("hunter2x xhunter2", "***x x***"),
        ("xcorrecthorsebatteryx", "x***x"),
    ],
)
def test_a_short_word_in_an_error_is_masked_as_a_word_and_not_in_others(text: str, told: str):
    secrets = ("connect", "orders", "hunter2", "correcthorsebattery")
    assert told == redaction.of(secrets).text(text, words=True)
    assert {"error": told} == redaction.of(secrets).outcome(delivery.Failed("ERR", {"error": text})).response
