"""The report of the benchmarks."""

import runpy
from pathlib import Path
from typing import Any

report: Any = runpy.run_path(str(Path(__file__).parents[1] / "report.py"))["report"]
GOOD = {
    "scenario": "solo-small",
    "date": "2026-01-31T12:00:00+00:00",
    "hardware": "1 x card",
    "command": "nvshare bench solo-small",
    "rows": [{"status": "ok"}, {"status": "ok"}],
    "summary": {"solo_ratio": 0.99876},
}


def test_a_result_is_one_line_with_its_figures_and_its_command() -> None:
    (line,) = report([GOOD]).splitlines()[2:]
    assert line == "| solo-small | solo_ratio 0.9988 | 1 x card | 2026-01-31 | `nvshare bench solo-small` |"


def test_failed_runs_are_said() -> None:
    assert "**1 of 1 runs failed**" in report([GOOD | {"rows": [{"status": "wrong result"}]}])


def test_results_are_ordered_by_scenario_and_the_newest_comes_first() -> None:
    older = GOOD | {"date": "2025-12-31T00:00:00+00:00"}
    other = GOOD | {"scenario": "demo"}
    lines = report([older, GOOD, other]).splitlines()[2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == ["demo", "solo-small", "solo-small"]
    assert "2026-01-31" in lines[1]
