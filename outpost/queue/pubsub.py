"""Pub/Sub as a queue of ours: a topic, and two calls that wait for messages of its subscription."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

from outpost.adapters import codes
from outpost.adapters.gcp import attributes
from outpost.adapters.gcp import calls as gcp_calls
from outpost.adapters.gcp import publisher as gcp_publisher
from outpost.queue import broker, polls, pubsub_connection
from outpost.settings import queues

CALL_S = 10.0  # of a call without a deadline of its own
PULL_S = 30.0  # of a call that waits for messages
LOCK_S = 60
LONGEST_LOCK_S = 600
MAX_RECEIVES = 6  # then a message is a dead letter
LEAST_RETRY_S, LONGEST_RETRY_S = 10, 120  # before what was given back, or whose lock has ended, comes again
IDS = 1_000  # of one acknowledgement: https://cloud.google.com/pubsub/quotas allows 512 KiB
MESSAGE_BYTES = 9_990_000
REASON = "outpost-reason"
REASON_CHARACTERS = 250
DELETED = "_deleted-topic_"
GET_POLICY = "/google.iam.v1.IAMPolicy/GetIamPolicy"

_PUBLISHER, _SUBSCRIBER = "/google.pubsub.v1.Publisher/", "/google.pubsub.v1.Subscriber/"
_SHORT_LOCK = "messages of the subscription {!r} come again after {:g} s: {} s are better"
_AGENT = "@gcp-sa-pubsub.iam.gserviceaccount.com"
_MORE_ROLES = ("roles/pubsub.editor", "roles/pubsub.admin", "roles/editor", "roles/owner")
_GRANT = (
    "Pub/Sub may not forward dead letters, as far as the {0} {1!r} says:"
    " gcloud pubsub {0}s add-iam-policy-binding {1} --project={3} --role={2}"
    " --member=serviceAccount:service-PROJECT_NUMBER" + _AGENT
)
_CERTAIN = (codes.Code.INVALID_CREDENTIALS, codes.Code.ACCESS_DENIED)


class _Refused(broker.BrokerError):
    def __init__(self, refused: gcp_calls.Refused) -> None:
        text = str((refused.outcome.response or {}).get("error", "")) or "Pub/Sub did not answer"
        super().__init__(refused.outcome.code, text)
        self.status = refused.status


def open_broker(named: queues.PubSub) -> PubSubBroker:
    """Connects in `prepare`."""
    return PubSubBroker(named)


class PubSubBroker:
    """See `broker.Broker`."""

    name = "pubsub"

    def __init__(self, named: queues.PubSub) -> None:
        self._named = named
        words = ("topic", "subscription", "dead_letter_topic", "dead_letter_subscription")
        self.names: Mapping[str, str] = {word: getattr(named, word) for word in words if getattr(named, word)}
        self._topic = self._path("topics", named.topic)
        self._subscription = self._path("subscriptions", named.subscription)
        self._letters = ""  # the topic of dead letters, as the subscription names it
        self._lock_s = float(LOCK_S)
        self._pull_messages = pubsub_connection.PULL_MESSAGES
        self._gone: broker.BrokerError | None = None  # the topic was not there
        self._open: pubsub_connection.Connection | None = None

    @property
    def limits(self) -> broker.Limits:
        """See `broker.Broker`. The subscription says how long a message stays ours."""
        return broker.Limits(
            message_bytes=MESSAGE_BYTES,
            call_messages=gcp_calls.MOST_MESSAGES,
            call_bytes=gcp_calls.MOST_BYTES,
            lock_s=self._lock_s,
            ahead=polls.AT_ONCE * pubsub_connection.PULL_MESSAGES,
        )

    async def prepare(self, provision: bool) -> list[str]:
        """See `broker.Broker`."""
        try:
            self._open = self._open or await pubsub_connection.connected(self._named, self._pull)
            self._gone = None
            problems = await (self._provide() if provision else self._look())
            return problems or await self._learn()
        except pubsub_connection.Unusable as exc:
            return [str(exc)]
        except _Refused as exc:
            if exc.code not in _CERTAIN:
                raise
            return [f"Pub/Sub: {exc.code}: {exc.text}"]

    async def send(self, bodies: Sequence[bytes]) -> list[bool]:
        """See `broker.Broker`. Raises where nothing was taken."""
        message = self._opened().library.message
        messages = [message(data=body) for body in bodies]
        sizes = {at: each.ByteSize() + gcp_calls.FRAME_BYTES for at, each in enumerate(messages)}
        room = gcp_calls.MOST_BYTES - len(self._topic) - gcp_calls.FRAME_BYTES
        parts = gcp_publisher.parts(sizes, room)
        sent = [False] * len(bodies)
        failure: BaseException | None = None
        publishing = (self._publish(self._topic, [messages[at] for at in part], broker.SEND_S) for part in parts)
        for part, outcome in zip(parts, await asyncio.gather(*publishing, return_exceptions=True), strict=True):
            if isinstance(outcome, BaseException):
                failure = outcome
            else:
                for at in part:
                    sent[at] = True
        if failure is not None and not any(sent):
            if isinstance(failure, _Refused) and failure.code == codes.Code.TARGET_NOT_FOUND:
                self._gone = failure  # receiving goes on without a topic, and would not make it again
            raise failure
        return sent

    async def receive(self, count: int, wait_s: float) -> list[broker.Received]:
        """See `broker.Broker`."""
        if self._gone is not None:
            raise broker.BrokerError(self._gone.code, self._gone.text)
        return await self._opened().polls.receive(count, wait_s, self._lock_s)

    async def acknowledge(self, receipts: Sequence[Any]) -> None:
        """See `broker.Broker`."""
        await self._each("Acknowledge", receipts)

    async def extend(self, receipts: Sequence[Any], seconds: float) -> None:
        """See `broker.Broker`."""
        await self._each("ModifyAckDeadline", receipts, ack_deadline_seconds=_deadline(seconds))

    async def give_back(self, receipts: Sequence[Any], delay_s: float = 0.0) -> None:
        """See `broker.Broker`. The subscription's retry policy may add to the delay."""
        await self.extend(receipts, delay_s)

    async def bury(self, received: broker.Received, reason: str) -> bool:
        """A copy with the reason goes to the dead-letter topic of the subscription, and then the message is
        acknowledged."""
        if not self._letters:
            return False
        kept, _ = attributes.fitting(
            {REASON: reason[:REASON_CHARACTERS] or "not told"} | dict(received.attributes)
        )
        letter = self._opened().library.message(data=received.body, attributes=kept)
        try:
            await self._publish(self._letters, [letter], broker.SETTLE_S)
        except _Refused as exc:
            if exc.code not in (codes.Code.TARGET_NOT_FOUND, codes.Code.ACCESS_DENIED):
                raise
            return False
        await self.acknowledge([received.receipt])
        return True

    async def depth(self) -> broker.Depth | None:
        """Only another service, that of metrics, would tell."""
        return None

    async def advice(self) -> list[str]:
        """See `broker.Advising`. Without the grants nothing is ever forwarded, and what cannot be read comes again
        for as long as the subscription keeps it."""
        found: list[str] = []
        subscription = self._named.subscription
        if self._lock_s < LOCK_S:
            found.append(_SHORT_LOCK.format(subscription, self._lock_s, LOCK_S))
        if not self._letters:
            return [*found, f"the subscription {subscription!r} has no dead-letter topic"]
        for kind, path, role in (
            ("topic", self._letters, "roles/pubsub.publisher"),
            ("subscription", self._subscription, "roles/pubsub.subscriber"),
        ):
            if await self._granted(path, role) is False:
                name = path.rpartition("/")[2]
                found.append(_GRANT.format(kind, name, role, self._named.project))
        return found

    async def _granted(self, path: str, role: str) -> bool | None:
        """Whether Pub/Sub's own account has the role there; None where nobody says so."""
        from google.iam.v1 import iam_policy_pb2, policy_pb2

        request = iam_policy_pb2.GetIamPolicyRequest(resource=path)
        try:
            policy = await self._ask(GET_POLICY, request, policy_pb2.Policy, ("resource", path))
        except _Refused:
            return None
        members = (
            member for each in policy.bindings if each.role in (role, *_MORE_ROLES) for member in each.members
        )
        return any(member.endswith(_AGENT) for member in members)

    async def close(self) -> None:
        """See `broker.Broker`. What nobody took goes back."""
        opened, self._open = self._open, None
        if opened is None:
            return
        try:
            if left := await opened.polls.close():
                receipts = [each.receipt for each in left]
                await self._each("ModifyAckDeadline", receipts, opened, ack_deadline_seconds=0)
        except broker.BrokerError:
            pass  # their lock ends
        finally:
            await opened.close()

    async def _provide(self) -> list[str]:
        """Makes what is missing: what is there stays as it is."""
        named, kind = self._named, self._opened().library.pubsub
        letters = self._path("topics", named.dead_letter_topic)
        for topic in (letters, self._topic):
            if await self._get("topic", topic) is None:
                await self._make(f"{_PUBLISHER}CreateTopic", kind.Topic.pb()(name=topic))
        subscription, duration = kind.Subscription.pb(), {"seconds": LEAST_RETRY_S}
        never = kind.ExpirationPolicy.pb()()  # without a time to live it does not expire
        dead = subscription(
            name=self._path("subscriptions", named.dead_letter_subscription),
            topic=letters,
            expiration_policy=never,
        )
        live = subscription(
            name=self._subscription,
            topic=self._topic,
            ack_deadline_seconds=LOCK_S,
            expiration_policy=never,
            dead_letter_policy={"dead_letter_topic": letters, "max_delivery_attempts": MAX_RECEIVES},
            retry_policy={"minimum_backoff": duration, "maximum_backoff": {"seconds": LONGEST_RETRY_S}},
        )
        for each in (dead, live):
            if await self._get("subscription", each.name) is None:
                await self._make(f"{_SUBSCRIBER}CreateSubscription", each)
        return []

    async def _look(self) -> list[str]:
        """Verifies, and names the variable of what is missing."""
        named, problems = self._named, []
        for kind, name, word in (
            ("topic", named.topic, "TOPIC"),
            ("subscription", named.subscription, "SUBSCRIPTION"),
            ("topic", named.dead_letter_topic, "DLQ_TOPIC"),
            ("subscription", named.dead_letter_subscription, "DLQ_SUBSCRIPTION"),
        ):
            if name and await self._get(kind, self._path(f"{kind}s", name)) is None:
                problems.append(f"Pub/Sub has no {kind} {name!r}, which {self._named.prefix}{word} names")
        return problems

    async def _learn(self) -> list[str]:
        """What the subscription says of itself."""
        found = await self._get("subscription", self._subscription)
        if found is None:
            raise broker.BrokerError(codes.Code.TARGET_NOT_FOUND, "the subscription is not there yet")
        self._letters = found.dead_letter_policy.dead_letter_topic
        self._lock_s = float(found.ack_deadline_seconds or LOCK_S)
        variable = f"{self._named.prefix}SUBSCRIPTION"
        if found.topic == DELETED:
            return [
                f"the subscription that {variable} names had a topic that was deleted: delete the subscription too"
            ]
        if self._named.topic and found.topic != self._topic:
            return [f"the subscription that {variable} names is not one of the topic {self._named.topic!r}"]
        return []

    async def _get(self, kind: str, path: str) -> Any:
        """A topic or subscription; None where it does not exist."""
        pubsub = self._opened().library.pubsub
        topic = kind == "topic"
        request, answer = (
            (pubsub.GetTopicRequest, pubsub.Topic)
            if topic
            else (
                pubsub.GetSubscriptionRequest,
                pubsub.Subscription,
            )
        )
        method = f"{_PUBLISHER}GetTopic" if topic else f"{_SUBSCRIBER}GetSubscription"
        try:
            return await self._ask(method, request.pb()(**{kind: path}), answer.pb(), (kind, path))
        except _Refused as exc:
            if exc.code != codes.Code.TARGET_NOT_FOUND:
                raise
            return None

    async def _make(self, method: str, wanted: Any) -> None:
        try:
            await self._ask(method, wanted, type(wanted), ("name", wanted.name))
        except _Refused as exc:
            if exc.status != "ALREADY_EXISTS":  # another process was faster
                raise

    async def _publish(self, topic: str, messages: list[Any], seconds: float) -> None:
        library = self._opened().library
        request = library.request(topic=topic, messages=messages)
        answer = await self._ask(gcp_publisher.METHOD, request, library.response, ("topic", topic), seconds)
        ids = gcp_publisher.ids_of(answer, len(messages))
        if isinstance(ids, gcp_calls.Refused):
            raise _Refused(ids)

    async def _pull(self, count: int, wait_s: float) -> list[broker.Received]:  # noqa: ARG002
        """Waits longer than `receive`, since what a call that is cut off gets is out of reach for a minute."""
        opened = self._opened()
        asked = min(count, self._pull_messages)
        request = opened.pull(subscription=self._subscription, max_messages=asked).SerializeToString()
        place = gcp_calls.routing("subscription", self._subscription)
        deadline = asyncio.get_running_loop().time() + PULL_S + broker.RECEIVE_EXTRA_S
        answer = await opened.pulls.call(
            f"{_SUBSCRIBER}Pull", request, opened.pulled.FromString, place, deadline, PULL_S
        )
        if isinstance(answer, gcp_calls.Refused):
            if answer.outcome.code == codes.Code.ANSWER_TOO_LARGE and asked > 1:
                self._pull_messages = max(1, min(self._pull_messages, asked // 4))  # they come again
                return []
            raise _Refused(answer)
        return [] if answer is None else [_received(each) for each in answer.received_messages]

    async def _each(
        self, method: str, receipts: Sequence[str], opened: pubsub_connection.Connection | None = None, **more: int
    ) -> None:
        opened = opened or self._opened()
        request = getattr(opened.library.pubsub, f"{method}Request").pb()
        asking = (
            self._ask(
                f"{_SUBSCRIBER}{method}",
                request(subscription=self._subscription, ack_ids=receipts[at : at + IDS], **more),
                opened.empty,
                ("subscription", self._subscription),
                broker.SETTLE_S,
                opened,
            )
            for at in range(0, len(receipts), IDS)
        )
        await asyncio.gather(*asking)

    async def _ask(
        self,
        method: str,
        request: Any,
        answer: Any,
        place: tuple[str, str],
        seconds: float = CALL_S,
        opened: pubsub_connection.Connection | None = None,
    ) -> Any:
        calls = (opened or self._opened()).calls
        deadline = asyncio.get_running_loop().time() + seconds
        told = await calls.call(
            method, request.SerializeToString(), answer.FromString, gcp_calls.routing(*place), deadline
        )
        if isinstance(told, gcp_calls.Refused):
            raise _Refused(told)
        return told

    def _path(self, kind: str, name: str) -> str:
        return f"projects/{self._named.project}/{kind}/{name}"

    def _opened(self) -> pubsub_connection.Connection:
        if self._open is None:
            raise broker.BrokerError(codes.Code.CONNECTION_RESET, "the connection to Pub/Sub is closed")
        return self._open


def _received(pulled: Any) -> broker.Received:
    message = pulled.message
    return broker.Received(
        body=message.data,
        receipt=pulled.ack_id,
        message_id=message.message_id,
        deliveries=pulled.delivery_attempt,
        attributes=dict(message.attributes),
    )


def _deadline(seconds: float) -> int:
    return min(LONGEST_LOCK_S, max(0, math.ceil(seconds)))
