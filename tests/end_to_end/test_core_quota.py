"""B5-B9: the compute quota of an allocation, by the emulated card's own account.

All figures are within 3 points. A program's kernels are so long, and its budget outlasts a pause, so that a host which
stands still for some milliseconds changes none of them.
"""

import time
from collections.abc import Sequence

import pytest

from card_turns import share, usual_share, waits_ns
from live_node import MakeNode, Node, Puppet, wait_until
from nvshare.cli.quota import Quota
from nvshare.scheduler.policy import Policy

pytestmark = pytest.mark.alone

MS = 1_000_000
POINTS = 0.03
PERIOD_NS = Policy().period_us * 1000
IN_EFFECT_NS = 200 * MS
START_NS = 500 * MS  # in which the process that looks at the account has started: it needs the host's cores, too
WHOLE_PERIODS_NS = (
    1900 * MS
)  # of 100 ms, of 190 (two with a half each), of 158 (40 and 60 %), of 127 (four with a quarter)
PERIODS = 15


def busy_programs(node: Node, quotas: Sequence[int], kernel_ms: int = 1) -> list[Puppet]:
    """Programs with these quotas that keep the card busy, each with its slot."""
    puppets = [node.puppet(f"with-{i}", options=["--cores", str(quota)]) for i, quota in enumerate(quotas)]
    for puppet in puppets:
        puppet.do("launch 1000")
    for puppet in puppets:
        puppet.start(f"launch {kernel_ms * MS} 1000000")
    whole = max(100, sum(quotas))
    expected = {f"with-{i}": quota / whole for i, quota in enumerate(quotas)}
    wait_until(lambda: slots(node) == pytest.approx(expected, abs=1e-3), 10, f"slots of {expected}")
    return puppets


def slots(node: Node) -> dict[str, float]:
    """Each program's part of its period."""
    return {
        name: client["slot_length_us"] / client["period_us"] if client.get("period_us") else 1.0
        for name, client in node.clients().items()
    }


@pytest.mark.heavy
@pytest.mark.parametrize(("cap", "kernel_ms"), [(10, 1), (75, 1), (30, 100)])
def test_b6_a_program_alone_has_its_quota_of_the_card(cap: int, kernel_ms: int, make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    (puppet,) = busy_programs(node, [cap], kernel_ms)
    begin_ns = time.monotonic_ns() + START_NS
    turns = node.turns_until(begin_ns + 4 * WHOLE_PERIODS_NS)
    starts_ns = [turn.start_ns for turn in turns if turn.pid == puppet.pid and turn.start_ns >= begin_ns]
    # From one start to another: the debt of a long kernel is paid by then.
    assert share(turns, puppet.pid, starts_ns[0], starts_ns[-1]) == pytest.approx(cap / 100, abs=POINTS)
    puppet.kill()


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ((30, 60), (0.30, 0.60)),
        pytest.param((80, 80), (0.5, 0.5), marks=pytest.mark.heavy),
        pytest.param((60, 90), (0.4, 0.6), marks=pytest.mark.heavy),
    ],
)
def test_b6_b7_two_quotas_hold_together(
    quotas: tuple[int, int], expected: tuple[float, float], make_node: MakeNode
) -> None:
    node = make_node("--emulate", "1")
    puppets = busy_programs(node, quotas)
    period_ns = node.clients()["with-0"]["period_us"] * 1000
    begin_ns = time.monotonic_ns() + START_NS
    turns = node.turns_until(begin_ns + PERIODS * period_ns)
    found = tuple(usual_share(turns, puppet.pid, begin_ns, period_ns, PERIODS) for puppet in puppets)
    assert found == pytest.approx(expected, abs=POINTS)
    for puppet in puppets:
        puppet.kill()


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.heavy), 4])
def test_b8_nobody_waits_longer_than_the_bound_for_its_turn(count: int, make_node: MakeNode) -> None:
    """All want more than there is, so that their slots leave nothing of the card."""
    node = make_node("--emulate", "1")
    puppets = busy_programs(node, [60] * count)
    begin_ns = time.monotonic_ns() + START_NS
    turns = node.turns_until(begin_ns + WHOLE_PERIODS_NS)
    waits = sorted(wait_ns for puppet in puppets for wait_ns in waits_ns(turns, puppet.pid, begin_ns))
    turns_waited_for = [wait_ns for wait_ns in waits if wait_ns > 50 * MS]
    assert len(turns_waited_for) >= 5 * count, "they take turns"
    # Whom the host keeps from using its slot waits for another one: the longest tenth says nothing about the slots.
    assert waits[len(waits) * 9 // 10] <= Policy().longest_turn_wait_us(count) * 1000
    for puppet in puppets:
        puppet.kill()


def test_b9_b6_another_quota_is_in_effect_within_200_ms(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    (puppet,) = busy_programs(node, [20])
    node.turns_until(time.monotonic_ns() + 4 * PERIOD_NS)
    for before, after in ((20, 70), (70, 30), (30, 90)):
        asked_ns = node.set_quota("with-0", Quota(core_limit_percent=after))
        effect_ns = asked_ns + IN_EFFECT_NS
        turns = node.turns_until(effect_ns + 8 * PERIOD_NS)
        assert share(turns, puppet.pid, asked_ns - 4 * PERIOD_NS, asked_ns) == pytest.approx(before / 100, abs=POINTS)
        # A period that had the old quota would be 6 points off and more.
        found = share(turns, puppet.pid, effect_ns, effect_ns + 8 * PERIOD_NS)
        assert found == pytest.approx(after / 100, abs=POINTS)
    puppet.kill()


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
