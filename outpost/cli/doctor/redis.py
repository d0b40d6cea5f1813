"""The doctor on Redis: whether it can carry the log, keeps it, and has room for it."""

from __future__ import annotations

import time
from typing import Any

from outpost.cli.doctor import findings as say
from outpost.cli.doctor.findings import Finding
from outpost.log import append, budget
from outpost.log.redis import boot_checks, client, guard, shapes
from outpost.log.upkeep import usage
from outpost.settings import Settings

CLOCK_MS = 1_000
NEAR_LIMIT = 0.75  # of the memory that the log may take
_NTP = "synchronise the clocks (NTP): leases and retries go by that of Redis"


async def look(log: client.Log, settings: Settings) -> list[Finding]:
    """Raises errors.StoreUnavailable."""
    info: dict[str, Any] = await log.command("INFO")
    refusals = await boot_checks.problems(log, settings)
    found = [say.problem("redis", text.rstrip("."), "no process of ours starts on it") for text in refusals]
    if not refusals:
        found.append(_fits(info, settings))
    found += await _disk(log, info)
    found += await _memory(log, settings)
    before = time.time()
    now_ms = shapes.clock_ms(await log.command("TIME"))
    found.append(clock_of("Redis", now_ms, before, time.time()))
    if not await log.command("EXISTS", log.keys.meta):
        text = f"no process has started on the log {log.keys.namespace!r} yet"
        found.append(say.warn("log", text, "start one, or check REDIS_DATABASE and DEPLOYMENT_ID"))
    return found


def clock_of(store: str, now_ms: int, before_s: float, after_s: float) -> Finding:
    """A store's clock, asked between two moments of ours (Unix seconds)."""
    ahead_ms = now_ms - (before_s + after_s) * 500
    unsure_ms = (after_s - before_s) * 500
    if abs(ahead_ms) - unsure_ms <= CLOCK_MS:
        return say.ok("clock", f"{store} has the time of this machine, within {CLOCK_MS / 1000:.0f} s")
    where = "ahead of" if ahead_ms > 0 else "behind"
    text = f"the clock of {store} is {say.seconds(abs(ahead_ms))} {where} this machine's"
    return say.warn("clock", text, _NTP)


def _fits(info: dict[str, Any], settings: Settings) -> Finding:
    name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    version = info.get("valkey_version") or info.get("redis_version")
    if settings.redis_durability == "accept-loss":
        return say.warn(
            "redis",
            f"{name} {version}; REDIS_DURABILITY is accept-loss, so acknowledged events may be lost",
            "set appendonly yes and appendfsync always, and take REDIS_DURABILITY away",
        )
    kept = "as its provider does" if settings.redis_durability == "always-by-provider" else "before it answers"
    return say.ok("redis", f"{name} {version}, a primary, keeps every write {kept}, evicts nothing")


async def _disk(log: client.Log, info: dict[str, Any]) -> list[Finding]:
    if await guard.cannot_write(log, info):
        text = "Redis refuses writes since it cannot write to its disk"
        return [say.problem("redis", text, "make room on its disk; it goes on by itself, with nothing lost")]
    statuses = {
        "rdb_last_bgsave_status": "its last snapshot",
        "aof_last_bgrewrite_status": "the last rewrite of its append-only file",
    }
    failed = [what for name, what in statuses.items() if info.get(name, "ok") != "ok"]
    return [
        say.warn("redis", f"{what} failed", "see its log: most often the disk is full, or memory cannot be forked")
        for what in failed
    ]


async def _memory(log: client.Log, settings: Settings) -> list[Finding]:
    window = append.Window(settings.publish_idempotency_ttl_ms)
    used = await usage.measure(log, window, await usage.tenants(log))
    log_bytes, limit = sum(used.partitions), settings.redis_memory_budget_bytes
    found = []
    if not used.maxmemory:
        advice = "set maxmemory to about 60 % of the machine, so that publishing is refused before Redis is killed"
        found.append(say.warn("memory", "Redis has no maxmemory", advice))
    elif limit > used.maxmemory * budget.OF_MAXMEMORY:
        text = f"REDIS_MEMORY_BUDGET_BYTES is more than 80 % of maxmemory ({_mib(used.maxmemory)})"
        found.append(say.warn("memory", text, "lower it, or raise maxmemory: the 80 % are reached first"))
    judged = budget.judge(used, limit)
    bounds = [(log_bytes, limit), (used.server, int(used.maxmemory * budget.OF_MAXMEMORY))]
    filled = max((is_used / most for is_used, most in bounds if most), default=0.0)
    text = f"the log takes about {_mib(log_bytes)}, Redis {_mib(used.server)}" + (
        f", {filled:.0%} of what it may" if filled else ""
    )
    advice = "raise maxmemory, or shorten PUBLISH_IDEMPOTENCY_KEY_TTL or STREAM_RETENTION_SECONDS"
    if judged.refused:
        text = f"publishing is refused in {judged.refused.bit_count()} of 16 partitions: {text}"
        return [*found, say.problem("memory", text, advice)]
    return [*found, say.warn("memory", text, advice) if filled > NEAR_LIMIT else say.ok("memory", text)]


def _mib(count: int) -> str:
    return f"{count / 1_048_576:.1f} MiB"
