"""What a broker is known to take from one publisher: topics, and messages up to a size.

A message that a RabbitMQ refuses (a topic without permission, a body over its `max_message_size`) closes the
channel under every message that is not confirmed yet, and nobody learns which of them were taken. So only what the
broker has taken the like of shares a channel; everything else goes alone first. What was refused a moment ago need
not be tried again by those that waited meanwhile.
"""

from __future__ import annotations

import re

import msgspec
from aiormq import exceptions

from outpost.adapters import base
from outpost.adapters.rabbitmq import failures
from outpost.domain import delivery

MAX_TOPICS = 256  # that are known to be permitted; the oldest one is forgotten
MAX_REFUSED = 64  # refusals that are remembered for those that wait
# Words of RabbitMQ since 3.7 about a routing key; a missing exchange and one without permission name none.
_TOPIC = re.compile(r"access to topic '(.*?)' in ", re.DOTALL)


class Refusal(msgspec.Struct, frozen=True):
    """What a closed channel says: all messages are refused (both None), those of one topic, or those of a size
    (bytes) and above."""

    topic: str | None = None
    size: int | None = None

    @property
    def of_all(self) -> bool:
        """Whether it holds for whatever is sent to this exchange."""
        return self.topic is None and self.size is None

    def holds_for(self, event: base.Delivery) -> bool:
        """Whether this event is refused, too."""
        if self.topic is not None:
            return self.topic == event.topic
        return self.size is None or len(event.data) >= self.size


def refusal(exc: exceptions.AMQPChannelError) -> Refusal | None:
    """What `exc` refuses; None where the broker's words do not tell."""
    match exc:
        case exceptions.ChannelAccessRefused():
            found = _TOPIC.search(failures.words(exc))
            return Refusal(found[1] if found else None)
        case exceptions.ChannelNotFoundEntity():
            return Refusal()
        case exceptions.ChannelPreconditionFailed():
            size = failures.too_large(exc)
            return None if size is None else Refusal(size=size)
    return None


class Proven:
    """Of one publisher."""

    def __init__(self) -> None:
        self._topics: dict[str, None] = {}  # the oldest first
        self._largest = -1  # bytes of the largest body that was taken
        self._refused: list[tuple[float, Refusal, delivery.Failed]] = []  # with the loop's clock, the oldest first

    def covers(self, event: base.Delivery) -> bool:
        """Whether the like of it was taken before."""
        return len(event.data) <= self._largest and event.topic in self._topics

    def taken(self, event: base.Delivery) -> None:
        """The broker did not refuse it: it confirmed it, or said that no queue takes it."""
        self._largest = max(self._largest, len(event.data))
        if event.topic not in self._topics:
            self._topics[event.topic] = None
            if len(self._topics) > MAX_TOPICS:
                del self._topics[next(iter(self._topics))]

    def refused(self, found: Refusal, outcome: delivery.Failed, now: float) -> None:
        """The broker closed a channel, which is `outcome` for those that `found` holds for."""
        if found.topic is not None:
            self._topics.pop(found.topic, None)
        elif found.size is not None:
            self._largest = min(self._largest, found.size - 1)
        if self._refused and self._refused[-1][1] == found:  # of every message that was on its way there
            self._refused.pop()
        self._refused.append((now, found, outcome))
        del self._refused[:-MAX_REFUSED]

    def refused_since(self, since: float, event: base.Delivery) -> delivery.Failed | None:
        """The outcome of the like of `event`, where it was refused after `since`."""
        for at, found, outcome in reversed(self._refused):
            if at >= since and found.holds_for(event):
                return outcome
        return None
