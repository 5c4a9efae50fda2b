"""Scenarios on an emulated card, short: that they measure and check, not how fast this host is."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.runner import run_scenario


def test_bench_writes_its_result_as_json_and_shows_a_table(nvshare: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    answer = nvshare("bench", "solo-small", "--emulate", "--seconds", "0.3", "--pairs", "1", "--json", str(file))
    assert answer.returncode == 0, answer.stderr
    assert "solo-small on 1 x NVIDIA Emulated GPU" in answer.stdout
    result = json.loads(file.read_text())
    assert result["scenario"] == "solo-small"
    assert result["command"].startswith("nvshare bench solo-small --emulate=1 --seconds 0.3")
    assert [row["status"] for row in result["rows"]] == ["ok", "ok"]
    without, managed = (row["iterations_per_second"] for row in result["rows"])
    assert result["summary"]["solo_ratio"] == pytest.approx(managed / without)
    assert result["rows"][1]["solo_ratio"] == result["summary"]["solo_ratio"]


async def test_each_sample_of_the_grant_latency_is_a_hand_over() -> None:
    result = await run_scenario("grant-latency", BenchOptions(emulated=True, clients=3, samples=30))
    assert result.ok
    assert len(result.rows) == 3
    assert result.summary["samples"] == 30
    assert result.summary["hand_overs"] >= 29
    assert 0 < result.summary["p50_ms"] <= result.summary["p99_ms"] <= result.summary["max_ms"]


async def test_launch_overhead_compares_the_same_launches_with_and_without() -> None:
    result = await run_scenario("launch-overhead", BenchOptions(emulated=True, seconds=0.5, cores=(90,)))
    assert result.summary["batches"] >= 10
    summary = result.summary
    assert summary["least_ns_per_launch"] <= summary["ns_per_launch"] <= summary["most_ns_per_launch"]
    per_launch_ns = {row.name: 1e9 / (row.iterations_per_second or 0) for row in result.rows}
    added_ns = [
        per_launch_ns[f"process {number}, through the library"] - per_launch_ns[f"process {number}, past it"]
        for number in range(1, 6)
    ]
    assert sorted(added_ns)[2] == pytest.approx(summary["ns_per_launch"])
    assert [row.name for row in result.rows].count("process 1 under 90 %, through the library") == 1
    assert summary["capped_ns_per_launch"] < 1000
    assert summary["capped_gate_wait_ms"] == 0, "the quota is never used up"


@pytest.mark.heavy
async def test_b1_b2_b9_quotas_hold_for_one_program_for_four_and_through_random_changes() -> None:
    result = await run_scenario("memory-quota", BenchOptions(emulated=True))
    assert result.ok, [row.status for row in result.rows]
    assert result.summary["quota_changes"] == 100
    assert result.summary["quota_seconds"] <= 1.0


@pytest.mark.heavy
async def test_a4_three_programs_that_fit_are_never_moved_whatever_their_demand() -> None:
    result = await run_scenario("trio-small-fit", BenchOptions(emulated=True, seconds=2.0))
    assert result.ok
    assert result.summary["swap_bytes"] == 0


@pytest.mark.heavy
async def test_a10_the_idle_trio_is_compared_with_one_alone_and_without_nvshare() -> None:
    result = await run_scenario("trio-idle", BenchOptions(emulated=True, seconds=0.6, pairs=1))
    assert result.ok
    assert len(result.rows) == 9
    assert 0 < result.summary["min_solo_ratio"] <= 1.1
    assert result.summary["swap_bytes"] == 0


@pytest.mark.heavy
async def test_b9_a_busy_program_follows_its_compute_quota_up_and_down() -> None:
    result = await run_scenario("quota-live", BenchOptions(emulated=True, seconds=4.0))
    assert result.ok
    under = {row.name.split(",")[0]: row.solo_ratio or 0 for row in result.rows if row.name.startswith("under")}
    assert 0 < under["under 30 %"] < under["under 60 %"] < under["under 90 %"]
    assert 0 <= result.summary["effect_seconds"] <= result.summary["settled_seconds"]


async def test_a5_two_large_programs_take_turns_and_both_have_the_checksum_that_they_have_alone() -> None:
    result = await run_scenario("pair-large-auto", BenchOptions(emulated=True, seconds=1.0, quantum=0.4))
    assert result.ok, [row.status for row in result.rows]
    assert [row.checksum_ok for row in result.rows if row.checksum_ok is not None] == [True, True]
    summary = result.summary
    assert summary["handovers"] >= 2
    assert summary["swap_bytes"] > 0
    assert summary["finish_spread"] >= 1
    assert summary["total_over_serial"] > 0.9


@pytest.mark.heavy
async def test_e1_the_survivor_is_at_full_speed_again() -> None:
    result = await run_scenario("survivor", BenchOptions(emulated=True, seconds=1.5, quantum=0.4))
    assert result.summary["away_bytes"] > 0
    assert result.summary["floor_seconds"] > 0
    alone, survivor = result.rows
    assert alone.status == "ok"
    # A host that is busy all the time has no moment of full speed.
    assert survivor.status in ("ok", "never at full speed again")
    if survivor.status == "ok":
        assert 0 < result.summary["survivor_ratio"] <= 1.2
        assert result.summary["recovery_seconds"] > 0


@pytest.mark.heavy
async def test_the_speed_of_a_switch_is_compared_with_a_copy_of_the_same_bytes() -> None:
    result = await run_scenario("swap-speed", BenchOptions(emulated=True, seconds=3.0, quantum=0.4))
    summary = result.summary
    for program, prefix in (("large", ""), ("blocks", "blocks_")):
        switches = [row for row in result.rows if row.name.startswith(f"{program}-")]
        assert switches, f"the {program} programs took no turns"
        over_floor = median(1 / row.solo_ratio for row in switches if row.solo_ratio)
        assert summary[f"{prefix}switch_over_floor"] == pytest.approx(over_floor)
        assert summary[f"{prefix}switch_seconds"] == pytest.approx(median(row.seconds for row in switches))
        assert summary[f"{prefix}first_over_later"] > 0
        assert summary[f"{prefix}loading_seconds"] > 0


async def test_the_same_work_in_serial_mode_gives_the_same_checksums() -> None:
    options = BenchOptions(emulated=True, seconds=0.3)
    result = await run_scenario("pair-large-serial", options)
    assert result.ok
    assert [row.checksum_ok for row in result.rows if row.name.endswith("shared")] == [True, True]
    assert result.summary["total_over_serial"] > 0.9
