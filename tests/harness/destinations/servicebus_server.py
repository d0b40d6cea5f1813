"""A stand-in for Azure Service Bus: queues in memory behind real AMQP 1.0, and a port that tells it what to be.

It speaks what a sender needs: CBS put-token with the signature checked, claims at the attach, a largest message by
link, batches, refusals. Run by the Python that has qpid-proton: `python3 servicebus_server.py PORT CONTROL_PORT`.
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
from typing import Any

from proton import Condition, Data, Delivery, Handler, Message, Terminus, int32
from proton.reactor import Container

CBS = "$cbs"
CREDIT = 300
DATA_SECTION = 0x75
SECTIONS = range(0x70, 0x79)  # the descriptors of a message's sections
UNAUTHORIZED = "amqp:unauthorized-access"
NO_CLAIM = "Unauthorized access. 'Send' claim(s) are required to perform this operation."


class Queue:
    """`fault` is the condition that every message is refused with, "" for none; `detach` if the link goes, too."""

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.fault = ""
        self.detach = False
        self.messages: list[dict[str, Any]] = []


class State:
    """What the control port sets and the AMQP side goes by."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}
        self.keys: dict[str, tuple[str, bool]] = {}  # name -> the key, and whether it may send


class Control(socketserver.StreamRequestHandler):
    """`{"do": what, ..}` in, one answer out: `queue` (name, largest) makes one, `key` (name, key, send) sets one,
    `fault` (queue, condition, detach) refuses from now on, `received` (queue) tells the messages."""

    state: State

    def handle(self) -> None:
        for line in self.rfile:
            asked = json.loads(line)
            answer = getattr(self, f"_{asked.pop('do')}")(**asked)
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    def _queue(self, name: str, largest: int) -> None:
        self.state.queues[name] = Queue(largest)

    def _key(self, name: str, key: str, send: bool = True) -> None:
        self.state.keys[name] = (key, send)

    def _fault(self, queue: str, condition: str, detach: bool = False) -> None:
        self.state.queues[queue].fault, self.state.queues[queue].detach = condition, detach

    def _received(self, queue: str) -> list[dict[str, Any]]:
        return self.state.queues[queue].messages


class ServiceBus(Handler):
    """The AMQP side. A connection is known by the container id of its peer, which the SDK makes anew for each."""

    def __init__(self, port: int, state: State) -> None:
        super().__init__()
        self._url = f"amqp://127.0.0.1:{port}"
        self._state = state
        self._may_send: dict[str, bool] = {}  # connections with a valid token
        self._answers: dict[str, Any] = {}  # where the answers of $cbs go

    def on_reactor_init(self, event: Any) -> None:
        event.container.listen(self._url)

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
            self._may_send.pop(event.connection.remote_container, None)
            self._answers.pop(event.connection.remote_container, None)

    def on_link_remote_close(self, event: Any) -> None:
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
        elif not self._may_send.get(peer):
            _refuse(link, UNAUTHORIZED, NO_CLAIM)
        elif _path(link) not in self._state.queues:
            _refuse(link, "amqp:not-found", f"The messaging entity '{_path(link)}' could not be found.")
        else:
            link.max_message_size = self._state.queues[_path(link)].largest
            link.open()
            link.flow(CREDIT)

    def on_delivery(self, event: Any) -> None:
        delivery, link = event.delivery, event.link
        if not link.is_receiver:  # the peer settles an answer of $cbs
            delivery.settle()
            return
        if delivery.partial or not delivery.readable:
            return
        raw = link.recv(delivery.pending)
        link.advance()
        if _path(link) == CBS:
            self._put_token(event.connection.remote_container, raw)
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
        if queue.fault:
            delivery.local.condition = Condition(queue.fault, "The request was refused.", {"tracking-id": "1"})
            delivery.update(Delivery.REJECTED)
            delivery.settle()
        else:
            queue.messages += [_told(one) for one in _unpacked(raw)]
        return True

    def _put_token(self, peer: str, raw: bytes) -> None:
        asked = Message()
        asked.decode(raw)
        token = asked.body if isinstance(asked.body, str) else bytes(asked.body).decode()
        fault, may_send = self._judged(token)
        self._may_send[peer] = may_send and not fault
        told = {"status-code": int32(401 if fault else 202), "status-description": fault or "Accepted"}
        link = self._answers[peer]
        answer = link.delivery(link.delivery_tag())
        link.send(Message(correlation_id=asked.id, properties=told).encode())
        link.advance()
        answer.settle()

    def _judged(self, token: str) -> tuple[str, bool]:
        """What is wrong with the token, and whether its key may send."""
        pairs = (pair.partition("=") for pair in token.partition(" ")[2].split("&"))
        fields = {name: value for name, _, value in pairs}  # `sr` is signed as it is spelt
        if not {"sr", "sig", "se", "skn"} <= fields.keys():
            return "MalformedToken: The token is malformed.", False
        key, may_send = self._state.keys.get(fields["skn"], ("", False))
        signed = f"{fields['sr']}\n{fields['se']}".encode()
        good = base64.b64encode(hmac.new(key.encode(), signed, hashlib.sha256).digest()).decode()
        if not key or not hmac.compare_digest(good, urllib.parse.unquote(fields["sig"])):
            return "InvalidSignature: The token has an invalid signature.", False
        return ("ExpiredToken: The token is expired." if int(fields["se"]) < time.time() else ""), may_send


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
        "content_type": message.content_type,
    }


def main(port: int, control_port: int) -> None:
    """Serves until it is killed."""
    Control.state = State()
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    control = socketserver.ThreadingTCPServer(("127.0.0.1", control_port), Control)
    threading.Thread(target=control.serve_forever, daemon=True).start()
    Container(ServiceBus(port, Control.state)).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
