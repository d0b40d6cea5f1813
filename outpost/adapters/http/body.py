"""The body of an answer as attempts keep it: a text, or a sentence on why there is none."""

from __future__ import annotations

from outpost.adapters.http import client, codings

_TOO_LARGE = "Response body exceeded {} bytes and was not stored"
_FAULT = {
    "late": "Response body did not arrive before the delivery timeout and was not stored",
    "broken": "Response body ended early and was not stored",
}


def text(answer: client.Answer, max_bytes: int) -> tuple[str, str]:
    """What came, as UTF-8, and a sentence on its content coding where that could not be undone. `max_bytes` is the
    client's cap, which the sentence on a larger one names."""
    if answer.fault:
        return _TOO_LARGE.format(max_bytes) if answer.fault == "too_large" else _FAULT[answer.fault], ""
    if not answer.coding:
        return answer.body.decode("utf-8", "replace"), ""
    try:
        body, remark = codings.unpacked(answer, max_bytes)
    except codings.TooLarge:
        return _TOO_LARGE.format(max_bytes or codings.MAX_UNPACKED_BYTES), ""
    return body.decode("utf-8", "replace"), remark
