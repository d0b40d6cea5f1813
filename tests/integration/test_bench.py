"""`outpost bench` against a tiny compatible server over real sockets and processes: what it reports of a server
that behaves, and that it fails, with a sentence, on each way in which a server can lose, double or hide an event.
"""

import argparse
import importlib.util
import json
import os

import httpx
import pytest

from outpost.cli import bench
from tests.harness import fake_outpost
from tests.harness.fake_outpost import Faults

pytestmark = pytest.mark.integration

SHORT = "--rate 100 --warmup 0.2 --seconds 0.6 --connections 8 --drain 10"
EVENTS = 80  # 20 of warm-up, 60 measured


def run(fake, tmp_path, *words, key=fake_outpost.KEY):
    """The exit code and the JSON of a short open-loop bench."""
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    path = tmp_path / "result.json"
    fixed = ["--url", fake.url, "--key", key, "--json", str(path)]
    code = bench.run(parser.parse_args([*fixed, *SHORT.split(), *words]))
    return code, json.loads(path.read_text()) if path.exists() else None


def problems_under(faults, tmp_path, *words):
    with fake_outpost.running(faults) as fake:
        code, result = run(fake, tmp_path, *words)
    assert 1 == code
    return result["problems"]


def test_a_server_that_behaves_passes_every_check(tmp_path, capsys):
    with fake_outpost.running() as fake:
        code, result = run(fake, tmp_path)
    assert [0, []] == [code, result["problems"]]
    counts = result["counts"]
    names = ("scheduled", "sent", "accepted", "delivered", "logged_events", "logged_deliveries")
    assert dict.fromkeys(names, EVENTS) == {name: counts[name] for name in names}
    assert 60 == result["events"]
    assert 0 < result["publish_to_receiver_ms"]["p50"] <= result["publish_to_receiver_ms"]["max"]
    assert {"bench generator", "bench receiver"} == {one["name"] for one in result["processes"]}
    shown = capsys.readouterr().out
    assert "every check held" in shown
    assert fake_outpost.KEY not in shown


def test_many_tenants_and_a_fan_out_are_checked_pair_by_pair(tmp_path):
    with fake_outpost.running() as fake:
        code, result = run(fake, tmp_path, "--tenants", "3", "--fan-out", "4")
    assert [0, []] == [code, result["problems"]]
    assert 4 * EVENTS == result["counts"]["delivered"] == result["counts"]["logged_deliveries"]


def test_publishes_have_unique_ids_the_configured_topic_and_the_asked_size(tmp_path):
    with fake_outpost.running(topics=["order.made", "order.paid"]) as fake:
        run(fake, tmp_path, "--payload-bytes", "700")
    events = [json.loads(body) for body in fake.bodies]
    assert EVENTS == len({event["id"] for event in events})
    assert {"order.made"} == {event["topic"] for event in events}
    assert {700} == {len(body) for body in fake.bodies}


def test_the_closed_loop_sends_as_fast_as_it_is_answered(tmp_path):
    with fake_outpost.running() as fake:
        code, result = run(fake, tmp_path, "--max", "--seconds", "0.5")
    assert [0, []] == [code, result["problems"]]
    assert result["events"] > EVENTS
    assert ["closed", None] == [result["load"]["mode"], result["load"]["rate"]]


def test_json_on_stdout_stands_alone(tmp_path, capsys):
    with fake_outpost.running() as fake:
        code, _ = run(fake, tmp_path, "--json", "-")
    assert [0, 0] == [code, len(json.loads(capsys.readouterr().out)["problems"])]


def test_the_tenants_of_the_run_are_deleted_unless_kept(tmp_path):
    with fake_outpost.running() as fake:
        run(fake, tmp_path, "--tenants", "2")
        assert [{}, 2] == [fake.tenants, len(fake.deleted)]
        run(fake, tmp_path, "--keep")
        assert 1 == len(fake.tenants)


def test_the_server_that_is_named_is_measured(tmp_path):
    with fake_outpost.running() as fake:
        _, result = run(fake, tmp_path, "--pid", f"fake={os.getpid()}")
    assert "fake" in {one["name"] for one in result["processes"]}
    assert result["target_cpu_us_per_event"] > 0


def test_a_server_that_stalls_cannot_hide_the_events_that_it_made_wait(tmp_path):
    with fake_outpost.running(Faults(answer_delay_s=0.03)) as fake:
        code, result = run(fake, tmp_path, "--connections", "1")
    assert [0, []] == [code, result["problems"]]
    # The last of 60 events is due after 590 ms and sent after 59 x 30 ms at the earliest.
    assert result["lateness"]["worst_ms"] > 1_000
    assert result["lateness"]["no_connection_free"] > 50
    assert result["publish_to_receiver_ms"]["max"] > 1_000


def test_a_log_that_lags_is_waited_for_and_counted(tmp_path):
    with fake_outpost.running(Faults(log_delay_s=1.0)) as fake:
        code, result = run(fake, tmp_path)
    assert [0, []] == [code, result["problems"]]
    assert result["rates"]["end_to_end"] < 60 / 1.6


def test_a_retried_delivery_is_no_fault(tmp_path):
    with fake_outpost.running(Faults(fail_first_attempt_every=10)) as fake:
        code, result = run(fake, tmp_path)
    assert [0, []] == [code, result["problems"]]
    assert 8 == result["counts"]["failed_attempts"]


def test_refused_publishes_are_counted_apart(tmp_path):
    with fake_outpost.running(Faults(refuse_every=10)) as fake:
        code, result = run(fake, tmp_path)
    assert [0, []] == [code, result["problems"]]
    assert [8, 72, 72] == [result["counts"][name] for name in ("refused", "accepted", "delivered")]


def test_a_connection_that_is_closed_without_an_answer_costs_one_more_try(tmp_path):
    with fake_outpost.running(Faults(hang_up_every=10)) as fake:
        code, result = run(fake, tmp_path)
    assert [0, []] == [code, result["problems"]]
    assert result["counts"]["resent"] >= 8
    assert EVENTS == result["counts"]["accepted"]


def test_black_holes_are_fed_counted_and_removed_and_the_load_is_measured_alone_and_beside(tmp_path):
    with fake_outpost.running() as fake:
        code, result = run(fake, tmp_path, "--black-holes", "22", "--black-hole-events", "1")
        assert {} == fake.tenants
    assert [0, []] == [code, result["problems"]]
    assert EVENTS + 60 == result["counts"]["delivered"]  # with the lone run
    found = result["black_holes"]
    assert [22, 1] == [found["destinations"], found["events_each"]]
    assert 2 == found["most_sockets"] == found["sockets"]  # this server delivers an event's one after another
    assert 0 < found["alone_ms"]["p50"]
    assert 0 < found["p99_ratio"]


def test_lost_deliveries_fail(tmp_path):
    (problem,) = problems_under(Faults(lose_every=40), tmp_path, "--drain", "1")
    assert problem.startswith("2 accepted events did not reach every destination (first: bench-")


def test_one_destination_of_a_fan_out_that_is_left_out_fails(tmp_path):
    problems = problems_under(Faults(misroute_every=EVENTS), tmp_path, "--tenants", "2", "--drain", "1")
    assert "1 accepted events did not reach every destination" in problems[0]
    assert "1 deliveries reached a destination of another tenant" == problems[1]


def test_a_server_that_delivers_nothing_is_asked_about_its_address_guard(tmp_path):
    problems = problems_under(Faults(lose_every=1), tmp_path, "--drain", "0.5")
    assert "DESTINATIONS_ALLOWED_CIDRS" in problems[0]


def test_doubled_deliveries_fail(tmp_path):
    (problem,) = problems_under(Faults(double_every=40), tmp_path)
    assert problem.startswith("2 deliveries came more than once: bench-")


def test_doubled_deliveries_may_be_allowed_and_are_still_counted(tmp_path):
    with fake_outpost.running(Faults(double_every=40)) as fake:
        code, result = run(fake, tmp_path, "--allow-duplicates")
    assert [0, 2] == [code, result["counts"]["doubled"]]


def test_events_that_the_log_does_not_list_fail(tmp_path):
    (problem,) = problems_under(Faults(unlogged_every=40), tmp_path, "--drain", "1")
    assert problem.startswith("2 accepted events are not listed by GET /events")


def test_attempts_that_the_log_does_not_list_fail(tmp_path):
    (problem,) = problems_under(Faults(unrecorded_every=40), tmp_path, "--drain", "1")
    assert problem.startswith("2 accepted events lack a successful attempt in GET /attempts")


def test_attempts_that_the_log_lists_twice_fail(tmp_path):
    assert ["2 attempts are listed more than once"] == problems_under(Faults(twice_recorded_every=40), tmp_path)


def test_a_refused_event_that_is_stored_all_the_same_fails(tmp_path):
    (problem,) = problems_under(Faults(ghost_every=40), tmp_path)
    assert problem.startswith("2 refused events were delivered or logged all the same")


def test_publishes_that_are_turned_down_fail(tmp_path):
    assert ["2 publishes were answered 422"] == problems_under(Faults(reject_every=40), tmp_path)


def test_a_wrong_key_ends_the_bench_before_it_starts(tmp_path, capsys):
    with fake_outpost.running() as fake:
        assert (2, None) == run(fake, tmp_path, key="wrong-key")
    told = capsys.readouterr().err
    assert "GET /topics answered 401" in told
    assert "wrong-key" not in told


def test_a_server_that_is_not_there_ends_the_bench_before_it_starts(tmp_path, capsys):
    with fake_outpost.running() as fake:
        pass
    assert (2, None) == run(fake, tmp_path)
    assert "no answer (ConnectError)" in capsys.readouterr().err


def test_a_process_that_is_not_there_ends_the_bench_before_it_starts(tmp_path, capsys):
    with fake_outpost.running() as fake:
        assert (2, None) == run(fake, tmp_path, "--pid", "server=4194305")
    assert "--pid server=4194305: there is no such process" in capsys.readouterr().err


SERVE = importlib.util.find_spec("outpost.cli.serve")


@pytest.mark.skipif(SERVE is None, reason="`outpost serve` is not built yet")
def test_a_server_of_its_own_is_started_measured_and_stopped(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    path = tmp_path / "result.json"
    code = bench.run(parser.parse_args(["--json", str(path), *SHORT.split()]))
    assert 0 == code, capsys.readouterr().err
    result = json.loads(path.read_text())
    assert {"server", "valkey", "postgres"} <= {one["name"] for one in result["processes"]}
    with pytest.raises(httpx.ConnectError):
        httpx.get(result["url"] + "/healthz", trust_env=False)
