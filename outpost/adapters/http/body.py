"""The body of an answer as attempts keep it: a text, or a sentence on why there is none."""

from __future__ import annotations

from outpost.adapters.http import client

_FAULT = {
    "late": "Response body did not arrive before the delivery timeout and was not stored",
    "broken": "Response body ended early and was not stored",
}


def text(answer: client.Answer, max_bytes: int) -> str:
    """What came, as UTF-8. `max_bytes` is the client's cap, which the sentence names."""
    if not answer.fault:
        return answer.body.decode("utf-8", "replace")
    if answer.fault == "too_large":
        return f"Response body exceeded {max_bytes} bytes and was not stored"
    return _FAULT[answer.fault]
