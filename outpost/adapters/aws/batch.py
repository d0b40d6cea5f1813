"""Many events in calls as large as a service takes them, each event with an outcome of its own.

The calls go out at once, or one after the other where events have to stay in order. What a service refuses as a
whole, for what was asked, is asked again in halves: so an event that it never takes fails alone, and costs those
beside it no attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from outpost.adapters import codes
from outpost.adapters.aws import client as aws_client
from outpost.domain import delivery

# A fifth of the CPU of a call of ten entries would go into looking whether we wrote them as botocore wants them.
CONFIG: dict[str, Any] = {"parameter_validation": False}


class Limits(msgspec.Struct, frozen=True):
    """Of one call: entries, and bytes of all of them together, as the service counts. One entry may fill it."""

    entries: int
    bytes: int


class Entry(msgspec.Struct, frozen=True):
    """One event as the service wants it, and the bytes by which it counts."""

    value: dict[str, Any]
    size: int


Values = list[dict[str, Any]]
# Asks the service; one outcome an entry, or why there is none.
Ask = Callable[[Values], Awaitable[Sequence[delivery.Outcome] | aws_client.Refusal]]


async def send(
    made: Sequence[Entry | delivery.Failed], limits: Limits, ask: Ask, *, in_order: bool = False
) -> list[delivery.Outcome]:
    """One outcome for each of `made`, in order; what failed already stays as it is, and is not asked for.
    `in_order`: where that takes several calls, one goes after the other."""
    outcomes: dict[int, delivery.Outcome] = {}
    sizes: dict[int, int] = {}
    values: dict[int, dict[str, Any]] = {}
    for place, entry in enumerate(made):
        if isinstance(entry, delivery.Failed):
            outcomes[place] = entry
        elif entry.size > limits.bytes:
            outcomes[place] = _too_large(entry.size, limits.bytes)
        else:
            sizes[place], values[place] = entry.size, entry.value
    calls = parted(sizes, limits)
    asking = [_asked([values[place] for place in call], ask) for call in calls]
    answered = [await each for each in asking] if in_order else await asyncio.gather(*asking)
    for call, found in zip(calls, answered, strict=True):
        outcomes.update(zip(call, found, strict=True))
    return [outcomes[place] for place in range(len(made))]


def parted(sizes: dict[int, int], limits: Limits) -> list[list[int]]:
    """The keys of `sizes`, in order, in as few calls as keep to the limits."""
    calls: list[list[int]] = []
    room = 0
    for place, size in sizes.items():
        if not calls or size > room or len(calls[-1]) == limits.entries:
            calls.append([])
            room = limits.bytes
        calls[-1].append(place)
        room -= size
    return calls


def entries(answer: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    """What an answer lists as `name`, each with its texts. A service that only resembles Amazon's may say anything
    there, and botocore hands it on: what is no text counts as absent."""
    told = answer.get(name)
    return [texts(entry) for entry in told] if isinstance(told, list) else []


def texts(entry: object) -> dict[str, str]:
    """The texts of one entry, or of a whole answer."""
    if not isinstance(entry, dict):
        return {}
    return {key: value for key, value in entry.items() if isinstance(value, str)}


async def _asked(values: Values, ask: Ask) -> Iterable[delivery.Outcome]:
    answer = await ask(values)
    if not isinstance(answer, aws_client.Refusal):
        return answer
    if not answer.request or len(values) == 1:
        return [answer.outcome] * len(values)
    half = len(values) // 2
    return [*await _asked(values[:half], ask), *await _asked(values[half:], ask)]


def _too_large(size: int, most: int) -> delivery.Failed:
    text = f"the message has {size} bytes as the service counts, and may have {most}"
    return codes.failed(codes.Code.MESSAGE_TOO_LARGE, text)
