"""What the brokers of the queues say: whether they are there, and what lies on them."""

from __future__ import annotations

from outpost import errors
from outpost.cli import queue
from outpost.cli.doctor import findings as say
from outpost.cli.doctor.findings import Finding
from outpost.settings import Settings, queues

_ADVICE = "check the broker, the names and the login in the settings; `outpost queue status` shows what it says"

_ADVISED = "see docs/queues.md, What each service needs"


async def look(settings: Settings) -> list[Finding]:
    """The delivery queue and, where there is one, the publish queue."""
    found = [say.warn("queues", sentence, "leave one of them out") for sentence in queues.warnings(settings)]
    try:
        rows = await queue.status(settings)
    except errors.StartRefused as exc:
        return [*found, say.problem("queues", str(exc), "install it, or name another broker")]
    for row in rows:
        found += [say.problem("queues", f"{row.use}: {problem}", _ADVICE) for problem in row.problems]
        if row.problems:
            continue
        found.append(say.ok("queues", f"the {row.use} queue is {_described(row)}"))
        found += [say.warn("queues", f"{row.use}: {sentence}", _ADVISED) for sentence in row.advice]
        if row.dead_letters:
            found.append(
                say.warn(
                    "queues",
                    f"the {row.use} queue has {row.dead_letters:,} dead letters",
                    "their tasks came due by themselves; `outpost queue drain --dead-letters` empties it"
                    if row.use == "delivery"
                    else "read their reasons, and publish what was meant again",
                )
            )
        if row.consumers == 0:
            found.append(say.warn("queues", f"nobody consumes the {row.use} queue", "see whether Outpost runs"))
    return found


def _described(row: queue.Row) -> str:
    if row.broker == "in process":
        return row.broker
    waiting = "" if row.ready is None else f", {row.ready:,} messages wait"
    return f"on {row.broker} and answers{waiting}"
