"""Boot checks: a server that could lose the log, or a log of another format, refuses the start in sentences.

`check` is the whole; it writes nothing to a server that it refuses. What a log was made with stands in its `meta`
hash, made once by the first process that starts on it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import redis.exceptions

from outpost import errors, ids
from outpost.log import marks
from outpost.log import partition as partitions
from outpost.log.redis import client, shapes
from outpost.settings import Settings

FORMAT_VERSION = 1  # of keys and entries
READ_MODEL_VERSION = 1  # of the config read model: `projections/config/apply`
MARKS_VERSION = 1  # of the dedupe marks: each partition notes the widths of their buckets
OLDEST_SERVER = (7, 0)

# What each field of `meta` has to be; `namespace_id` is random and only has to stay as it is.
MADE_WITH = {
    "partitions": str(partitions.PARTITIONS),
    "format_version": str(FORMAT_VERSION),
    "read_model_version": str(READ_MODEL_VERSION),
    "marks": str(MARKS_VERSION),
}
_ADVICE = {
    "partitions": "use the version of Outpost that made it, or another DEPLOYMENT_ID",
    "format_version": "use the version of Outpost that made it, or another DEPLOYMENT_ID",
    "marks": "use the version of Outpost that made it",
    "read_model_version": "use the version of Outpost that made it, or rebuild the read model with this one",
}
_DURABILITY = (
    "or set REDIS_DURABILITY=always-by-provider if the provider keeps every acknowledged write, "
    "or REDIS_DURABILITY=accept-loss if losing some is acceptable"
)


class Meta(msgspec.Struct, frozen=True):
    """What a log was made with. `namespace_id` names it: another one is another log, whatever its keys are."""

    namespace_id: str


async def check(log: client.Log, settings: Settings) -> Meta:
    """Refuses what cannot carry the log, and marks a new log as made by this version. From then on `log` refuses
    every other one.

    Raises errors.StartRefused with every sentence, one a line, and errors.StoreUnavailable.
    """
    found = await problems(log, settings)
    if found:
        raise errors.StartRefused("\n".join(found))
    made = await log.command("HMGET", log.keys.meta, "partitions", "marks")
    if made[0] is not None and made[1] is None:  # a version made it that did not note the widths of its buckets
        await marks.adopt(log)
    meta = await prepare(log)
    log.pin.expected = meta.namespace_id
    return meta


async def problems(log: client.Log, settings: Settings) -> list[str]:
    """Why this server, or the log on it, does not fit; writes nothing. Raises errors.StoreUnavailable."""
    info: dict[str, Any] = await log.command("INFO")
    if info.get("cluster_enabled") == 1 or info.get("redis_mode") == "cluster":
        return [f"Redis cannot be used: {client.CLUSTER}."]
    found = [*_server_problems(info)]
    if settings.redis_durability == "always":
        found += _durability_problems(info, await _fsync_policy(log))
    reply = await log.command("HGETALL", log.keys.meta)
    return found + _meta_problems(log, {name.decode(): value.decode() for name, value in reply.items()})


async def prepare(log: client.Log) -> Meta:
    """Makes `meta` where it is missing, atomically and once. Raises errors.StartRefused if it was made by another
    version, and errors.StoreUnavailable."""
    fields = MADE_WITH | {"namespace_id": ids.new_id("uuidv4")}
    made_with = [("HSETNX", log.keys.meta, name, value) for name, value in fields.items()]
    *_, done = await log.pipeline([("MULTI",), *made_with, ("HGETALL", log.keys.meta), ("EXEC",)])
    meta = {name.decode(): value.decode() for name, value in shapes.pairs(done[-1]).items()}
    found = _meta_problems(log, meta)
    if found:
        raise errors.StartRefused("\n".join(found))
    return Meta(meta["namespace_id"])


def _server_problems(info: dict[str, Any]) -> list[str]:
    found = []
    version = str(info.get("redis_version", "0"))
    if _numbers(version) < OLDEST_SERVER:
        found.append(f"Redis is of version {version}: use 7.0 or newer, or Valkey.")
    if info.get("role") != "master":
        found.append("Redis is a replica: point REDIS_HOST at the primary.")
    policy = info.get("maxmemory_policy")
    if policy != "noeviction":
        found.append(
            f"Redis evicts keys when its memory is used up (maxmemory-policy is {policy}), and with them parts of "
            "the log: set maxmemory-policy to noeviction."
        )
    return found


def _numbers(version: str) -> tuple[int, int]:
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    return int(major) if major.isdigit() else 0, int(minor) if minor.isdigit() else 0


def _durability_problems(info: dict[str, Any], fsync: str | None) -> list[str]:
    if info.get("aof_enabled") != 1:
        return [f"Redis writes no append-only file (appendonly is no): set appendonly to yes, {_DURABILITY}."]
    if fsync is None:
        return [f"Redis does not tell its appendfsync (CONFIG is denied): allow CONFIG GET, {_DURABILITY}."]
    if fsync != "always":
        early = f"Redis acknowledges writes before they are on the disk (appendfsync is {fsync})"
        return [f"{early}: set appendfsync to always, {_DURABILITY}."]
    return []


async def _fsync_policy(log: client.Log) -> str | None:
    """None where the server does not say; managed ones deny CONFIG."""
    policy = (await config(log, "appendfsync") or {}).get("appendfsync")
    return None if policy is None else str(policy)


async def config(log: client.Log, *names: str) -> dict[str, str] | None:
    """These settings of Redis; None where it denies `CONFIG`. Raises errors.StoreUnavailable."""
    [reply] = await log.pipeline_each([("CONFIG", "GET", *names)])
    if isinstance(reply, redis.exceptions.ResponseError):  # NOPERM, or an unknown command
        return None
    if isinstance(reply, Exception):
        with client.mapped_errors():
            raise reply
    found: dict[str, str] = reply
    return found


def _meta_problems(log: client.Log, meta: dict[str, str]) -> list[str]:
    made = f"The log {log.keys.namespace!r} was made with"
    return [
        f"{made} {name.replace('_', ' ')} {meta[name]}, this version has {wanted}: {_ADVICE[name]}."
        for name, wanted in MADE_WITH.items()
        if meta.get(name, wanted) != wanted
    ]
