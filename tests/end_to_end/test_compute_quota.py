"""B9, B11: what an allocation may have of a GPU's time, given when a program starts and changed while it runs."""

from functools import partial
from typing import Any

from live_node import MakeNode, Node, wait_until


def described(node: Node) -> dict[str, Any]:
    """The allocation of the only program, as the scheduler knows it."""
    (allocation,) = node.status()["allocations"]
    fields = ("memory_limit_bytes", "core_limit_percent", "weight", "priority", "core_burst")
    return {field: allocation[field] for field in fields}


def is_described(node: Node, expected: dict[str, Any]) -> bool:
    return described(node) == expected


GIVEN = {
    "memory_limit_bytes": 2**30,
    "core_limit_percent": 30,
    "weight": 400,
    "priority": "best_effort",
    "core_burst": True,
}
OPTIONS = ["--memory", "1GiB", "--cores", "30", "--weight", "400", "--priority", "best-effort", "--burst"]


def test_b9_quotas_change_one_by_one_while_the_program_runs(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    puppet = node.puppet("program", options=OPTIONS)
    puppet.do("launch 1000")
    wait_until(partial(is_described, node, GIVEN), 2, "what the program was started with")
    changes: list[tuple[list[str], dict[str, Any], str]] = [
        (["--cores", "60"], {"core_limit_percent": 60}, "cores 60 % (was 30 %)"),
        (["--no-burst"], {"core_burst": False}, "burst off (was on)"),
        (["--priority", "latency-critical"], {"priority": "latency_critical"}, "priority latency-critical (was best"),
        (["--weight", "100", "--memory", "none"], {"weight": 100, "memory_limit_bytes": 0}, "weight 100 (was 400)"),
        (["--cores", "none"], {"core_limit_percent": 0}, "cores none (was 60 %)"),
    ]
    expected = dict(GIVEN)
    for options, change, words in changes:
        done = node.nvshare("quota", "set", "program", *options)
        assert done.returncode == 0, done.stderr
        assert words in done.stdout
        expected |= change
        wait_until(partial(is_described, node, dict(expected)), 1, f"{options} in force")
    puppet.do("launch 1000")
    events = (node.directory / "logs" / "scheduler.log").read_text()
    assert "core quota of program is now 60 % (was 30 %)" in events


def test_b11_a_bad_share_is_refused_with_one_line_and_the_last_one_stays(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    node.puppet("program", options=OPTIONS).do("launch 1000")
    wait_until(partial(is_described, node, GIVEN), 2, "what the program was started with")
    for option, bad in (("--cores", "0"), ("--cores", "-1"), ("--weight", "5000"), ("--priority", "abc")):
        done = node.nvshare("quota", "set", "program", option, bad)
        assert done.returncode != 0
        assert len(done.stderr.strip().splitlines()) == 1
    assert described(node) == GIVEN
