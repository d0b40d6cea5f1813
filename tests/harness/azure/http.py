"""Entra ID and Azure's management, as far as a queue on Service Bus asks them, over plain HTTP."""

from __future__ import annotations

import http.server
import json
import secrets
import threading
import time
import urllib.parse
from typing import Any

from tests.harness.azure import topics

LOGIN = "/oauth2/v2.0/token"


class Handler(http.server.BaseHTTPRequestHandler):
    """`POST <directory>/oauth2/v2.0/token`, and GET and PUT of topics and subscriptions."""

    state: topics.State
    protocol_version = "HTTP/1.1"
    owners: dict[str, str] = {}  # token -> application

    def do_POST(self) -> None:
        form = dict(urllib.parse.parse_qsl(self._body().decode()))
        self.state.http.append(f"POST {self.path} {form.get('scope')}")
        name = form.get("client_id", "")
        if self.state.applications.get(name, None) != form.get("client_secret") or not self.path.endswith(LOGIN):
            description = "AADSTS7000215: Invalid client secret provided."
            self._answer(401, {"error": "invalid_client", "error_description": description})
            return
        token = secrets.token_urlsafe(32)
        self.state.tokens[token] = time.time() + self.state.token_s
        self.owners[token] = name
        self._answer(200, {"token_type": "Bearer", "expires_in": self.state.token_s, "access_token": token})

    def do_GET(self) -> None:
        if (path := self._resource()) is None:
            return
        if path not in self.state.resources:
            self._refuse(404, "ResourceNotFound", f"The Resource {path} was not found.")
        else:
            self._answer(200, {"properties": self.state.resources[path] | self._counts(path)})

    def do_PUT(self) -> None:
        asked = json.loads(self._body())["properties"]
        if (path := self._resource()) is None:
            return
        self.state.resources[path] = asked
        topic, _, subscription = path.partition("/topics/")[2].partition("/subscriptions/")
        settings = {"max_deliveries": asked["maxDeliveryCount"]} if subscription else {}
        self.state.make(topic, subscription, **settings)
        self._answer(200, {"properties": asked})

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def _resource(self) -> str | None:
        """The path of what is asked about; None where that was refused."""
        path = urllib.parse.urlsplit(self.path).path
        self.state.http.append(f"{self.command} {path}")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.state.tokens.get(token, 0.0) <= time.time():
            self._refuse(401, "InvalidAuthenticationToken", "The access token is invalid.")
        elif self.owners[token] not in self.state.managers:
            self._refuse(403, "AuthorizationFailed", "The client does not have authorization to perform action.")
        elif "/namespaces/nowhere/" in path:
            self._refuse(404, "ParentResourceNotFound", "The namespace was not found.")
        else:
            return path
        return None

    def _counts(self, path: str) -> dict[str, Any]:
        topic, _, subscription = path.partition("/topics/")[2].partition("/subscriptions/")
        if not subscription:
            return {}
        told = self.state.told(f"{topic}{topics.SUBSCRIPTIONS}{subscription}")
        counts = {
            "activeMessageCount": told["ready"] + told["locked"],
            "deadLetterMessageCount": len(told["dead"]),
        }
        return {"countDetails": counts}

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._answer(status, {"error": {"code": code, "message": message}})

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(port: int, state: topics.State) -> None:
    """In a thread, until the process ends."""
    Handler.state = state
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
