"""SQS as a queue of ours: two calls wait for messages there, and each message of a batch has an outcome of its
own.

botocore runs in threads that are not those of destinations. Without keys of our own the chain of the SDK is asked.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from outpost.adapters import codes
from outpost.adapters.aws import batch as aws_batch
from outpost.adapters.aws import client as aws_client
from outpost.adapters.aws import sessions
from outpost.adapters.aws import sqs as destination_type
from outpost.domain import delivery
from outpost.queue import broker, operator, polls, sqs_text
from outpost.settings import queues

THREADS = 6  # two of them wait for messages
CALL_S = 10.0  # of a call without a deadline of its own, and of what is waited for on one socket
WAIT_S = 2.0  # of a call that waits: it ends within a stop, since what a call that is cut off gets is out of reach
LOCK_S = 60
LONGEST_LOCK_S = 43_190.0  # 12 h from the moment of the receive, less what our call takes
MAX_RECEIVES = 6  # then a message is a dead letter
LEAST_RECEIVES = 3  # fewer give up what two processes have died with
BATCH = destination_type.LIMITS.entries
# Ten messages of 1 MiB, of which JSON may write each character of two bytes as six.
MAX_ANSWER_BYTES = 33_554_432
OLDER_QUEUE_BYTES = 262_144  # the largest message of a queue that does not say more
LEAST_MESSAGE_BYTES = 16_384
REASON = "outpost-reason"

_MISSING = "SQS has no queue {!r}, which {} names"
_TOO_LITTLE = "the queue that AWS_SQS_DELIVERY_QUEUE names takes messages of {} bytes at most, and has to take {}"
_CERTAIN = (codes.Code.INVALID_CREDENTIALS, codes.Code.ACCESS_DENIED)
_THERE = ("QueueNameExists", "QueueAlreadyExists")
_DEPTH = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")


class _Receipt(msgspec.Struct, frozen=True):
    """`text` and `attributes` as they came, for a dead letter; `at`: when the service handed it out."""

    handle: str
    at: float
    text: str
    attributes: Mapping[str, Any]
    group: str


class _Refused(broker.BrokerError):
    def __init__(self, refusal: aws_client.Refusal) -> None:
        super().__init__(refusal.outcome.code, _text(refusal.outcome))
        self.name = refusal.name


def open_broker(named: queues.SQS) -> SQSBroker:
    """Connects in `prepare`."""
    return SQSBroker(named)


class SQSBroker:
    """See `broker.Broker`."""

    name = "sqs"

    def __init__(self, named: queues.SQS) -> None:
        self._named = named
        self.names: Mapping[str, str] = {
            name: value for name, value in (("queue", named.queue), ("dead_letters", named.dead_letters)) if value
        }
        self._session = None if named.access_key_id else sessions.of_this_process()
        self._open: _Open | None = None
        self._url = ""
        self._letters = ""  # the URL of where dead letters go
        self._message_bytes = OLDER_QUEUE_BYTES

    @property
    def limits(self) -> broker.Limits:
        """See `broker.Broker`. The queue says how long a message may be."""
        return broker.Limits(
            message_bytes=sqs_text.room(self._message_bytes),
            call_messages=BATCH,
            call_bytes=destination_type.LIMITS.bytes,
            lock_s=LOCK_S,
            ahead=polls.AT_ONCE * BATCH,
        )

    async def prepare(self, provision: bool) -> list[str]:
        """See `broker.Broker`."""
        self._open = self._open or _Open(self._named, self._session, self._receive)
        try:
            problems = await (self._provide() if provision else self._look())
            if not problems:
                problems = await self._learn()
        except _Refused as exc:
            if exc.code not in _CERTAIN:
                raise
            problems = [f"SQS: {exc.code}: {exc.text}"]
        return problems

    async def send(self, bodies: Sequence[bytes]) -> list[bool]:
        """See `broker.Broker`. Raises where nothing was taken."""
        opened = self._opened()
        deadline = asyncio.get_running_loop().time() + broker.SEND_S

        async def ask(values: aws_batch.Values) -> list[delivery.Outcome] | aws_client.Refusal:
            entries = [{"Id": str(place), **value} for place, value in enumerate(values)]
            asked = {"QueueUrl": self._url, "Entries": entries}
            answer = await opened.client.call("send_message_batch", asked, deadline)
            if isinstance(answer, aws_client.Refusal):
                return answer
            return destination_type.outcomes_of(answer, len(values), opened.place.secrets)

        outcomes = await aws_batch.send([_entry(body) for body in bodies], destination_type.LIMITS, ask)
        sent = [isinstance(outcome, delivery.Delivered) for outcome in outcomes]
        if outcomes and not any(sent):
            assert isinstance(outcomes[0], delivery.Failed)
            raise broker.BrokerError(outcomes[0].code, _text(outcomes[0]))
        return sent

    async def receive(self, count: int, wait_s: float) -> list[broker.Received]:
        """See `broker.Broker`."""
        return await self._opened().polls.receive(count, wait_s, LOCK_S)

    async def acknowledge(self, receipts: Sequence[Any]) -> None:
        """See `broker.Broker`."""
        await self._each("delete_message_batch", [{"ReceiptHandle": each.handle} for each in receipts])

    async def extend(self, receipts: Sequence[Any], seconds: float) -> None:
        """See `broker.Broker`."""
        now = asyncio.get_running_loop().time()
        entries = [
            {
                "ReceiptHandle": each.handle,
                "VisibilityTimeout": max(0, int(min(seconds, each.at + LONGEST_LOCK_S - now))),
            }
            for each in receipts
        ]
        await self._each("change_message_visibility_batch", entries)

    async def give_back(self, receipts: Sequence[Any], delay_s: float = 0.0) -> None:
        """See `broker.Broker`."""
        await self.extend(receipts, delay_s)

    async def bury(self, received: broker.Received, reason: str) -> bool:
        """A copy with the reason goes to the queue's own target, and then the message is deleted. A letter that
        its target finds too large goes there without attributes."""
        if not self._letters:
            return False
        receipt: _Receipt = received.receipt
        asked: dict[str, Any] = {"QueueUrl": self._letters, "MessageBody": receipt.text}
        if self._letters.endswith(destination_type.FIFO):
            group = receipt.group or received.message_id
            asked |= {"MessageGroupId": group, "MessageDeduplicationId": received.message_id}
        attributes = sqs_text.with_one_more(receipt.attributes, REASON, reason or "not told")
        try:
            try:
                await self._ask("send_message", asked | {"MessageAttributes": attributes}, broker.SETTLE_S)
            except _Refused as exc:
                if exc.code != codes.Code.MESSAGE_TOO_LARGE:
                    raise
                await self._ask("send_message", asked, broker.SETTLE_S)
        except _Refused as exc:
            if exc.code not in (codes.Code.TARGET_NOT_FOUND, codes.Code.ACCESS_DENIED):
                raise
            return False
        await self.acknowledge([receipt])
        return True

    async def depth(self) -> broker.Depth | None:
        """See `broker.Broker`."""
        found = await self._attributes(self._url, *_DEPTH)
        letters = await self._attributes(self._letters, _DEPTH[0]) if self._letters else {}
        ready, unacknowledged = (_number(found.get(name)) for name in _DEPTH)
        if ready is None:
            return None
        return broker.Depth(
            ready=ready, unacknowledged=unacknowledged, dead_letters=_number(letters.get(_DEPTH[0]))
        )

    async def advice(self) -> list[str]:
        """See `broker.Advising`."""
        found: list[str] = []
        queue = self._named.queue
        told = (await self._attributes(self._url, "RedrivePolicy")).get("RedrivePolicy", "")
        receives = re.search(r'"maxReceiveCount"\s*:\s*"?([0-9]{1,4})"?', told)
        if receives is None:
            found.append(f"the queue {queue!r} has no redrive policy, or its role may not see it")
        elif int(receives[1]) < LEAST_RECEIVES:
            found.append(f"the queue {queue!r} gives messages up after {receives[1]} receives: 6 are better")
        if self._named.dead_letters and self._message_bytes < OLDER_QUEUE_BYTES:
            found.append(f"the queue {queue!r} takes {self._message_bytes:,} bytes a message: chunks are smaller")
        return found

    async def close(self) -> None:
        """See `broker.Broker`. Calls that wait for messages end by themselves, since what they get once they are
        cut off would be out of reach for a minute; what nobody took goes back."""
        opened, self._open = self._open, None
        if opened is None:
            return
        try:
            left = await opened.polls.close(WAIT_S + 0.5)
            if left:
                entries = [{"ReceiptHandle": each.receipt.handle, "VisibilityTimeout": 0} for each in left]
                await self._each("change_message_visibility_batch", entries, opened)
        except broker.BrokerError:
            pass  # their lock ends
        finally:
            await opened.close()

    async def _provide(self) -> list[str]:
        """Makes what is missing: what is there stays as it is."""
        letters = await self._made(self._named.dead_letters, {})
        target = (await self._attributes(letters, "QueueArn")).get("QueueArn")
        policy = json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": str(MAX_RECEIVES)})
        settings = {"VisibilityTimeout": str(LOCK_S)} | ({"RedrivePolicy": policy} if target else {})
        self._url = await self._made(self._named.queue, settings)
        self._letters = letters
        return []

    async def _look(self) -> list[str]:
        """Verifies, and names the variable of what is missing."""
        named, problems = self._named, []
        url = await self._found(named.queue)
        if url is None:
            problems.append(_MISSING.format(named.queue, named.variable))
        letters = await self._found(named.dead_letters) if named.dead_letters else ""
        if letters is None:
            problems.append(_MISSING.format(named.dead_letters, "AWS_SQS_DELIVERY_DLQ"))
        self._url, self._letters = url or "", letters or ""
        return problems

    async def _learn(self) -> list[str]:
        """What the queue says of itself, where we may ask: its own target of dead letters, and how much it
        takes."""
        found = await self._attributes(self._url, "MaximumMessageSize", "RedrivePolicy")
        self._message_bytes = _number(found.get("MaximumMessageSize")) or OLDER_QUEUE_BYTES
        if target := _target(found.get("RedrivePolicy", "")):
            owner, name = target
            answer = await self._allowed("get_queue_url", {"QueueName": name, "QueueOwnerAWSAccountId": owner})
            self._letters = aws_batch.texts(answer).get("QueueUrl", "") or self._letters
        if self._named.dead_letters and self._message_bytes < LEAST_MESSAGE_BYTES:
            return [_TOO_LITTLE.format(self._message_bytes, LEAST_MESSAGE_BYTES)]
        return []

    async def _made(self, queue: str, attributes: dict[str, str]) -> str:
        """The URL of the queue, which is made where it is missing."""
        if found := await self._found(queue):
            return found
        asked = {"QueueName": queue.rpartition("/")[2], "Attributes": attributes}
        try:
            answer = await self._ask("create_queue", asked)
        except _Refused as exc:
            if exc.name.rpartition(".")[2] not in _THERE:
                raise
            return await self._found(queue) or ""  # another process made it meanwhile
        return aws_batch.texts(answer).get("QueueUrl", "")

    async def _found(self, queue: str) -> str | None:
        """The URL of a queue; None where there is no such queue."""
        try:
            if "/" in queue:
                await self._attributes(queue, "QueueArn")
                return queue
            answer = await self._ask("get_queue_url", {"QueueName": queue})
        except _Refused as exc:
            if exc.code != codes.Code.TARGET_NOT_FOUND:
                raise
            return None
        return aws_batch.texts(answer).get("QueueUrl", "")

    async def _attributes(self, url: str, *names: str) -> dict[str, str]:
        """Attributes of a queue; none where we may not ask."""
        answer = await self._allowed("get_queue_attributes", {"QueueUrl": url, "AttributeNames": list(names)})
        return aws_batch.texts(answer.get("Attributes"))

    async def _allowed(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """The answer, or an empty one where the policy of our role does not permit to ask."""
        try:
            return await self._ask(operation, parameters)
        except _Refused as exc:
            if exc.code != codes.Code.ACCESS_DENIED:
                raise
            return {}

    async def _receive(self, count: int, wait_s: float) -> list[broker.Received]:
        wait = min(math.ceil(wait_s), int(WAIT_S))
        asked = {
            "QueueUrl": self._url,
            "MaxNumberOfMessages": count,
            "WaitTimeSeconds": wait,
            "VisibilityTimeout": LOCK_S,
            "MessageAttributeNames": ["All"],
            "MessageSystemAttributeNames": ["ApproximateReceiveCount", "MessageGroupId"],
        }
        answer = await self._ask("receive_message", asked, wait + broker.RECEIVE_EXTRA_S)
        now = asyncio.get_running_loop().time()
        messages = answer.get("Messages")
        return [_received(each, now) for each in messages if isinstance(each, dict)] if messages else []

    async def _each(self, operation: str, entries: Sequence[dict[str, Any]], opened: _Open | None = None) -> None:
        """In calls of ten. What fails alone brings a copy."""
        calls = []
        for at in range(0, len(entries), BATCH):
            part = [{"Id": str(place), **entry} for place, entry in enumerate(entries[at : at + BATCH])]
            calls.append(self._ask(operation, {"QueueUrl": self._url, "Entries": part}, broker.SETTLE_S, opened))
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer

    async def _ask(
        self, operation: str, parameters: dict[str, Any], seconds: float = CALL_S, opened: _Open | None = None
    ) -> dict[str, Any]:
        client = (opened or self._opened()).client
        answer = await client.call(operation, parameters, asyncio.get_running_loop().time() + seconds)
        if isinstance(answer, aws_client.Refusal):
            raise _Refused(answer)
        return answer

    def _opened(self) -> _Open:
        if self._open is None:
            raise broker.BrokerError(codes.Code.CONNECTION_RESET, "the connection to SQS is closed")
        return self._open


class _Open:
    """What `prepare` opens and `close` ends."""

    def __init__(self, named: queues.SQS, session: sessions.Session | None, ask: polls.Ask) -> None:
        self.place = aws_client.Place(
            "sqs", named.region, named.endpoint, named.access_key_id, named.secret_access_key
        )
        self._known = operator.known_addresses()
        self._threads = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="outpost-sqs")
        own = aws_client.Own(self._known, self._threads, CALL_S)
        self.client = aws_client.Client(
            own, self.place, session=session, max_answer_bytes=MAX_ANSWER_BYTES, **aws_batch.CONFIG
        )
        self.polls = polls.Polls(ask, BATCH)

    async def close(self) -> None:
        await self.client.close()
        self._known.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _entry(body: bytes) -> aws_batch.Entry:
    text, attributes, size = sqs_text.written(body)
    value: dict[str, Any] = {"MessageBody": text}
    return aws_batch.Entry(value | ({"MessageAttributes": attributes} if attributes else {}), size)


def _received(message: Mapping[str, Any], now: float) -> broker.Received:
    told = aws_batch.texts(message)
    system = aws_batch.texts(message.get("Attributes"))
    attributes = message.get("MessageAttributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    text = told.get("Body", "")
    return broker.Received(
        body=sqs_text.read(text, attributes),
        receipt=_Receipt(told.get("ReceiptHandle", ""), now, text, attributes, system.get("MessageGroupId", "")),
        message_id=told.get("MessageId", ""),
        deliveries=_number(system.get("ApproximateReceiveCount")) or 0,
        attributes={name: value for name in attributes if (value := sqs_text.string_of(attributes[name]))},
    )


def _target(policy: str) -> tuple[str, str] | None:
    """Account and name of the queue that a redrive policy names."""
    try:
        arn = json.loads(policy).get("deadLetterTargetArn", "")
    except (ValueError, AttributeError):
        return None
    parts = str(arn).split(":")
    return (parts[4], parts[5]) if len(parts) == 6 else None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) < 16 else None


def _text(failed: delivery.Failed) -> str:
    return str((failed.response or {}).get("error", "")) or "SQS did not answer"
