"""`outpost receive`: a receiver for people who try Outpost out.

It prints every webhook that arrives, says whether its signature is right, and answers with the status, the delay
or the silence that it is told.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import sys
from typing import TextIO

from outpost import errors, terminal
from outpost.cli import receiver

DEFAULT_PORT = 9000
MAX_PRINTED_CHARACTERS = 2_000
MAX_DELAY_S = 3_600.0
SIGNATURE_HEADER = "x-outpost-signature"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.description = __doc__
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port of 127.0.0.1 (default %(default)s)")
    parser.add_argument("--secret", help="the destination's secret, with which signatures are verified")
    parser.add_argument("--status", type=_status, default=200, help="status of every answer (default %(default)s)")
    parser.add_argument("--delay", type=_delay, default=0.0, metavar="SECONDS", help="wait before every answer")
    parser.add_argument("--hang", action="store_true", help="never answer")


def run(args: argparse.Namespace) -> int:
    """Prints what arrives until Ctrl-C. Raises errors.StartRefused where the port is taken."""
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is the way to end it
        asyncio.run(_print_webhooks(args, sys.stdout))
    return 0


async def _print_webhooks(args: argparse.Namespace, out: TextIO) -> None:
    answer = receiver.Answer(args.status, args.delay, args.hang)
    try:
        async with receiver.listening(args.port, answer) as listening:
            print(f"Listening on {listening.url} (Ctrl-C stops it).", file=out, flush=True)
            while True:
                webhook = await listening.next(None)
                assert webhook is not None
                print(text_of(webhook, args.secret, answer), file=out, flush=True)
    except OSError as exc:
        sentence = f"port {args.port} cannot be used ({exc.strerror}); choose another with --port"
        raise errors.StartRefused(sentence) from exc


def text_of(webhook: receiver.Webhook, secret: str | None, answer: receiver.Answer) -> str:
    """What is printed of a webhook: a line with its topic, id, signature and answer, then its body."""
    headers = webhook.headers
    at = dt.datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
    about = " ".join(headers.get(f"x-outpost-{name}", f"(no {name})") for name in ("topic", "event-id"))
    answered = "not answered" if answer.hang else f"answered {answer.status}"
    line = f"{at} POST {webhook.target} {about}, {_signature(webhook, secret)}, {answered}"
    body = webhook.body.decode("utf-8", "replace")
    cut = "" if len(body) <= MAX_PRINTED_CHARACTERS else f" .. ({len(webhook.body):,} bytes)"
    return f"{terminal.printable(line)}\n    {terminal.printable(body[:MAX_PRINTED_CHARACTERS])}{cut}"


def _signature(webhook: receiver.Webhook, secret: str | None) -> str:
    if SIGNATURE_HEADER not in webhook.headers:
        return "not signed"
    if secret is None:
        return "signature not verified (use --secret)"
    return "signature verified" if receiver.is_signed(webhook, secret) else "SIGNATURE WRONG"


def _status(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 200 <= int(text) <= 599):
        raise argparse.ArgumentTypeError("must be a status from 200 to 599")
    return int(text)


def _delay(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_DELAY_S:
        raise argparse.ArgumentTypeError(f"must be a number of seconds from 0 to {MAX_DELAY_S:,.0f}")
    return seconds
