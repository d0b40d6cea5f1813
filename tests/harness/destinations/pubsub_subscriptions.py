"""The part of the stand-in for Pub/Sub that is about subscriptions: pulls that wait, deadlines that end, retry
delays, dead letters, and the calls that make and look at topics and subscriptions.

Delays of a retry policy pass `hurry` times as fast; deadlines of acknowledgement end in their own time, or when a
test ends them.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import msgspec
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.protobuf import empty_pb2
from google.pubsub_v1.types import pubsub

if TYPE_CHECKING:
    from tests.harness.destinations.pubsub_server import Server

LOOK_S = 0.02  # how often a pull that waits looks
MOST_IDS = 1_000
MOST_REQUEST_BYTES = 524_288
DELETED = "_deleted-topic_"
AGENT = "serviceAccount:service-1@gcp-sa-pubsub.iam.gserviceaccount.com"


class Held(msgspec.Struct, eq=False):
    """A message of one subscription. `ready_at`: when it may be handed out; `receipt`: while it is."""

    message: pubsub.PubsubMessage
    attempts: int = 0
    ready_at: float = 0.0
    receipt: str = ""
    until: float = 0.0


class Subscription:
    """One that exists. `made` is how it was made; `deleted` answers the pulls that wait there."""

    def __init__(self, made: pubsub.Subscription, consumers: set[str]) -> None:
        self.made = made
        self.consumers = consumers
        self.ready: deque[Held] = deque()
        self.taken: dict[str, Held] = {}
        self.deleted = False


class Subscriptions:
    """Of one server. `forwards`: whether Pub/Sub's own account may forward dead letters."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._of: dict[str, Subscription] = {}
        self._numbers = itertools.count(1)
        self.hurry = 1_000.0
        self.forwards = True
        self.acknowledged = 0
        self.calls: list[str] = []

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """For a server."""
        services: dict[str, dict[str, tuple[Callable[..., Awaitable[Any]], Any, Any]]] = {
            "google.pubsub.v1.Publisher": {
                "GetTopic": (self._get_topic, pubsub.GetTopicRequest, pubsub.Topic),
                "CreateTopic": (self._create_topic, pubsub.Topic, pubsub.Topic),
                "DeleteTopic": (self._delete_topic, pubsub.DeleteTopicRequest, empty_pb2.Empty),
            },
            "google.pubsub.v1.Subscriber": {
                "GetSubscription": (self._get, pubsub.GetSubscriptionRequest, pubsub.Subscription),
                "CreateSubscription": (self._create, pubsub.Subscription, pubsub.Subscription),
                "DeleteSubscription": (self._delete, pubsub.DeleteSubscriptionRequest, empty_pb2.Empty),
                "Pull": (self._pull, pubsub.PullRequest, pubsub.PullResponse),
                "Acknowledge": (self._acknowledge, pubsub.AcknowledgeRequest, empty_pb2.Empty),
                "ModifyAckDeadline": (self._modify, pubsub.ModifyAckDeadlineRequest, empty_pb2.Empty),
            },
            "google.iam.v1.IAMPolicy": {
                "GetIamPolicy": (self._policy, iam_policy_pb2.GetIamPolicyRequest, policy_pb2.Policy),
            },
        }
        handlers = {
            service: {name: self._handler(name, *each) for name, each in named.items()}
            for service, named in services.items()
        }
        return tuple(grpc.method_handlers_generic_handler(*each) for each in handlers.items())

    def publish(self, topic: str, messages: Sequence[pubsub.PubsubMessage], ids: Sequence[str]) -> None:
        """Every subscription of the topic gets each message."""
        for subscription in self._of.values():
            if subscription.made.topic == topic:
                for message, id_ in zip(messages, ids, strict=True):
                    copy = pubsub.PubsubMessage(
                        data=message.data,
                        attributes=dict(message.attributes),
                        message_id=id_,
                        ordering_key=message.ordering_key,
                    )
                    subscription.ready.append(Held(copy))

    def get(self, path: str) -> Subscription:
        """One that exists."""
        return self._of[path]

    def end_deadlines(self, path: str) -> None:
        """What is in hand comes again."""
        for held in self._of[path].taken.values():
            held.until = 0.0

    def _handler(
        self, name: str, do: Callable[..., Awaitable[Any]], asked: Any, answers: Any
    ) -> grpc.RpcMethodHandler:
        read = asked.FromString if hasattr(asked, "FromString") else asked.deserialize
        write = answers.SerializeToString if hasattr(answers, "SerializeToString") else answers.serialize

        async def handle(raw: bytes, call: grpc.aio.ServicerContext) -> bytes:
            metadata = {str(key): value for key, value in call.invocation_metadata() or ()}
            who = await self._server.caller(call, metadata)
            await self._server.refuse(call, metadata)
            self.calls.append(name)
            if len(raw) > MOST_REQUEST_BYTES:
                await _abort(call, "INVALID_ARGUMENT", "Request payload size exceeds the limit: 524288 bytes.")
            written: bytes = write(await do(read(raw), call, who))
            return written

        return grpc.unary_unary_rpc_method_handler(handle)

    async def _owner(self, call: grpc.aio.ServicerContext, who: str) -> None:
        if who and self._server.owners is not None and who not in self._server.owners:
            await _abort(call, "PERMISSION_DENIED", "User not authorized to perform this action.")

    async def _get_topic(self, asked: Any, call: Any, who: str) -> pubsub.Topic:
        await self._owner(call, who)
        if asked.topic not in self._server.topics:
            await _abort(call, "NOT_FOUND", f"Resource not found (resource={asked.topic.rpartition('/')[2]}).")
        return pubsub.Topic(name=asked.topic)

    async def _create_topic(self, asked: Any, call: Any, who: str) -> pubsub.Topic:
        from tests.harness.destinations.pubsub_server import Topic

        await self._owner(call, who)
        if asked.name in self._server.topics:
            await _abort(call, "ALREADY_EXISTS", "Resource already exists in the project.")
        self._server.topics[asked.name] = Topic({who} if who else set())
        return pubsub.Topic(name=asked.name)

    async def _delete_topic(self, asked: Any, call: Any, who: str) -> Any:
        await self._owner(call, who)
        self._server.topics.pop(asked.topic)
        for each in self._of.values():
            if each.made.topic == asked.topic:
                each.made.topic = DELETED
        return empty_pb2.Empty()

    async def _get(self, asked: Any, call: Any, who: str) -> pubsub.Subscription:
        await self._owner(call, who)
        return (await self._there(asked.subscription, call)).made

    async def _create(self, asked: Any, call: Any, who: str) -> pubsub.Subscription:
        await self._owner(call, who)
        if asked.name in self._of:
            await _abort(call, "ALREADY_EXISTS", "Resource already exists in the project.")
        if asked.topic not in self._server.topics:
            await _abort(call, "NOT_FOUND", f"Resource not found (resource={asked.topic.rpartition('/')[2]}).")
        asked.ack_deadline_seconds = asked.ack_deadline_seconds or 10
        self._of[asked.name] = Subscription(asked, {who} if who else set())
        made: pubsub.Subscription = asked
        return made

    async def _delete(self, asked: Any, call: Any, who: str) -> Any:
        await self._owner(call, who)
        await self._there(asked.subscription, call)
        self._of.pop(asked.subscription).deleted = True
        return empty_pb2.Empty()

    async def _pull(self, asked: Any, call: Any, who: str) -> pubsub.PullResponse:
        subscription = await self._consumed(asked.subscription, call, who)
        while True:
            if subscription.deleted:
                await self._there(asked.subscription, call)
            found = self._hand_out(subscription, asked.max_messages)
            if found:
                return pubsub.PullResponse(received_messages=found)
            await asyncio.sleep(LOOK_S)

    def _hand_out(self, subscription: Subscription, most: int) -> list[pubsub.ReceivedMessage]:
        now = time.monotonic()
        for held in [each for each in subscription.taken.values() if each.until <= now]:
            self._back(subscription, held)
        found: list[pubsub.ReceivedMessage] = []
        for held in [each for each in subscription.ready if each.ready_at <= now]:
            dead = subscription.made.dead_letter_policy
            if dead.dead_letter_topic and held.attempts >= (dead.max_delivery_attempts or 5) and self.forwards:
                subscription.ready.remove(held)
                self._forward(subscription, held)
                continue
            if len(found) == most:
                break
            subscription.ready.remove(held)
            held.attempts += 1
            held.receipt = f"receipt-{next(self._numbers)}"
            held.until = now + subscription.made.ack_deadline_seconds
            subscription.taken[held.receipt] = held
            attempt = held.attempts if dead.dead_letter_topic else 0
            found.append(
                pubsub.ReceivedMessage(ack_id=held.receipt, message=held.message, delivery_attempt=attempt)
            )
        return found

    def _back(self, subscription: Subscription, held: Held) -> None:
        subscription.taken.pop(held.receipt, None)
        policy = subscription.made.retry_policy
        least, most = (
            each.total_seconds() if each else 0.0 for each in (policy.minimum_backoff, policy.maximum_backoff)
        )
        delay = min(most, least * 2 ** (held.attempts - 1)) if least else 0.0
        held.receipt, held.ready_at = "", time.monotonic() + delay / self.hurry
        subscription.ready.append(held)

    def _forward(self, subscription: Subscription, held: Held) -> None:
        topic = subscription.made.dead_letter_policy.dead_letter_topic
        copy = pubsub.PubsubMessage(
            data=held.message.data,
            attributes={
                **held.message.attributes,
                "CloudPubSubDeadLetterSourceDeliveryCount": str(held.attempts),
                "CloudPubSubDeadLetterSourceSubscription": subscription.made.name.rpartition("/")[2],
            },
        )
        self._server.topics[topic].messages.append(copy)
        self.publish(topic, [copy], [f"dead-{next(self._numbers)}"])

    async def _acknowledge(self, asked: Any, call: Any, who: str) -> Any:
        subscription = await self._consumed(asked.subscription, call, who)
        await _bounded(asked, call)
        for receipt in asked.ack_ids:
            self.acknowledged += subscription.taken.pop(receipt, None) is not None
        return empty_pb2.Empty()

    async def _modify(self, asked: Any, call: Any, who: str) -> Any:
        subscription = await self._consumed(asked.subscription, call, who)
        await _bounded(asked, call)
        if not 0 <= asked.ack_deadline_seconds <= 600:
            await _abort(call, "INVALID_ARGUMENT", "Invalid ack deadline.")
        for receipt in asked.ack_ids:
            if held := subscription.taken.get(receipt):
                if asked.ack_deadline_seconds:
                    held.until = time.monotonic() + asked.ack_deadline_seconds
                else:
                    self._back(subscription, held)
        return empty_pb2.Empty()

    async def _policy(self, asked: Any, call: Any, who: str) -> policy_pb2.Policy:
        await self._owner(call, who)
        if not self.forwards:
            return policy_pb2.Policy()
        role = "roles/pubsub.publisher" if "/topics/" in asked.resource else "roles/pubsub.subscriber"
        return policy_pb2.Policy(bindings=[policy_pb2.Binding(role=role, members=[AGENT])])

    async def _consumed(self, path: str, call: Any, who: str) -> Subscription:
        found = await self._there(path, call)
        if who and who not in found.consumers:
            await _abort(call, "PERMISSION_DENIED", "User not authorized to perform this action.")
        return found

    async def _there(self, path: str, call: Any) -> Subscription:
        found = self._of.get(path)
        if found is None:
            await _abort(call, "NOT_FOUND", f"Resource not found (resource={path.rpartition('/')[2]}).")
        assert found is not None
        return found


async def _bounded(asked: Any, call: Any) -> None:
    if not 0 < len(asked.ack_ids) <= MOST_IDS:
        await _abort(call, "INVALID_ARGUMENT", "The request must hold 1 to 1000 ids.")


async def _abort(call: Any, status: str, text: str) -> None:
    await call.abort(grpc.StatusCode[status], text)
