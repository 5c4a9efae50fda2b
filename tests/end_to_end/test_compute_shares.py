"""B12, B13: who gets how much of a card's time, by the emulated card's own account."""

import time
from statistics import median

import pytest

from card_turns import share
from live_node import MakeNode, Node, Puppet, wait_until
from nvshare.bus.compute import PRIORITIES
from nvshare.cli.quota import Quota

pytestmark = pytest.mark.alone

ALL_THE_TIME = "launch 25000000 100000"  # kernels so long that a launching thread which gets no core misses no turn
BATCHES = "launch 5000000 100000"
BURST_NS = 2_200_000
MS = 1_000_000
IN_EFFECT_NS = 200 * MS
SEEN_NS = 500 * MS


def wait_for_slices(node: Node, **slices_us: int) -> None:
    """Wait until the clients with these names say that they have these slices."""

    def are_set() -> bool:
        clients = node.clients()
        return all(clients.get(name, {}).get("timeslice_us") == slice_us for name, slice_us in slices_us.items())

    wait_until(are_set, 10, f"slices of {slices_us}")


def slices(node: Node) -> list[int]:
    """The slices, in microseconds, that the clients say that they have."""
    return [int(client.get("timeslice_us", 0)) for client in node.clients().values()]


def wait_for_slots(node: Node, **parts: float) -> None:
    """Wait until the clients with these names have these parts of the time."""

    def are_set() -> bool:
        clients = node.clients()
        slots = {name: clients.get(name, {}) for name in parts}
        if not all(slot.get("period_us") for slot in slots.values()):
            return False
        had = {name: slot["slot_length_us"] / slot["period_us"] for name, slot in slots.items()}
        return had == pytest.approx(parts, abs=1e-3)

    wait_until(are_set, 10, f"slots of {parts}")


def pays_for_less(node: Node, name: str, permille: int) -> bool:
    """Whether others' work is known to run while this client's is in flight: until then it pays for all that time."""
    return 0 < int(node.clients()[name].get("paid_permille", 0)) < permille


def shares_of(node: Node, *puppets: Puppet, seconds: float = 2.0) -> list[float]:
    """What each had of the time that all of them had together, in the next `seconds` of it."""

    def busy_after(least_ns: int) -> list[int] | None:
        by_pid = node.busy_ns()
        busy = [by_pid[puppet.pid] for puppet in puppets]
        return busy if sum(busy) >= least_ns else None

    before = wait_until(lambda: busy_after(0), 1, "the card's account")
    after = wait_until(lambda: busy_after(sum(before) + round(seconds * 1e9)), 5 * seconds, "time on the card")
    return [(end - start) / (sum(after) - sum(before)) for start, end in zip(before, after, strict=True)]


@pytest.mark.parametrize("weight", [pytest.param(200, marks=pytest.mark.heavy), 400])
def test_b13_two_that_keep_the_card_busy_share_it_by_weight(weight: int, make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    light, heavy = node.puppet("light"), node.puppet("heavy", options=["--weight", str(weight)])
    for puppet in (light, heavy):
        puppet.start(BATCHES)
    share = 100 / (100 + weight)
    wait_for_slots(node, light=share, heavy=1 - share)
    assert shares_of(node, light, heavy)[0] == pytest.approx(share, abs=0.03)
    for puppet in (light, heavy):
        puppet.kill()


@pytest.mark.heavy
@pytest.mark.parametrize(("cores", "share"), [(30, 0.3), (60, 0.5)])
def test_b5_a_core_limit_is_no_less_beside_one_without(cores: int, share: float, make_node: MakeNode) -> None:
    """Who has a limit gets it, or its half of the card where that is less."""
    node = make_node("--emulate", "1")
    limited, free = node.puppet("limited", options=["--cores", str(cores)]), node.puppet("free")
    for puppet in (limited, free):
        puppet.start(BATCHES)
    wait_for_slots(node, limited=share, free=1 - share)
    assert shares_of(node, limited, free)[0] == pytest.approx(share, abs=0.03)
    for puppet in (limited, free):
        puppet.kill()


@pytest.mark.heavy
def test_b5_a_core_limit_is_no_less_beside_more_busy_ones_than_take_turns(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    limited = node.puppet("limited", options=["--cores", "30"])
    free = [node.puppet(f"free-{number}") for number in range(4)]
    for puppet in (limited, *free):
        puppet.start(BATCHES)
    wait_for_slices(node, limited=20_000, **{f"free-{number}": 20_000 for number in range(4)})
    wait_until(lambda: pays_for_less(node, "limited", 300), 5, "an account of what the limited one has")
    assert shares_of(node, limited, *free)[0] == pytest.approx(0.2, abs=0.03)
    for puppet in (limited, *free):
        puppet.kill()


def test_b12_best_effort_is_paused_while_a_critical_one_is_busy_and_back_at_once(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    critical = node.puppet("critical", options=["--priority", "latency-critical"])
    background = node.puppet("background", options=["--priority", "best-effort"])
    critical.do("launch 1000")
    background.start(ALL_THE_TIME)
    wait_for_slices(node, critical=20_000, background=1)
    assert shares_of(node, critical, background, seconds=0.5)[1] > 0.99, "a critical one that rests takes nothing"
    critical.start("launch 25000000 120")
    wait_until(lambda: shares_of(node, critical, background, seconds=0.1)[0] > 0.5, 2, "the critical one runs")
    assert shares_of(node, critical, background, seconds=1.0)[0] > 0.97
    assert critical.answer()["error"] is None
    critical.do("sync")
    assert shares_of(node, critical, background, seconds=0.2)[1] > 0.97
    background.kill()


def test_b9_b12_another_priority_is_in_effect_within_200_ms(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    changing, other = node.puppet("changing"), node.puppet("other")
    for puppet in (changing, other):
        puppet.start(ALL_THE_TIME)
    node.turns_until(time.monotonic_ns() + SEEN_NS)
    for priority, least, most in (("best-effort", 0.0, 0.03), ("normal", 0.3, 0.7)):
        asked_ns = node.set_quota("changing", Quota(priority=PRIORITIES[priority]))
        effect_ns = asked_ns + IN_EFFECT_NS
        turns = node.turns_until(effect_ns + SEEN_NS)
        # A tenth of a second more of the old shares would be a tenth of what is seen.
        assert least <= share(turns, changing.pid, effect_ns, effect_ns + SEEN_NS) <= most
        assert not least <= share(turns, changing.pid, asked_ns - IN_EFFECT_NS, asked_ns) <= most, "it was otherwise"
    for puppet in (changing, other):
        puppet.kill()


@pytest.mark.heavy
@pytest.mark.parametrize("count", [1, 2])
def test_b12_a_burst_of_a_critical_one_does_not_wait_for_best_effort(count: int, make_node: MakeNode) -> None:
    """Not even for one of their slices: one is at the floor, and the others have nothing in flight."""
    node = make_node("--emulate", "1")
    critical = node.puppet("critical", options=["--priority", "latency-critical"])
    others = [node.puppet(f"other-{number}", options=["--priority", "best-effort"]) for number in range(count)]
    critical.do("launch 1000")
    for other in others:
        other.start(BATCHES)
    wait_until(lambda: slices(node).count(1) == 1, 10, "one at the floor")
    launched_ns = []
    for _ in range(50):
        launched_ns.append(critical.do(f"launch {BURST_NS}")["ended_ns"])
        critical.do("sync")
    turns = [turn for turn in node.turns_until(launched_ns[-1]) if turn.pid == critical.pid]
    waits_ns = [next(turn.start_ns for turn in turns if turn.end_ns > begin_ns) - begin_ns for begin_ns in launched_ns]
    assert median(waits_ns) < 0.5 * MS
    for puppet in (critical, *others):
        puppet.kill()


@pytest.mark.heavy
def test_b12_two_of_best_effort_share_what_a_critical_one_leaves(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    critical = node.puppet("critical", options=["--priority", "latency-critical"])
    others = [node.puppet(f"other-{number}", options=["--priority", "best-effort"]) for number in range(2)]
    critical.do("launch 1000")
    for other in others:
        other.start(BATCHES)
    wait_until(lambda: slices(node).count(1) == 1, 10, "one at the floor")
    assert shares_of(node, *others, seconds=3.0) == pytest.approx([0.5, 0.5], abs=0.25), "in turns of a second"
    for puppet in (critical, *others):
        puppet.kill()
