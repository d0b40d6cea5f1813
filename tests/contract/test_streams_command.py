"""`outpost streams`: what an operator sees of the log, and what is kept from sight."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from outpost.cli import streams
from outpost.domain import events
from outpost.domain import tenant as tenants
from outpost.log import append, envelope, read
from outpost.log import partition as partitions
from outpost.log import position as positions
from outpost.log.delivery import tasks
from outpost.log.operator import inspect, skip
from outpost.log.redis import client
from outpost.settings import Settings
from tests.contract import worlds
from tests.harness.servers import RedisServer, eventually

P = worlds.P
SECRET = "s1.c2VjcmV0LXNlY3JldA"
Command = Callable[..., Any]


def _arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    streams.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def command(any_redis: RedisServer, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `outpost streams` with these words; returns exit code, output and errors."""
    settings = Settings(redis_host=any_redis.host, redis_port=any_redis.port)

    async def run(*words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(streams.run_with, _arguments(*words), settings)
        return code, *capsys.readouterr()

    return run


async def _change(log: client.Log, by: str = "admin/req_9") -> str:
    """A destination with secrets, in `cfg`; returns its position."""
    destination = msgspec.structs.replace(worlds.destination(), credentials=SECRET, delivery_metadata=SECRET)
    change = tenants.Change("destination.created", 1, "d", destination)
    fields = envelope.encode_change(events.ConfigChanged(worlds.TENANT, by, change))
    item = append.Item(worlds.TENANT, f"acme\0\0{by}", by, fields)
    [answer] = (await append.append(log, "cfg", {P: [item]}, worlds.window()))[P]
    assert isinstance(answer, append.Appended)
    return str(answer.position)


async def _broken(log: client.Log, *fields: str | bytes) -> str:
    entry_id = await log.command("XADD", log.keys.partitions[P].cfg, "*", *fields)
    return f"cfg.{P:02}.{entry_id.decode()}"


async def test_list_tells_every_stream_and_the_sum(log: client.Log, command: Command) -> None:
    await worlds.publish(log, "e1")
    await worlds.publish(log, "e2")
    position = await _change(log)
    code, out, _ = await command("list")
    rows = [line.split() for line in out.splitlines()]
    assert (0, ["stream", "length", "added", "memory", "first", "last"]) == (code, rows[0])
    assert {f"cfg.{P:02}": ["1", "1"], f"evt.{P:02}": ["2", "2"], "total": ["3", "3"]} == {
        row[0]: row[1:3] for row in rows[1:]
    }
    assert position in rows[1]
    _, out, _ = await command("list", "--json")
    assert [1, 2] == [msgspec.json.decode(line)["length"] for line in out.splitlines()]


async def test_an_empty_log_is_no_error(command: Command) -> None:
    assert 0 == (await command("list"))[0]
    assert (0, "") == (await command("tail", "--no-follow"))[:2]
    code, out, _ = await command("groups")
    assert (0, partitions.PARTITIONS) == (code, out.count("missing"))


async def test_tail_shows_entries_of_all_streams_by_time_without_secrets_or_payloads(
    log: client.Log, command: Command
) -> None:
    await _change(log)
    await worlds.publish(log, "e1", events.Matched("d", 1))
    await worlds.make_due(log, a1=1)
    await worlds.record(log, "1/5-0/d@1", succeeded=True)
    for form in ([], ["--json"]):
        code, out, _ = await command("tail", "--no-follow", *form)
        types = ["destination.created", "event.accepted", "attempt.succeeded"]
        assert (0, True) == (code, all(t in line for t, line in zip(types, out.splitlines(), strict=True)))
        assert (False, True) == (SECRET in out, "s1.***" in out)
        assert '{"a":1}' not in out.replace("\\", "")
        assert "data_bytes" in out


async def test_a_payload_is_shown_on_demand_byte_for_byte(log: client.Log, command: Command) -> None:
    await worlds.append_items(log, worlds.item(data=b'{ "a": [1.50],\n "b": "s1.x" }'))
    _, out, _ = await command("tail", "--no-follow", "--payload", "--json")
    assert '{ "a": [1.50],\n "b": "s1.x" }' == msgspec.json.decode(out)["data"]


async def test_tail_filters_by_stream_tenant_and_type(log: client.Log, command: Command) -> None:
    other = next(f"t{n}" for n in range(1000) if partitions.partition_of(f"t{n}") == P)
    await _change(log)
    await worlds.publish(log, "e1")
    await worlds.publish(log, "e2", tenant=other)

    async def ids(*words: str) -> list[str]:
        _, out, _ = await command("tail", "--no-follow", "--json", *words)
        return [msgspec.json.decode(line)["id"] for line in out.splitlines()]

    assert ["d", "e1", "e2"] == await ids()
    assert ["e1", "e2"] == await ids("--stream", "evt")
    assert ["d"] == await ids("--stream", "dlv", "--stream", "cfg")
    assert ["e2"] == await ids("--tenant", other)
    assert ["d", "e1"] == await ids("--tenant", "acme")
    assert ["e1", "e2"] == await ids("--type", "event.accepted")
    assert ["d"] == await ids("--limit", "1")


async def test_tail_begins_at_a_position_in_every_stream(log: client.Log, command: Command) -> None:
    ids = [await worlds.publish(log, f"e{n}") for n in range(4)]
    _, out, _ = await command("tail", "--no-follow", "--from", f"evt.{P:02}.{ids[2]}", "--json")
    assert ["e2", "e3"] == [msgspec.json.decode(line)["id"] for line in out.splitlines()]
    _, out, _ = await command("tail", "--no-follow", "--from", "now")
    assert "" == out


async def test_a_long_history_is_merged_by_time_over_streams_of_different_length(
    log: client.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "TAIL_COUNT", 3)
    places: list[inspect.Place] = [("evt", 0), ("evt", 1), ("dlv", 0)]
    for n in range(60):
        stream, p = places[0 if n % 7 else n % 3]
        await log.command("XADD", log.keys.partitions[p].stream(stream), f"{1_000 + n // 2}-{n}", "n", n)
    found = [i async for i in inspect.tail(log, dict.fromkeys(places, "0-0"), follow=False)]
    assert [str(n).encode() for n in range(60)] == [item.fields[b"n"] for item in found]


async def test_a_followed_tail_shows_what_comes_and_ends_at_its_limit(log: client.Log, command: Command) -> None:
    await worlds.publish(log, "before")
    running = asyncio.create_task(command("tail", "--limit", "2", "--json"))

    async def waits() -> bool:
        return bool((await log.command("INFO", "clients"))["blocked_clients"])

    await eventually(waits)
    await worlds.publish(log, "e1")
    await worlds.publish(log, "e2")
    code, out, _ = await asyncio.wait_for(running, 60)
    assert (0, ["e1", "e2"]) == (code, [msgspec.json.decode(line)["id"] for line in out.splitlines()])


async def test_ctrl_c_ends_a_tail_without_a_word(any_redis: RedisServer, log: client.Log) -> None:
    environ = {**os.environ, "REDIS_HOST": any_redis.host, "REDIS_PORT": str(any_redis.port)}
    script = (
        "import argparse, os; from outpost.cli import streams; from outpost.settings import Settings;"
        "p = argparse.ArgumentParser(); streams.add_arguments(p);"
        "raise SystemExit(streams.run_with(p.parse_args(['tail']),"
        " Settings(redis_host=os.environ['REDIS_HOST'], redis_port=int(os.environ['REDIS_PORT']))))"
    )
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=environ, stdout=pipe, stderr=pipe
    )

    async def waits() -> bool:
        return bool((await log.command("INFO", "clients"))["blocked_clients"])

    try:
        await eventually(waits)
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:  # a process that is left behind makes a later test fail
            process.kill()
            await process.communicate()
    assert (0, b"", b"") == (process.returncode, out, err)


async def test_show_tells_everything_of_one_entry_and_opens_nothing(log: client.Log, command: Command) -> None:
    position = await _change(log)
    code, out, _ = await command("show", position)
    assert 0 == code
    assert all(part in out for part in (position, "destination.created", "admin/req_9", '"webhook"', "s1.***"))
    assert SECRET not in out
    code, out, _ = await command("show", position, "--json")
    shown = msgspec.json.decode(out)
    assert ("s1.***", "s1.***") == (shown["state"]["credentials"], shown["state"]["delivery_metadata"])


async def test_show_of_an_attempt_leaves_the_receivers_answer_out_unless_asked(
    log: client.Log, command: Command
) -> None:
    await worlds.make_due(log, a1=1)
    detail = msgspec.structs.replace(worlds.DETAIL, response_data=msgspec.Raw(b'{"body":"private"}'))
    recording = tasks.Recording("1/5-0/d@1", "acme", "e1", False, None, envelope.encode_detail(detail))
    [position] = (await tasks.record(log, {P: [recording]}, "w"))[P]
    _, out, _ = await command("show", str(position))
    assert (False, True) == ("private" in out, "response_data_bytes" in out)
    _, out, _ = await command("show", str(position), "--payload")
    assert "private" in out


async def test_show_of_nothing_says_so(command: Command) -> None:
    code, out, err = await command("show", "evt.03.5-0")
    assert (1, "", "There is no entry at evt.03.5-0.\n") == (code, out, err)


async def test_an_entry_that_does_not_decode_is_told_with_its_problem_and_tamely(
    log: client.Log, command: Command
) -> None:
    evil = b"\x1b[2J\xff" + SECRET.encode()
    position = await _broken(log, "t", "tenant.created", "v", "1", "ten", evil, "d", b"private " + SECRET.encode())
    for words in (["show", position], ["tail", "--no-follow"], ["tail", "--no-follow", "--json"]):
        code, out, _ = await command(*words)
        assert 0 == code
        assert "by" in out
        assert "is missing" in out
        assert not [part for part in ("\x1b", SECRET, "private") if part in out]


async def test_groups_tell_lag_pending_due_and_who_is_there(log: client.Log, command: Command) -> None:
    await worlds.regroup(log)
    for n in range(3):
        await worlds.publish(log, f"e{n}")
    await read.as_group(log, "d0", 1, block_ms=0)
    await worlds.make_due(log, a1=1, a2=worlds.NOW * 2)
    code, out, _ = await command("groups")
    row = next(line.split() for line in out.splitlines() if line.startswith(f"{P:02}"))
    assert (0, ["ok", "2", "1", "2", "1"]) == (code, row[1:6])
    assert "d0: 1 pending" in out
    _, out, _ = await command("groups", "--json")
    told = [msgspec.json.decode(line, type=inspect.GroupState) for line in out.splitlines()]
    assert [*range(16)] == [group.partition for group in told]
    assert (2, 1, 2, 1, 0) == (told[P].lag, told[P].pending, told[P].due, told[P].due_now, told[P].next_in_ms)


async def test_groups_show_a_partition_that_is_being_mended(log: client.Log, command: Command) -> None:
    await worlds.regroup(log)
    await log.command("SET", log.keys.partitions[P].mend, "0-0")
    _, out, _ = await command("groups")
    assert [f"{P:02}"] == [line.split()[0] for line in out.splitlines() if "mending" in line]


async def test_skip_says_what_it_would_do_and_does_it_only_when_told(log: client.Log, command: Command) -> None:
    position = await _broken(log, "t", "tenant.created", "v", "9")
    code, out, _ = await command("skip", position)
    assert (0, 1) == (code, await log.command("XLEN", log.keys.partitions[P].cfg))
    assert "field 'v' is not a version that is known here" in out
    code, out, _ = await command("skip", position, "--write")
    [_, skipped] = await read.between(log, "cfg", P)
    entry = envelope.decode("cfg", str(skipped.position), skipped.fields)
    assert isinstance(entry, events.EntrySkipped)
    assert (0, position, "operator/req_") == (code, entry.position, entry.by[:13])
    assert str(skipped.position) in out
    code, _, err = await command("skip", position, "--write")
    assert (1, True) == (code, "skipped already" in err)
    assert 2 == await log.command("XLEN", log.keys.partitions[P].cfg)


async def test_of_two_operators_at_once_one_skips(log: client.Log) -> None:
    position = positions.parse(await _broken(log, "t", "x"))
    assert position is not None
    verdicts = await asyncio.gather(*(skip.skip(log, position, write=True) for _ in range(5)))
    assert ["refused"] * 4 + ["skipped"] == sorted(verdict.outcome for verdict in verdicts)


async def test_only_broken_entries_of_cfg_can_be_skipped(log: client.Log, command: Command) -> None:
    fine = await _change(log)
    entry_id = await worlds.publish(log, "e1")
    for position, words in (
        (fine, "decodes"),
        (f"evt.{P:02}.{entry_id}", "only entries of cfg"),
        (f"cfg.{P:02}.5-5", "no entry"),
    ):
        code, _, err = await command("skip", position, "--write")
        assert (1, True) == (code, words in err)
    assert 1 == await log.command("XLEN", log.keys.partitions[P].cfg)


@pytest.mark.parametrize(
    "words",
    [
        ["show", "evt.16.5-0"],
        ["show", "nonsense"],
        ["tail", "--from", "yesterday"],
        ["tail", "--limit", "0"],
        ["tail", "--stream", "log"],
        ["skip"],
        [],
    ],
)
def test_words_that_mean_nothing_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _arguments(*words)
    assert 2 == caught.value.code
    capsys.readouterr()
