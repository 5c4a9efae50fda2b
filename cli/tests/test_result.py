"""A benchmark's result: its JSON and its table."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from nvshare.cli.bench.demo import demo_status, overlap_seconds
from nvshare.cli.bench.grant_latency import percentile
from nvshare.cli.bench.result import Result, Row, result_document
from nvshare.cli.bench.table import result_table, spread
from nvshare.cli.bench.watch import Observation
from nvshare.cli.bench.workload import Answer

FAST = Row("small with 1", "0 (abcd)", "ok", seconds=2.0, iterations_per_second=100.0, solo_ratio=0.99)
SLOW = Row("small with 2", "0 (abcd)", "ok", seconds=4.0, iterations_per_second=50.0)


def result_of(rows: Sequence[Row]) -> Result:
    return Result(
        "solo-small", "2026-01-31T12:00:00+00:00", "1 card", "nvshare bench x", tuple(rows), {"solo_ratio": 0.99}
    )


def shown(result: Result) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(result_table(result))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_json_has_the_agreed_members() -> None:
    document = json.loads(json.dumps(result_document(result_of([FAST, SLOW]))))
    assert list(document) == ["scenario", "date", "hardware", "command", "rows", "summary"]
    assert document["rows"] == [
        {
            "name": "small with 1",
            "gpu": "0 (abcd)",
            "status": "ok",
            "seconds": 2.0,
            "iterations_per_second": 100.0,
            "solo_ratio": 0.99,
        },
        {
            "name": "small with 2",
            "gpu": "0 (abcd)",
            "status": "ok",
            "seconds": 4.0,
            "iterations_per_second": 50.0,
            "solo_ratio": None,
        },
    ]
    assert document["summary"] == {"solo_ratio": 0.99}


def test_d4_the_table_shows_each_run_and_least_most_and_mean() -> None:
    text = shown(result_of([FAST, SLOW]))
    for words in ("name", "GPU", "status", "seconds", "it/s", "small with 1", "0.9900", "solo_ratio: 0.99"):
        assert words in text
    assert spread([FAST, SLOW]) == [("min", 2.0, 50.0), ("max", 4.0, 100.0), ("avg", 3.0, 75.0)]


def test_the_table_of_a_shared_run_shows_hand_overs_waits_and_checksums() -> None:
    row = replace(FAST, hand_overs=7, waited_seconds=1.25, checksum="00ff", checksum_ok=True)
    text = shown(result_of([row, replace(row, checksum_ok=False)]))
    for words in ("hand-overs", "7", "1.25", "00ff equal", "00ff DIFFERS"):
        assert words in text


def test_names_are_shown_as_they_are_written() -> None:
    assert "[bold]x" in shown(result_of([replace(FAST, name="[bold]x")]))


def test_a_result_with_a_failed_run_is_not_ok() -> None:
    assert result_of([FAST, SLOW]).ok
    assert not result_of([FAST, replace(SLOW, status="wrong result")]).ok


def test_percentiles_are_samples_by_nearest_rank() -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert percentile(samples, 50) == 50.0
    assert percentile(samples, 99) == 99.0
    assert percentile([3.0], 50) == 3.0


def answer_between(started_seconds: float, ended_seconds: float) -> Answer:
    return Answer(
        seconds=ended_seconds - started_seconds,
        iterations=1,
        iterations_per_second=1.0,
        started_ns=round(started_seconds * 1e9),
        ended_ns=round(ended_seconds * 1e9),
        finished_ns=round(ended_seconds * 1e9),
        progress=(),
        checksum="00",
        correct=True,
    )


def test_the_demo_demands_turns_only_of_programs_that_ran_beside_another() -> None:
    first, second, third = answer_between(0, 5), answer_between(1, 6), answer_between(6, 8)
    assert overlap_seconds(first, [second, third]) == 4.0
    assert overlap_seconds(third, [first, second]) == 0.0
    once = Observation(hand_overs=1)
    assert demo_status(first, True, 4.0, once) == "did not take turns"
    assert demo_status(third, True, 0.0, once) == "ok"
    assert demo_status(third, False, 0.0, once) == "wrong result"
