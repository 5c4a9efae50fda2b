"""The scheduler is killed (design, section 10; issue A, must show 5)."""

import itertools
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from live_node import GIB, MIB, MakeNode, wait_until
from nvshare.bus.node_client import NodeError

pytestmark = [pytest.mark.heavy, pytest.mark.alone]

AWAY_SECONDS = 10


def answered(question: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the node answers; nothing while it does not."""
    try:
        return question()
    except NodeError:
        return {}


@pytest.mark.timeout(120)
def test_programs_run_on_within_their_headroom_and_nothing_is_lost_or_promised_twice(
    make_node: MakeNode, capfd: pytest.CaptureFixture[str]
) -> None:
    node = make_node("--emulate", "1", "--gpu-memory", "32GiB")
    grower, stopped, runner = node.puppet("grower"), node.puppet("stopped"), node.puppet("runner")
    stopped.do(f"alloc {6 * GIB}")
    runner.do(f"alloc {GIB}")
    grower.do(f"alloc {GIB}")
    headroom_bytes = wait_until(lambda: int(node.clients()["grower"].get("headroom_bytes", 0)), 5, "headroom")
    with node.without_service("scheduler"):
        os.kill(stopped.pid, signal.SIGSTOP)
        grower.start(f"pulse {64 * MIB} {AWAY_SECONDS + 2} 0.1")
        end = time.monotonic() + AWAY_SECONDS
        slowest_ns = 0
        while time.monotonic() < end:
            answer = runner.do("launch 1000000 10")
            slowest_ns = max(slowest_ns, answer["ended_ns"] - answer["started_ns"])
            runner.do("sync")
        assert slowest_ns < 100_000_000, "a running program noticed that the scheduler was away"
    returned_ns = grower.answer()["returned_ns"]
    gaps_ns = [later - earlier for earlier, later in itertools.pairwise(returned_ns)]
    within_headroom = headroom_bytes // (64 * MIB)
    assert max(gaps_ns[: within_headroom - 1]) < 500_000_000, "within its headroom nobody notices"
    assert max(gaps_ns) > 1_000_000_000, "beyond its headroom an allocation waits"
    assert "an allocation on GPU-" in (said := capfd.readouterr().err), "it says that it waits"
    assert "s for the scheduler's answer" in said
    wait_until(lambda: {"grower", "stopped", "runner"} <= set(answered(node.clients)), 5, "nobody is lost")
    gpu = node.gpu()
    promised = {name: int(client["promised_bytes"]) for name, client in node.clients().items()}
    assert promised["stopped"] >= 6 * GIB, "a stopped client's memory stays charged"
    assert sum(promised.values()) <= int(gpu["capacity_bytes"]), "nothing is promised twice"
    os.kill(stopped.pid, signal.SIGCONT)
    stopped.do("launch 1000")
    stopped.do("sync")


def test_e14_a_program_lives_on_when_the_scheduler_restarts(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    puppet = node.puppet("program")
    puppet.do(f"alloc {GIB}")
    puppet.do("fill 7")
    before = puppet.do("sum")["sum"]
    generation = int(node.gpu()["generation"])
    node.kill_service("scheduler")
    puppet.do("launch 1000000 5")
    wait_until(lambda: int(answered(node.gpu).get("generation", 0)) > generation, 5, "another life of the scheduler")
    wait_until(
        lambda: int(answered(node.clients).get("program", {}).get("footprint_bytes", 0)) >= GIB, 3, "its true state"
    )
    assert puppet.do("sum")["sum"] == before
