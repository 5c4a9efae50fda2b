"""B5-B9: the compute quota of an allocation, measured by how long the same work takes."""

import pytest

from live_node import MakeNode, Node, Puppet, wait_until

pytestmark = pytest.mark.alone

MS = 1_000_000


def run_for(puppet: Puppet, work_ms: int, kernel_ms: int = 1) -> None:
    """Start so much work, to the end of which the answer waits."""
    puppet.start(f"launch {kernel_ms * MS} {work_ms // kernel_ms}")
    puppet.start("sync")


def speed(puppet: Puppet, work_ms: int) -> float:
    """How fast the work was that `run_for` started: 1 is all of the card."""
    launched, synchronised = puppet.answer(), puppet.answer()
    assert launched["error"] is None
    assert synchronised["error"] is None
    took_ns: int = synchronised["ended_ns"] - launched["started_ns"]
    return work_ms * MS / took_ns


def solo_speed(node: Node) -> float:
    """Of a program without a quota, on this machine as busy as it is now."""
    puppet = node.puppet("solo")
    run_for(puppet, 1000)
    puppet_speed = speed(puppet, 1000)
    puppet.end()
    return puppet_speed


def set_cores(node: Node, percent: str) -> None:
    done = node.nvshare("quota", "set", "program", "--cores", percent)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kernel_ms", [1, pytest.param(100, marks=pytest.mark.heavy)])
def test_b6_a_quota_of_30_percent_alone_is_0_30_of_the_speed(kernel_ms: int, make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    solo = solo_speed(node)
    puppet = node.puppet("program", options=["--cores", "30"])
    run_for(puppet, 1500, kernel_ms)
    assert 0.26 * solo < speed(puppet, 1500) < 0.33 + kernel_ms / 5000  # the last kernel's debt is not seen


@pytest.mark.parametrize(
    ("quotas", "expected"), [((30, 60), (0.30, 0.60)), pytest.param((80, 80), (0.5, 0.5), marks=pytest.mark.heavy)]
)
def test_b6_b7_two_quotas_hold_together(
    quotas: tuple[int, int], expected: tuple[float, float], make_node: MakeNode
) -> None:
    node = make_node("--emulate", "1")
    solo = solo_speed(node)
    puppets = [node.puppet(f"with-{i}", options=["--cores", str(quota)]) for i, quota in enumerate(quotas)]
    for puppet in puppets:
        puppet.do("launch 1000")
    for puppet, share in zip(puppets, expected, strict=True):
        run_for(puppet, int(3000 * share))
    for puppet, share in zip(puppets, expected, strict=True):
        # Less where the machine holds one up and it meets the other: both pay for that time. Never more.
        assert 0.6 * share * solo < speed(puppet, int(3000 * share)) < share + 0.03


@pytest.mark.heavy
def test_b9_a_quota_changes_while_the_program_runs(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    solo = solo_speed(node)
    puppet = node.puppet("program", options=["--cores", "20"])
    puppet.do("launch 1000")
    for percent in (60, 30):
        set_cores(node, str(percent))
        run_for(puppet, 20 * percent)  # of twenty slots one may have begun before
        assert 0.8 * percent / 100 * solo < speed(puppet, 20 * percent) < 1.08 * percent / 100
    set_cores(node, "none")
    run_for(puppet, 1000)
    assert speed(puppet, 1000) > 0.9 * solo


@pytest.mark.heavy
def test_b2_a_process_has_what_another_one_of_its_allocation_does_not_use(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    busy = node.puppet("program", options=["--cores", "40"])
    few = node.sibling(busy)
    busy.start(f"launch {5 * MS} 100000")

    def parts() -> list[float]:
        clients = {client["pid"]: client for client in node.gpu().get("clients", [])}
        slots = [clients.get(puppet.pid, {}) for puppet in (busy, few)]
        return [slot.get("slot_length_us", 0) / slot["period_us"] if slot.get("period_us") else 1.0 for slot in slots]

    def little_work_leaves_much() -> bool:
        few.do(f"launch {MS // 2}")
        return 0.29 < parts()[0] < 0.4

    wait_until(little_work_leaves_much, 30, "more than an equal part for the busy one")
    assert sum(parts()) == pytest.approx(0.4, abs=1e-3)
    few.start(f"launch {5 * MS} 100000")
    wait_until(lambda: parts() == pytest.approx([0.2, 0.2], abs=1e-3), 20, "equal parts for two busy ones")
    for puppet in (busy, few):
        puppet.kill()
