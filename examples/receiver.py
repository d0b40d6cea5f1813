"""A receiver of webhooks that verifies signatures. It needs only the standard library.

It reads SECRET (the destination's secret) and PORT. A request whose signature is wrong is answered 401.
"""

import hashlib
import hmac
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ.get("SECRET", "a-secret-for-the-example")
HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", "9000"))
MAX_BODY_BYTES = 1_048_576


def is_signed(body: bytes, header: str, secret: str) -> bool:
    """Tells whether one signature of the header is the HMAC-SHA256 of the body.

    The header is `v0=` and one signature in hexadecimal, or two with a comma between them while a secret is
    rotated.
    """
    scheme, _, signatures = header.partition("=")
    expected = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    matches = [hmac.compare_digest(one.strip().encode(), expected.encode()) for one in signatures.split(",")]
    return scheme == "v0" and any(matches)


class Handler(BaseHTTPRequestHandler):
    seen: set[str] = set()  # an event arrives at least once; a real receiver keeps the ids in its database

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        if length > MAX_BODY_BYTES:
            self.answer(413)
            return
        body = self.rfile.read(length)
        if not is_signed(body, self.headers.get("X-Outpost-Signature", ""), SECRET):
            self.answer(401)
            return
        event_id = self.headers["X-Outpost-Event-Id"]
        if event_id not in self.seen:
            self.seen.add(event_id)
            print(f"{self.headers['X-Outpost-Topic']} {event_id} {body.decode()}", flush=True)
        self.answer(200)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer((HOST, PORT), Handler)
    print(f"listening on http://{HOST}:{server.server_port}/", flush=True)
    server.serve_forever()
