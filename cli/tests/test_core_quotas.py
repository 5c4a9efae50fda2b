"""What the scenarios of compute quotas say of the runs that they made."""

from dataclasses import replace

from nvshare.cli.bench.core_quotas import KindFound, quota_summary
from nvshare.cli.bench.steady import SETTLE_NS, Together
from nvshare.cli.bench.workload import Answer

MS = 1_000_000
SECOND_NS = 1000 * MS
SOLO_SPEED = 1000.0


def answer(progress: tuple[tuple[int, int], ...]) -> Answer:
    """Of a program with these points of progress."""
    return Answer(
        1.0, progress[-1][1], SOLO_SPEED, progress[0][0], progress[-1][0], progress[-1][0], progress, "", True
    )


def found(kind: str, caps: tuple[int, ...], ratios: tuple[float, ...], wait_ms: int) -> KindFound:
    """Programs that had these parts of the solo speed, and in each second that counts one wait of `wait_ms`."""
    points = [(0, 0), (SETTLE_NS, 0)]
    for _ in range(2):
        time_ns, done = points[-1]
        points += [(time_ns + wait_ms * MS, done), (time_ns + SECOND_NS, done + 1000 - wait_ms)]
    run = answer(tuple(points))
    speeds = tuple(ratio * SOLO_SPEED for ratio in ratios)
    return KindFound(kind, (run, run), ((caps, Together((), (run,) * len(caps), speeds)),))


def test_the_summary_has_the_worst_of_all_kinds_of_work_and_the_figures_of_each() -> None:
    plain, graphs = found("plain", (30,), (0.305,), 70), found("graphs", (30,), (0.28,), 60)
    summary = {name: round(figure, 6) for name, figure in quota_summary([plain, graphs]).items()}
    assert summary == {
        "max_quota_error_points": 2.0,
        "max_slot_wait_ms": 70.0,
        "plain_max_quota_error_points": 0.5,
        "plain_max_slot_wait_ms": 70.0,
        "plain_30_ratio_1": 0.305,
        "graphs_max_quota_error_points": 2.0,
        "graphs_max_slot_wait_ms": 60.0,
        "graphs_30_ratio_1": 0.28,
    }


def test_under_mps_the_same_caps_have_figures_of_their_own() -> None:
    plain = found("plain", (30, 60), (0.3, 0.6), 70)
    beside = replace(plain, under_mps=found("plain", (30, 60), (0.2, 0.55), 70).capped)
    more = {
        name: round(figure, 6) for name, figure in quota_summary([beside]).items() if name not in quota_summary([plain])
    }
    assert more == {
        "mps_max_quota_error_points": 10.0,
        "mps_plain_max_quota_error_points": 10.0,
        "mps_plain_30_60_ratio_1": 0.2,
        "mps_plain_30_60_ratio_2": 0.55,
    }
    assert quota_summary([beside])["max_quota_error_points"] == 0


def test_b6_b7_the_sum_is_that_of_the_caps_which_leave_nothing_idle() -> None:
    idle, whole = found("plain", (30, 60), (0.3, 0.6), 70), found("plain", (80, 80), (0.49, 0.5), 70)
    assert quota_summary([idle, whole])["sum_ratio"] == 0.99
    assert "sum_ratio" not in quota_summary([idle])
