"""A stand-in for Azure Service Bus: queues in memory behind real AMQP 1.0, and a port that tells it what to be.

It speaks what a sender needs: CBS put-token with the signature checked, claims at the attach, a largest message by
link, batches, refusals. `tests/harness/azure` adds what a receiver needs, Entra ID and management.
Run by the Python that has qpid-proton: `python3 servicebus_server.py PORT CONTROL_PORT HTTP_PORT`.
A control connection carries one JSON object a line, either way; see `Control`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socketserver
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

from proton import Condition, Data, Delivery, Handler, Message, Terminus, int32
from proton.reactor import Container

sys.path.insert(0, str(Path(__file__).parents[3]))  # it runs as a script

from tests.harness.azure import http, topics  # from there

CBS = "$cbs"
CREDIT = 300
LARGEST = 256 * 1024  # bytes of a message, of what management makes
DATA_SECTION = 0x75
SECTIONS = range(0x70, 0x79)  # the descriptors of a message's sections
UNAUTHORIZED = "amqp:unauthorized-access"
NO_SESSION = "The SessionId was not set on a message, and it cannot be sent to the entity."
NO_CLAIM = "Unauthorized access. 'Send' claim(s) are required to perform this operation."


class Queue:
    """`sessions`: whether it demands them.
    `fault` is the condition that every message is refused with, "" for none; `detach` if the link goes, too."""

    def __init__(self, largest: int, *, sessions: bool = False) -> None:
        self.largest = largest
        self.sessions = sessions
        self.fault = ""
        self.detach = False
        self.messages: list[dict[str, Any]] = []


class State(topics.State):
    """What the control port sets and the AMQP side goes by."""

    def __init__(self) -> None:
        super().__init__()
        self.queues: dict[str, Queue] = {}
        self.keys: dict[str, tuple[str, bool, bool]] = {}  # name -> the key, whether it may send and listen


class Control(socketserver.StreamRequestHandler):
    """`{"do": what, ..}` in, one answer out: `queue` (name, largest, sessions) makes one, `key` (name, key, send)
    sets one, `fault` (queue, condition, detach) refuses from now on, `received` (queue) tells the messages,
    `topics` (call, ..) calls what `topics.State` has."""

    state: State

    def handle(self) -> None:
        for line in self.rfile:
            asked = json.loads(line)
            answer = getattr(self, f"_{asked.pop('do')}")(**asked)
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    def _queue(self, name: str, largest: int, sessions: bool = False) -> None:
        self.state.queues[name] = Queue(largest, sessions=sessions)

    def _key(self, name: str, key: str, send: bool = True, listen: bool = True) -> None:
        self.state.keys[name] = (key, send, listen)

    def _fault(self, queue: str, condition: str, detach: bool = False) -> None:
        self.state.queues[queue].fault, self.state.queues[queue].detach = condition, detach

    def _topics(self, call: str, **arguments: Any) -> Any:
        return getattr(self.state, call)(**arguments)

    def _received(self, queue: str) -> list[dict[str, Any]]:
        return self.state.queues[queue].messages


class ServiceBus(Handler):
    """The AMQP side. A connection is known by the container id of its peer, which the SDK makes anew for each."""

    def __init__(self, port: int, state: State) -> None:
        super().__init__()
        self._url = f"amqp://127.0.0.1:{port}"
        self._state = state
        self._claims: dict[str, tuple[bool, bool, float]] = {}  # by connection: may send, may listen, until
        self._answers: dict[str, Any] = {}  # where the answers of $cbs go

        self._receivers = topics.Receivers(state)

    def on_reactor_init(self, event: Any) -> None:
        event.container.listen(self._url)
        event.reactor.schedule(topics.TICK_S, self)

    def on_timer_task(self, event: Any) -> None:
        now = time.time()
        ended = {peer for peer, (_, _, until) in self._claims.items() if until <= now}
        self._receivers.tick(ended)
        event.reactor.schedule(topics.TICK_S, self)

    def on_link_flow(self, event: Any) -> None:
        if event.link.is_sender:
            self._receivers.pump()

    def on_connection_remote_open(self, event: Any) -> None:
        event.connection.container = "servicebus-stand-in"
        event.connection.open()

    def on_session_remote_open(self, event: Any) -> None:
        event.session.open()

    def on_session_remote_close(self, event: Any) -> None:
        event.session.close()

    def on_connection_remote_close(self, event: Any) -> None:
        event.connection.close()

    def on_transport_closed(self, event: Any) -> None:
        if event.connection is not None:
            self._claims.pop(event.connection.remote_container, None)
            self._receivers.forget(event.connection.remote_container)
            self._answers.pop(event.connection.remote_container, None)

    def on_link_remote_close(self, event: Any) -> None:
        self._receivers.closed(event.link)
        event.link.close()

    on_link_remote_detach = on_link_remote_close

    def on_link_remote_open(self, event: Any) -> None:
        link, peer = event.link, event.connection.remote_container
        link.source.copy(link.remote_source)
        link.target.copy(link.remote_target)
        link.snd_settle_mode = link.remote_snd_settle_mode
        if _path(link) == CBS:
            link.open()
            if link.is_receiver:
                link.flow(CREDIT)
            else:
                self._answers[peer] = link
            return
        may_send, may_listen, until = self._claims.get(peer, (False, False, 0.0))
        if until <= time.time():
            _refuse(link, UNAUTHORIZED, NO_CLAIM)
        elif (path := _path(link)).endswith(topics.MANAGEMENT) or link.is_sender:
            if not may_listen:
                _refuse(link, UNAUTHORIZED, NO_CLAIM.replace("Send", "Listen"))
            elif refusal := self._receivers.opened(link, path, peer):
                _refuse(link, *refusal)
        elif not may_send:
            _refuse(link, UNAUTHORIZED, NO_CLAIM)
        elif path not in self._state.queues:
            _refuse(link, "amqp:not-found", f"The messaging entity '{path}' could not be found.")
        else:
            link.max_message_size = self._state.queues[path].largest
            link.open()
            link.flow(CREDIT)

    def on_delivery(self, event: Any) -> None:
        delivery, link = event.delivery, event.link
        if not link.is_receiver:  # the peer settles an answer of $cbs, or a message
            self._receivers.settled(link, delivery)
            delivery.settle()
            return
        if delivery.partial or not delivery.readable:
            return
        raw = link.recv(delivery.pending)
        link.advance()
        if _path(link) == CBS:
            self._put_token(event.connection.remote_container, raw)
        elif _path(link).endswith(topics.MANAGEMENT):
            self._receivers.asked(link, event.connection.remote_container, raw)
        elif not self._take(delivery, link, raw):
            return
        if not delivery.settled:
            delivery.update(delivery.local_state or Delivery.ACCEPTED)
            delivery.settle()
        link.flow(1)

    def _take(self, delivery: Any, link: Any, raw: bytes) -> bool:
        """False where the link is gone with it."""
        queue = self._state.queues[_path(link)]
        too_large = "amqp:link:message-size-exceeded" if len(raw) > queue.largest else ""
        if too_large or (queue.fault and queue.detach):  # the delivery is left as it is
            link.condition = Condition(too_large or queue.fault, "The link is closed.")
            link.close()
            return False
        unpacked = _unpacked(raw)
        told = [_told(one) for one in unpacked]
        fault, text = queue.fault, "The request was refused."
        if queue.sessions and not fault:
            sessions = {one["session"] for one in told}
            fault = "amqp:not-allowed" if None in sessions or len(sessions) > 1 else ""
            text = NO_SESSION if None in sessions else "A batch has messages of one session."
        if fault:
            delivery.local.condition = Condition(fault, text, {"tracking-id": "1"})
            delivery.update(Delivery.REJECTED)
            delivery.settle()
        else:
            queue.messages += told
            self._state.put_raw(_path(link), unpacked)
            self._receivers.pump()
        return True

    def _put_token(self, peer: str, raw: bytes) -> None:
        asked = Message()
        asked.decode(raw)
        token = asked.body if isinstance(asked.body, str) else bytes(asked.body).decode()
        if not token.startswith("SharedAccessSignature "):  # the library calls both `jwt`
            until = self._state.tokens.get(token, 0.0)
            fault, claims = (
                ("" if until > time.time() else "InvalidToken: The token is invalid."),
                (True, True, until),
            )
        else:
            fault, claims = self._judged(token)
        self._claims[peer] = (False, False, 0.0) if fault else claims
        told = {"status-code": int32(401 if fault else 202), "status-description": fault or "Accepted"}
        link = self._answers[peer]
        answer = link.delivery(link.delivery_tag())
        link.send(Message(correlation_id=asked.id, properties=told).encode())
        link.advance()
        answer.settle()

    def _judged(self, token: str) -> tuple[str, tuple[bool, bool, float]]:
        """What is wrong with the token, what its key may do, and its end."""
        pairs = (pair.partition("=") for pair in token.partition(" ")[2].split("&"))
        fields = {name: value for name, _, value in pairs}  # `sr` is signed as it is spelt
        nothing = (False, False, 0.0)
        if not {"sr", "sig", "se", "skn"} <= fields.keys():
            return "MalformedToken: The token is malformed.", nothing
        key, may_send, may_listen = self._state.keys.get(fields["skn"], ("", False, False))
        signed = f"{fields['sr']}\n{fields['se']}".encode()
        good = base64.b64encode(hmac.new(key.encode(), signed, hashlib.sha256).digest()).decode()
        if not key or not hmac.compare_digest(good, urllib.parse.unquote(fields["sig"])):
            return "InvalidSignature: The token has an invalid signature.", nothing
        end = int(fields["se"])
        return ("ExpiredToken: The token is expired." if end < time.time() else ""), (may_send, may_listen, end)


def _path(link: Any) -> str:
    """The entity that a link is about, without the address of the service in front of it."""
    address = (link.remote_source if link.is_sender else link.remote_target).address or ""
    return str(address.partition("://")[2].partition("/")[2] if "://" in address else address)


def _refuse(link: Any, condition: str, description: str) -> None:
    """As the service does: an attach that leads nowhere, and the detach with the reason."""
    (link.target if link.is_receiver else link.source).type = Terminus.UNSPECIFIED
    link.open()
    link.condition = Condition(condition, description)
    link.close()


def _unpacked(raw: bytes) -> list[bytes]:
    """The messages of a batch, which are the data sections of the one that carries them; or the one itself."""
    found: list[bytes] = []
    rest = raw
    while rest:
        section = Data()
        size = section.decode(rest)
        section.rewind()
        section.next()
        described = section.get_py_described()
        rest = rest[size:]
        if int(described.descriptor) != DATA_SECTION:
            continue
        inner = bytes(described.value)
        if inner[:2] != b"\0S" or inner[2] not in SECTIONS:
            return [raw]
        found.append(inner)
    return found or [raw]


def _told(raw: bytes) -> dict[str, Any]:
    message = Message()
    message.decode(raw)
    return {
        "body": base64.b64encode(bytes(message.body)).decode(),
        "metadata": message.properties or {},
        "id": message.id,
        "session": message.group_id,
        "content_type": message.content_type,
    }


def main(port: int, control_port: int, http_port: int) -> None:
    """Serves until it is killed."""
    Control.state = State()
    Control.state.new_queue = lambda name: Queue(LARGEST)
    http.serve(http_port, Control.state)
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    control = socketserver.ThreadingTCPServer(("127.0.0.1", control_port), Control)
    threading.Thread(target=control.serve_forever, daemon=True).start()
    Container(ServiceBus(port, Control.state)).run()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
