"""B8: how long a client that keeps the card busy waits for its turn on it, whatever the limits and weights are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from services.scheduler.tests.conftest import Desk, MakeDesk

from nvshare.scheduler.model import Allocation, Grant
from nvshare.scheduler.policy import SECOND_NS, Policy
from nvshare.scheduler.slots import period_us, place_slots

LIMITS_PERCENT = st.one_of(st.just(0), st.integers(1, 100))  # 0: none
WEIGHTS = st.one_of(st.just(100), st.integers(1, 1000))


def busy_desk(terms: list[tuple[int, int]], seconds: int) -> Desk:
    """Programs with these limits and weights that all keep the card busy for so long, each for all of the time that its
    slots leave it."""
    desk = MakeDesk()()
    for number, (limit_percent, weight) in enumerate(terms):
        allocation = Allocation(f"allocation-{number}", core_limit_percent=limit_percent, weight=weight)
        desk.allocations[allocation.id] = allocation
        desk.join(f"program-{number}", allocation.id)
        desk.follow(f"program-{number}", demand=True)
    for _ in range(2 * seconds):
        desk.pass_time(SECOND_NS // 2, heartbeats=False)
        for name in desk.programs:
            slot = desk.grant(name).slot
            launches = desk.programs[name].report.launches + 1
            busy_permille = round(1000 * (1.0 if slot is None else slot.part))
            desk.follow(name, demand=True, busy_permille=busy_permille, launches=launches)
    return desk


def waits_us(grants: list[Grant], policy: Policy) -> list[int]:
    """How long each waits from the end of its slot to its next one; who has none, from its slice to the next one behind
    all others that have none. Who has the driver's own slices waits for milliseconds."""
    slices_us = [grant.timeslice_us for grant in grants if grant.slot is None]
    waits = [grant.slot.period_us - grant.slot.length_us for grant in grants if grant.slot is not None]
    if len(slices_us) > 1 and all(slices_us):
        waits += [sum(slices_us) - slice_us + len(slices_us) * policy.switch_us for slice_us in slices_us]
    return waits


@given(st.lists(st.integers(1, 1_000_000), min_size=2, max_size=20), st.floats(0.1, 1.0))
def test_b8_no_slots_make_anybody_wait_longer_than_the_bound(parts: list[int], whole: float) -> None:
    policy = Policy()
    shares = {str(number): whole * part / sum(parts) for number, part in enumerate(parts)}
    slots = place_slots(shares, period_us(shares, policy)).values()
    assert len({slot.period_us for slot in slots}) == 1
    assert max(slot.period_us - slot.length_us for slot in slots) <= policy.longest_turn_wait_us(len(slots))


@settings(max_examples=20)
@pytest.mark.parametrize("count", [2, 4, 10])
@given(data=st.data())
def test_b8_no_busy_client_waits_longer_than_the_bound_for_its_slot_or_slice(count: int, data: st.DataObject) -> None:
    terms = data.draw(st.lists(st.tuples(LIMITS_PERCENT, WEIGHTS), min_size=count, max_size=count))
    desk = busy_desk(terms, seconds=3)  # two without limits take turns by slots when they have not rested for 2 s
    waits = waits_us([desk.grant(name) for name in desk.programs], desk.policy)
    assert len(waits) >= sum(limit_percent > 0 for limit_percent, _ in terms)
    rounding_us = count  # each slice is a whole number of them
    assert max(waits, default=0) <= desk.policy.longest_turn_wait_us(count) + rounding_us


@pytest.mark.parametrize("count", [2, 4, 10])
@pytest.mark.parametrize("limit_percent", [0, 100])
def test_b8_equals_that_keep_the_card_busy_use_the_time_that_the_bound_leaves(count: int, limit_percent: int) -> None:
    """Few hand-overs: turns are as long as they may be, or 20 ms and more."""
    desk = busy_desk([(limit_percent, 100)] * count, seconds=3)
    grants = [desk.grant(name) for name in desk.programs]
    turns_us = [grant.timeslice_us if grant.slot is None else grant.slot.length_us for grant in grants]
    longest_us = desk.policy.longest_turn_wait_us(count) / (count - 1)
    assert min(turns_us) >= min(0.8 * longest_us, desk.policy.busy_slice_us)
