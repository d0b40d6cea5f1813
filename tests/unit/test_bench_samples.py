"""The arithmetic of the bench: percentiles, schedules, arrivals, rates."""

from array import array

from outpost.cli.bench import samples, wire


def phase_of(tmp_path, *, sent, answered, status, closed=False, interval_ns=10, start_ns=1_000, first=0):
    path = tmp_path / "sent"
    path.write_bytes(array("q", sent).tobytes() + array("q", answered).tobytes() + array("h", status).tobytes())
    phase = wire.Phase(
        first=first, count=len(sent), interval_ns=interval_ns, seconds=1, closed=closed, limit_s=1, path=str(path)
    )
    answer = wire.Sent(start_ns=start_ns, issued=len(sent), scheduled=len(sent), blocked=0, resent=0)
    return samples.PhaseSamples(phase, answer)


def arrivals_of(tmp_path, times, fan_out=1):
    path = tmp_path / "arrivals"
    path.write_bytes(array("q", times).tobytes())
    return samples.Arrivals(path, fan_out)


def test_percentiles_are_values_that_were_measured():
    values = [n * 1_000_000 for n in range(1, 1_001)]
    assert samples.Percentiles(p50=500, p90=900, p99=990, p999=999, max=1_000) == samples.Percentiles.of(values)


def test_percentiles_of_one_value_are_that_value():
    assert samples.Percentiles(p50=7, p90=7, p99=7, p999=7, max=7) == samples.Percentiles.of([7_000_000])


def test_percentiles_of_nothing_are_zero():
    assert samples.Percentiles() == samples.Percentiles.of([])


def test_latency_counts_from_the_due_time_and_not_from_a_late_send(tmp_path):
    phase = phase_of(tmp_path, sent=[1_000, 5_000], answered=[1_001, 5_001], status=[202, 202])
    assert [100, 5_090] == arrivals_of(tmp_path, [1_100, 6_100]).latencies_ns(phase)


def test_latency_in_closed_loop_counts_from_the_send(tmp_path):
    phase = phase_of(tmp_path, sent=[1_000, 5_000], answered=[1_001, 5_001], status=[202, 202], closed=True)
    assert [100, 1_100] == arrivals_of(tmp_path, [1_100, 6_100]).latencies_ns(phase)


def test_latency_is_of_accepted_events_that_arrived(tmp_path):
    phase = phase_of(tmp_path, sent=[1_000, 1_010, 1_020], answered=[1, 1, 1], status=[202, 503, 202])
    assert [5] == arrivals_of(tmp_path, [1_005, 1_015, 0]).latencies_ns(phase)


def test_a_fan_out_has_one_latency_for_each_destination(tmp_path):
    phase = phase_of(tmp_path, sent=[1_000, 1_010], answered=[1, 1], status=[202, 202])
    assert [1, 2, 3, 4] == arrivals_of(tmp_path, [1_001, 1_002, 1_013, 1_014], fan_out=2).latencies_ns(phase)


def test_lateness_is_the_send_against_the_schedule(tmp_path):
    phase = phase_of(tmp_path, sent=[1_000, 1_030], answered=[1, 1], status=[202, 202])
    assert [0, 20] == phase.lateness_ns()


def test_the_last_arrival_of_a_phase_leaves_out_other_phases(tmp_path):
    phase = phase_of(tmp_path, sent=[1_000, 1_010], answered=[1, 1], status=[202, 202], first=1)
    assert 1_500 == arrivals_of(tmp_path, [9_000, 1_500, 1_400, 9_900]).last_ns(phase)


def test_an_event_beyond_the_last_arrival_has_none(tmp_path):
    assert [0, 0] == arrivals_of(tmp_path, [1, 2], fan_out=2).of(5)
