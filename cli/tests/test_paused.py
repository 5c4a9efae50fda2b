"""What the scenario of a paused program says of its runs."""

import pytest

from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.paused import driver_errors, paused_summary
from nvshare.cli.bench.runner import run_scenario
from nvshare.cli.bench.steady import Together
from nvshare.cli.bench.workload import Answer

MS = 1_000_000
SOLO_SPEED = 1000.0


def answer(progress: list[tuple[int, int]], finished_ns: int) -> Answer:
    """Of a program with these points of progress."""
    (started_ns, _), (ended_ns, done) = progress[0], progress[-1]
    return Answer(1.0, done, SOLO_SPEED, started_ns, ended_ns, finished_ns, tuple(progress), "", True)


def together(*, back_after_ms: int, tenths: int) -> Together:
    """A critical one until 1000 ms, with its results checked at 1100 ms; the other has a tenth of its speed until
    `back_after_ms` later, and from then on so many `tenths` of it."""
    back_ms = 1100 + back_after_ms
    points = [(time_ms * MS, time_ms // 10) for time_ms in range(0, back_ms + 1, 10)]
    points += [
        (time_ms * MS, back_ms // 10 + (time_ms - back_ms) * tenths // 10) for time_ms in range(back_ms + 10, 4000, 10)
    ]
    critical = answer([(0, 0), (1000 * MS, 900)], 1100 * MS)
    return Together((), (critical, answer(points, points[-1][0])), (900.0, 100.0))


def test_b12_a_paused_program_is_back_when_it_has_nine_tenths_of_its_solo_speed() -> None:
    summary = paused_summary(together(back_after_ms=200, tenths=10), SOLO_SPEED)
    assert summary["paused_share"] == pytest.approx(0.1)
    assert summary["back_seconds"] == pytest.approx(0.2, abs=0.03)
    assert summary["after_ratio"] == pytest.approx(1.0, abs=0.02)


def test_a_program_that_stays_slow_is_never_back() -> None:
    assert set(paused_summary(together(back_after_ms=200, tenths=8), SOLO_SPEED)) == {"paused_share"}


@pytest.mark.parametrize(
    "line",
    [
        "cuLaunchKernel failed: CUDA_ERROR_LAUNCH_TIMEOUT",
        "RuntimeError: CUDA error: an illegal memory access was encountered",
    ],
)
def test_errors_of_the_driver_are_found_among_what_a_program_says(line: str) -> None:
    assert driver_errors(f"nvshare[7] warning: lost the relay\n  {line}\n") == [line]
    assert driver_errors("nvshare[7] warning: lost the relay\n") == []


@pytest.mark.heavy
async def test_b12_a_paused_program_is_right_and_back_at_once() -> None:
    result = await run_scenario("paused", BenchOptions(emulated=True, seconds=2.0))
    _, critical, paused, after = result.rows
    assert (critical.status, paused.status) == ("ok", "ok")
    assert (paused.iterations_per_second or 0) < (critical.iterations_per_second or 0) / 2
    # A host that is busy all the time has no moment of full speed.
    assert after.status in ("ok", "never at its speed again")
    assert (after.status == "ok") == ("back_seconds" in result.summary)
