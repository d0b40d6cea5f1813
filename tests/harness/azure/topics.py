"""Topics of the Service Bus stand-in: subscriptions deliver under a lock, count deliveries, and have dead letters.

Entities belong to the thread of the AMQP side; what the control port and HTTP ask is done there, within a tick.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

from proton import Array, Condition, Data, Delivery, Message, symbol, timestamp

TICK_S = 0.02
MANAGEMENT = "/$management"
DEAD_LETTERS = "/$DeadLetterQueue"
SUBSCRIPTIONS = "/Subscriptions/"
LOCK_S = 60.0
MAX_DELIVERIES = 10  # as the service has it where nothing is said


class Stored:
    """A message, as it came; `deliveries` counts the failed ones."""

    def __init__(self, raw: bytes, number: int) -> None:
        self.raw = raw
        self.number = number
        self.deliveries = 0
        self.reason = self.description = ""


class Subscription:
    """`letters` are its dead letters, None where it is one of those itself."""

    def __init__(self, settings: dict[str, Any], letters: Subscription | None) -> None:
        self.lock_s: float = settings.get("lock_s", LOCK_S)
        self.max_deliveries: int = settings.get("max_deliveries", MAX_DELIVERIES)
        self.sessions: bool = settings.get("sessions", False)
        self.letters = letters
        self.ready: deque[Stored] = deque()
        self.locked: dict[str, tuple[Stored, float]] = {}  # by tag, each with its end
        self.settled: list[str] = []  # outcomes, in order

    def again(self, tag: str, failed: bool) -> None:
        """A message whose lock has ended, or that was given back."""
        stored, _ = self.locked.pop(tag)
        stored.deliveries += failed
        if failed and self.letters is not None and stored.deliveries >= self.max_deliveries:
            self.bury(stored, "MaxDeliveryCountExceeded", "delivered too often")
        else:
            self.ready.appendleft(stored)

    def bury(self, stored: Stored, reason: str, description: str) -> None:
        """It is a dead letter."""
        if self.letters is not None:
            stored.reason, stored.description, stored.deliveries = reason, description, 0
            self.letters.ready.append(stored)


class State:
    """`subscriptions` by path. `tokens` are those of Entra ID, each with its end; new ones live for `token_s`."""

    new_queue: Callable[[str], Any]
    queues: dict[str, Any]

    def __init__(self) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self.tokens: dict[str, float] = {}
        self.token_s = 3_600.0
        self.applications: dict[str, str] = {}  # id -> secret
        self.managers: set[str] = set()  # applications that may use management
        self.resources: dict[str, dict[str, Any]] = {}  # what management made, by path
        self.http: list[str] = []  # what was asked over HTTP
        self.muted = False
        self._numbers = itertools.count(1)
        self._work: queue.Queue[tuple[Callable[[], Any], threading.Event, list[Any]]] = queue.Queue()

    def on_amqp_side(self, work: Callable[[], Any]) -> Any:
        """Does it there, and returns what it returned."""
        done, found = threading.Event(), list[Any]()
        self._work.put((work, done, found))
        done.wait(10.0)
        return found[0]

    def work(self) -> None:
        """On the AMQP side: what was asked meanwhile."""
        while not self._work.empty():
            asked, done, found = self._work.get()
            found.append(asked())
            done.set()

    def put_raw(self, topic: str, messages: list[bytes]) -> None:
        """A copy for each subscription."""
        prefix = f"{topic}{SUBSCRIPTIONS}".lower()
        for path, subscription in self.subscriptions.items():
            if path.startswith(prefix) and subscription.letters is not None:
                subscription.ready.extend(Stored(raw, next(self._numbers)) for raw in messages)

    def make(self, topic: str, subscription: str, **settings: Any) -> None:
        """A topic where there is none, and a subscription."""
        self.on_amqp_side(lambda: self.made(topic, subscription, settings))

    def made(self, topic: str, subscription: str, settings: dict[str, Any]) -> None:
        """The same, on the AMQP side."""
        if topic not in self.queues:
            self.queues[topic] = self.new_queue(topic)
        if subscription:
            path = f"{topic}{SUBSCRIPTIONS}{subscription}".lower()
            letters = self.subscriptions[path + DEAD_LETTERS.lower()] = Subscription(settings, None)
            self.subscriptions[path] = Subscription(settings, letters)

    def delete(self, topic: str) -> None:
        """The topic with everything in it."""
        self.on_amqp_side(lambda: self._deleted(topic))

    def put(self, topic: str, bodies: list[str], value: bool = False) -> None:
        """As a producer with another client. `value`: the bodies are no data but a text."""
        made = []
        for number, body in enumerate(bodies):
            message = Message(
                body=body if value else body.encode(), id=f"m-{number}", properties={"from": "another"}
            )
            message.inferred = not value
            made.append(message.encode())
        self.on_amqp_side(lambda: self.put_raw(topic, made))

    def put_large(self, topic: str, elements: int) -> None:
        """One message with so many properties."""
        message = Message(body=b"large", properties={f"p-{number}": number for number in range(elements)})
        message.inferred = True
        self.on_amqp_side(lambda: self.put_raw(topic, [message.encode()]))

    def told(self, path: str) -> dict[str, Any]:
        """What a subscription has."""
        return dict(self.on_amqp_side(lambda: self._told(self.subscriptions[path.lower()])))

    def end_locks(self, path: str) -> None:
        """Every lock ends now."""
        self.on_amqp_side(lambda: self._locks_ended(self.subscriptions[path.lower()]))

    def application(self, name: str, secret: str, manages: bool = True) -> None:
        """One of Entra ID."""
        self.applications[name] = secret
        if manages:
            self.managers.add(name)

    def lives(self, token_s: float) -> None:
        """How long new tokens live."""
        self.token_s = token_s

    def described(self, path: str) -> dict[str, Any]:
        """What management was told of an entity."""
        return self.resources[path]

    def asked(self) -> list[str]:
        """What was asked over HTTP."""
        return list(self.http)

    def _deleted(self, topic: str) -> None:
        self.queues.pop(topic, None)
        for path in [path for path in self.subscriptions if path.startswith(f"{topic}/".lower())]:
            del self.subscriptions[path]

    def _told(self, subscription: Subscription) -> dict[str, Any]:
        letters = subscription.letters.ready if subscription.letters is not None else ()
        return {
            "ready": len(subscription.ready),
            "locked": len(subscription.locked),
            "settled": subscription.settled,
            "dead": [[_body(each.raw), each.reason, each.description] for each in letters],
            "deliveries": [each.deliveries for each in subscription.ready],
        }

    def _locks_ended(self, subscription: Subscription) -> None:
        for tag in list(subscription.locked):
            subscription.again(tag, True)


class Receivers:
    """The links that receive, and those to the management of an entity."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._links: list[tuple[Any, Subscription, str, str]] = []  # link, of what, its path, peer
        self._answers: dict[tuple[str, str], Any] = {}  # (peer, path) -> where answers of management go
        self._tags = itertools.count(1)

    def opened(self, link: Any, path: str, peer: str) -> tuple[str, str] | None:
        """Opens it; or why it is refused."""
        entity = path.removesuffix(MANAGEMENT)
        subscription = self._state.subscriptions.get(entity.lower())
        if subscription is None:
            return "amqp:not-found", f"The messaging entity '{entity}' could not be found."
        if path.endswith(MANAGEMENT):
            link.open()
            if link.is_receiver:
                link.flow(100)
            else:
                self._answers[peer, path] = link
            return None
        if subscription.sessions:
            told = "It is not possible for an entity that requires sessions to create a non-sessionful message"
            return "amqp:not-allowed", f"{told} receiver."
        link.open()
        self._links.append((link, subscription, entity.lower(), peer))
        self.pump()
        return None

    def pump(self) -> None:
        """Sends what links have credit for."""
        for link, subscription, _, _ in self._links:
            while link.credit and subscription.ready and not self._state.muted:
                self._deliver(link, subscription)
            if link.drain_mode and link.credit:
                link.drained()

    def tick(self, ended: set[str]) -> None:
        """What time brings: locks that end, tokens that end, entities that are gone."""
        self._state.work()
        now = time.time()
        for subscription in self._state.subscriptions.values():
            for tag, (_, end) in list(subscription.locked.items()):
                if end <= now:
                    subscription.again(tag, True)
        for each in list(self._links):
            link, subscription, path, peer = each
            gone = self._state.subscriptions.get(path) is not subscription
            if gone or peer in ended:
                told = "The messaging entity could not be found." if gone else "The token has expired."
                link.condition = Condition("amqp:not-found" if gone else "amqp:unauthorized-access", told)
                link.close()
                self._links.remove(each)
        self.pump()

    def settled(self, link: Any, delivery: Any) -> None:
        """The peer says what becomes of a message."""
        found = next((each for each in self._links if each[0] == link), None)
        if found is None or not delivery.updated:
            return
        subscription, tag = found[1], delivery.tag
        subscription.settled.append(str(delivery.remote_state))
        if tag not in subscription.locked:
            return
        if delivery.remote_state == Delivery.ACCEPTED:
            del subscription.locked[tag]
        elif delivery.remote_state == Delivery.REJECTED:
            stored, _ = subscription.locked.pop(tag)
            info = delivery.remote.condition.info or {}
            about = {str(name): str(value) for name, value in dict(info).items()}
            subscription.bury(
                stored, about.get("DeadLetterReason", ""), about.get("DeadLetterErrorDescription", "")
            )
        else:
            subscription.again(tag, delivery.remote_state == Delivery.MODIFIED)
        self.pump()

    def asked(self, link: Any, peer: str, raw: bytes) -> None:
        """A request to the management of an entity: locks are renewed."""
        asked = Message()
        asked.decode(raw)
        path = str(link.remote_target.address).partition("://")[2].partition("/")[2] or link.remote_target.address
        subscription = self._state.subscriptions[path.removesuffix(MANAGEMENT).lower()]
        tags = [_tag(token) for token in asked.body["lock-tokens"].elements]
        properties: dict[str, Any] = {"statusCode": 200, "statusDescription": "OK"}
        body: dict[str, Any] = {}
        if all(tag in subscription.locked for tag in tags):
            end = time.time() + subscription.lock_s
            for tag in tags:
                subscription.locked[tag] = (subscription.locked[tag][0], end)
            ends = [timestamp(int(end * 1000))] * len(tags)
            body = {"expirations": Array(None, Data.TIMESTAMP, *ends)}
        else:
            properties = {
                "statusCode": 410,
                "statusDescription": "The lock supplied is invalid.",
                "errorCondition": symbol("com.microsoft:message-lock-lost"),
            }
        answers = self._answers[peer, path]
        answer = answers.delivery(answers.delivery_tag())
        answers.send(Message(correlation_id=asked.id, properties=properties, body=body).encode())
        answers.advance()
        answer.settle()

    def closed(self, link: Any) -> None:
        """The peer has closed it. What it has locked stays so until its end, as at the service."""
        self._links = [each for each in self._links if each[0] != link]

    def forget(self, peer: str) -> None:
        """Its connection has ended."""
        self._links = [each for each in self._links if each[3] != peer]
        self._answers = {key: value for key, value in self._answers.items() if key[0] != peer}

    def _deliver(self, link: Any, subscription: Subscription) -> None:
        stored = subscription.ready.popleft()
        tag = f"{next(self._tags):016d}"  # the service has 16 bytes, of which this binding takes only text
        end = time.time() + subscription.lock_s
        subscription.locked[tag] = (stored, end)
        message = Message()
        message.decode(stored.raw)
        message.inferred = isinstance(message.body, bytes | memoryview)
        message.delivery_count = stored.deliveries
        message.annotations = {
            symbol("x-opt-sequence-number"): stored.number,
            symbol("x-opt-locked-until"): timestamp(int(end * 1000)),
        }
        link.delivery(tag)
        link.send(message.encode())
        link.advance()


def _tag(token: uuid.UUID) -> str:
    return token.bytes_le.decode()


def _body(raw: bytes) -> str:
    message = Message()
    message.decode(raw)
    return bytes(message.body).decode("latin-1")
