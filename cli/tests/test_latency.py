"""How long bursts take, and what the scenarios with bursts say of their runs."""

import time
from itertools import pairwise

import pytest

from nvshare.cli.bench.latency import UNDER_MPS, WITH, WITHOUT, Alone, burst_figures
from nvshare.cli.bench.rhythms import RHYTHMS, p99_us
from nvshare.cli.bench.steady import SETTLE_NS, Together
from nvshare.cli.bench.workload import Answer
from nvshare.cli.workloads.loop import Rhythm, measure
from nvshare.cli.workloads.training import training_step_kernels_ns


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


def test_a_program_with_gaps_computes_before_each_launch() -> None:
    launched_ns: list[int] = []
    rhythm = Rhythm(batch_iterations=20, gap_us=(20.0, 50.0))
    measure(lambda: launched_ns.append(time.monotonic_ns()), lambda: None, seconds=None, iterations=40, rhythm=rhythm)
    gaps_ns = [later - earlier for earlier, later in pairwise(launched_ns)]
    assert min(gaps_ns) >= 20_000


def test_the_bursts_with_gaps_wait_for_the_card_once_at_their_end() -> None:
    options = RHYTHMS["gaps"].program().options
    assert options[:4] == ("--batch-iterations", "300", "--burst-iterations", "300")
    assert options[-3:] == ("--gap-us", "20", "50")


def bursty(bursts_us: tuple[int, ...]) -> Answer:
    """Of a program with these bursts in the time that counts, after one of a second in each of the first three."""
    ended_ns = 2 * SETTLE_NS
    slow = (1_000_000,) * len(bursts_us)
    progress = ((0, 0), (ended_ns, 100))
    return Answer(6.0, 100, 100 / 6, 0, ended_ns, ended_ns, progress, "", True, slow + bursts_us)


def test_b12_the_bursts_and_what_they_leave_are_compared_with_each_program_alone() -> None:
    alone = Alone(p99_us=2_000, kernels_per_second=1000.0, busy_speed=40.0)
    both = Together((), (bursty((2_500,) * 10),), (200.0, 24.0))
    figures = burst_figures("long_light", alone, both, WITH)
    assert figures == pytest.approx(
        {
            "long_light_p99_ratio": 1.25,
            "long_light_added_ms": 0.5,
            # 24 of 40, where the bursts take a fifth of the card.
            "long_light_best_effort_kept_ratio": 0.75,
        }
    )
    assert burst_figures("light", alone, both, WITHOUT) == {"light_unmanaged_p99_ratio": 1.25}
    assert burst_figures("light", alone, both, UNDER_MPS) == pytest.approx(
        {"light_mps_p99_ratio": 1.25, "light_mps_best_effort_kept_ratio": 0.75}
    )


def test_a_training_step_is_short_and_long_kernels_that_take_its_time_together() -> None:
    kernels_ns = training_step_kernels_ns(45_000_000)
    assert sum(kernels_ns) == 45_000_000
    assert (min(kernels_ns), max(kernels_ns)) == (50_000, 3_000_000)
