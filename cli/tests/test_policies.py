"""Ways to share a card's time against each other: what is said of the runs that were made."""

import io

import pytest
from rich.console import Console

from nvshare.cli.bench.mixes import MIXES, Mix, ways
from nvshare.cli.bench.policies import mix_figures
from nvshare.cli.bench.policies_table import policies_table
from nvshare.cli.bench.result import Result, Row
from nvshare.cli.bench.steady import SETTLE_NS, Together
from nvshare.cli.bench.workload import SMALL, Answer, numbered

SECOND_NS = 1_000_000_000


def answer(per_second: int, bursts_us: tuple[int, ...] = ()) -> Answer:
    """Of a program that was ten times as fast while the plan for it was not in force yet."""
    settled = 10 * per_second * SETTLE_NS // SECOND_NS
    end_ns = SETTLE_NS + SECOND_NS
    progress = ((0, 0), (SETTLE_NS, settled), (end_ns, settled + per_second))
    return Answer(1.0, progress[-1][1], 0.0, 0, end_ns, end_ns, progress, "", True, bursts_us)


def together(*speeds: float, bursts_us: tuple[int, ...] = ()) -> Together:
    return Together((), (answer(1, bursts_us),) * len(speeds), speeds)


def test_the_speeds_of_a_mix_are_each_over_its_own_alone_without_the_first_seconds() -> None:
    mix = Mix("two", "two", tuple(numbered(SMALL, 2)))
    figures = mix_figures(mix, "slots", together(50.0, 150.0), [answer(100), answer(200)])
    assert figures == pytest.approx({"two_slots_sum_ratio": 1.25, "two_slots_least_ratio": 0.5})


def test_of_a_mix_with_bursts_their_p99_is_over_the_same_alone() -> None:
    mix = Mix("bursty", "bursts", tuple(numbered(SMALL, 2)), bursty=0)
    both, alone = together(1.0, 1.0, bursts_us=(3000,) * 100), answer(1, (2000,) * 100)
    assert mix_figures(mix, "stock", both, [alone, alone])["bursty_stock_p99_ratio"] == 1.5


def test_the_ways_begin_without_nvshare_and_end_with_its_own() -> None:
    assert ways(mps=False) == ("stock", "driver", "slices", "slots", "auto")
    assert ways(mps=True) == ("stock", "mps", "driver", "slices", "slots", "auto")


def test_no_two_programs_of_a_mix_have_one_name() -> None:
    assert all(len({program.name for program in mix.programs}) == len(mix.programs) for mix in MIXES)


def test_the_table_has_a_column_for_each_way_that_was_tried_and_says_what_failed() -> None:
    rows = (Row("busy long, slots", "0", "wrong result", 1.0), Row("busy long, auto", "0", "ok", 1.0))
    summary = {
        "long_stock_sum_ratio": 0.9,
        "long_slots_sum_ratio": 0.987,
        "long_slots_least_ratio": 0.45,
        "bursty_slots_p99_ratio": 1.1,
    }
    console = Console(file=io.StringIO(), width=160)
    console.print(policies_table(Result("policies", "", "1 x GPU", "", rows, summary)))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    head = next(line for line in text.splitlines() if "figure" in line)
    assert "stock" in head
    assert "slots" in head
    assert "mps" not in head
    assert [line for line in text.splitlines() if "0.900" in line and "0.987" in line]
    assert "busy long, slots: wrong result" in text
    assert "busy long, auto" not in text
