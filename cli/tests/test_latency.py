"""How long bursts take."""

import time

import pytest

from nvshare.cli.bench.latency import p99_us
from nvshare.cli.workloads.loop import Rhythm, measure


def test_all_but_one_of_a_hundred_bursts_are_done_within_the_p99() -> None:
    assert p99_us([*range(1, 100), 5000]) == 99


def test_a_single_slow_burst_of_a_few_counts() -> None:
    assert p99_us([2, 900, 3]) == 900


def test_without_bursts_there_is_no_p99() -> None:
    with pytest.raises(ValueError, match="no burst"):
        p99_us([])


def test_a_program_that_pauses_says_how_long_each_burst_took_without_the_pause() -> None:
    rhythm = Rhythm(batch_iterations=1, burst_iterations=2, pause_ms=50.0)
    measured = measure(lambda: time.sleep(0.001), lambda: None, seconds=None, iterations=6, rhythm=rhythm)
    assert len(measured.bursts_us) == 3
    assert all(burst_us >= 2000 for burst_us in measured.bursts_us)
    took_us = (measured.ended_ns - measured.started_ns) // 1000
    assert took_us - sum(measured.bursts_us) >= 2 * 50_000  # the two pauses between them


def test_a_program_without_pauses_has_no_bursts() -> None:
    assert measure(lambda: None, lambda: None, seconds=None, iterations=40).bursts_us == ()
