"""The codes of failed attempts: what an attempt shows of them, and which of them are tried again."""

from __future__ import annotations

import re

import pytest

from outpost.adapters import codes
from outpost.domain import delivery

SECRETS = ("hunter2", "hunter2-and-more", "")


@pytest.mark.parametrize("code", codes.Code)
def test_everything_is_tried_again_but_what_that_cannot_help(code: codes.Code):
    assert (code.value not in ("message_too_large", "message_refused")) == codes.failed(code).retryable
    assert not codes.failed(code, final=True).retryable


def test_the_codes_are_words_that_clients_can_rely_on():
    assert {"ERR", "ERROR"} == {code.value for code in codes.Code if not re.fullmatch(r"[a-z]+(_[a-z]+)*", code)}
    assert {
        "access_denied",
        "target_not_found",
        "throttled",
        "message_too_large",
        "unroutable",
        "blocked_address",
        "invalid_credentials",
    } <= {code.value for code in codes.Code}


def test_the_providers_own_text_is_kept_without_secrets():
    outcome = codes.failed(
        codes.Code.ACCESS_DENIED, "no: hunter2-and-more,\n\thunter2 and  HUNTER2", secrets=SECRETS
    )
    assert delivery.Failed("access_denied", {"error": "no: ***, *** and HUNTER2"}) == outcome


def test_an_empty_text_is_not_kept():
    assert delivery.Failed("timeout") == codes.failed(codes.Code.TIMEOUT)


def test_a_text_is_bounded_and_a_secret_at_the_cut_does_not_come_through():
    text = "x" * (codes.MOST_TEXT - 3) + "hunter2" + "y" * 100
    told = codes.cleaned(text, SECRETS)
    assert codes.MOST_TEXT == len(told)
    assert told.endswith("x***")


def test_a_secret_that_the_first_cut_divides_does_not_come_through():
    """A text is cut before it is cleared; white space in it can bring its end into what is kept."""
    secret = "correct-horse-battery"
    for at in range(codes.MAX_READ_CHARACTERS - 2, codes.MAX_READ_CHARACTERS + len(secret) + 2):
        told = codes.cleaned(" " * at + secret + "y" * 100_000, (secret, "horse-"))
        assert told in ("", "***")


def test_a_secret_inside_another_does_not_leave_the_rest_of_it():
    assert "***" == codes.cleaned("hunter2-and-more", SECRETS)
