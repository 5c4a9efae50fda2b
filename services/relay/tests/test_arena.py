"""The account of the arena: who has how much, and when it is free again."""

import errno

import pytest

from nvshare.relay.arena import MAX_SEGMENT_BYTES, STEP_BYTES, Arena, ArenaError, State, Tenant, TenantKey, Turns
from nvshare.relay.arena import most_bytes as most_of
from nvshare.relay.peers import Process

GIB = 2**30
LOTS = 2**50


def tenant_of(arena: Arena, pid: int, allocation: str = "a", nonce: int = 1) -> Tenant:
    return arena.join(TenantKey(allocation, Process(pid, 100 + pid), nonce))


def reserve(arena: Arena, tenant: Tenant, wish: int, most: int = LOTS, available: int = LOTS) -> int:
    return arena.reserve(tenant, wish, most, available)


def made(arena: Arena, tenant: Tenant, size: int = MAX_SEGMENT_BYTES) -> int:
    segment = arena.begin(tenant, size)
    assert arena.made(segment, (1, segment.id))
    return segment.id


def test_a_reservation_is_what_was_wished_or_what_there_is() -> None:
    arena = Arena(3 * GIB)
    one, other = tenant_of(arena, 1), tenant_of(arena, 2)
    assert reserve(arena, one, 2 * GIB) == 2 * GIB
    assert reserve(arena, other, 2 * GIB) == GIB
    assert arena.free_bytes == 0


def test_a_reservation_is_a_whole_number_of_steps() -> None:
    arena = Arena(GIB)
    assert reserve(arena, tenant_of(arena, 1), 1) == STEP_BYTES


def test_the_same_wish_again_changes_nothing_and_a_lower_one_gives_back() -> None:
    arena = Arena(GIB)
    tenant = tenant_of(arena, 1)
    assert [reserve(arena, tenant, wish) for wish in (GIB, GIB, GIB // 2)] == [GIB, GIB, GIB // 2]
    assert arena.free_bytes == GIB // 2


def test_a_reservation_never_falls_below_what_was_made_of_it() -> None:
    arena = Arena(GIB)
    tenant = tenant_of(arena, 1)
    reserve(arena, tenant, GIB)
    made(arena, tenant)
    assert reserve(arena, tenant, 0) == MAX_SEGMENT_BYTES


def test_the_processes_of_one_allocation_share_its_most() -> None:
    arena = Arena(8 * GIB)
    one, other = tenant_of(arena, 1), tenant_of(arena, 2)
    assert reserve(arena, one, 2 * GIB, most=3 * GIB) == 2 * GIB
    assert reserve(arena, other, 2 * GIB, most=3 * GIB) == GIB
    assert reserve(arena, tenant_of(arena, 3, "b"), 2 * GIB, most=3 * GIB) == 2 * GIB


def test_what_the_host_cannot_give_is_not_promised() -> None:
    """What was reserved and is not made yet was promised already."""
    arena = Arena(8 * GIB)
    one, other = tenant_of(arena, 1), tenant_of(arena, 2)
    assert reserve(arena, one, 2 * GIB, available=3 * GIB) == 2 * GIB
    assert reserve(arena, other, 2 * GIB, available=3 * GIB) == GIB


def test_an_allocation_may_reserve_twice_what_it_may_have_on_its_cards() -> None:
    assert most_of(4 * GIB, 2) == 16 * GIB + MAX_SEGMENT_BYTES
    assert most_of(0, 1) > LOTS


@pytest.mark.parametrize("size", [0, 1, STEP_BYTES + 1, MAX_SEGMENT_BYTES + STEP_BYTES, 2**63])
def test_a_segment_of_no_possible_size_is_refused(size: int) -> None:
    arena = Arena(GIB)
    tenant = tenant_of(arena, 1)
    reserve(arena, tenant, GIB)
    with pytest.raises(ArenaError) as refusal:
        arena.begin(tenant, size)
    assert refusal.value.number == errno.EINVAL


def test_segments_are_made_within_the_reservation_alone() -> None:
    arena = Arena(GIB)
    tenant = tenant_of(arena, 1)
    reserve(arena, tenant, MAX_SEGMENT_BYTES)
    arena.begin(tenant, MAX_SEGMENT_BYTES)  # also while it is still being made
    with pytest.raises(ArenaError) as refusal:
        arena.begin(tenant, STEP_BYTES)
    assert refusal.value.number == errno.ENOMEM


def test_what_is_given_back_is_free_only_when_it_is_wiped() -> None:
    arena = Arena(MAX_SEGMENT_BYTES)
    one, other = tenant_of(arena, 1), tenant_of(arena, 2)
    reserve(arena, one, GIB)
    segment = arena.give(one, made(arena, one))
    assert reserve(arena, one, 0) == MAX_SEGMENT_BYTES
    assert reserve(arena, other, GIB) == 0
    arena.wiped(segment)
    assert reserve(arena, one, 0) == 0
    assert reserve(arena, other, GIB) == MAX_SEGMENT_BYTES


def test_what_the_dead_had_is_free_only_when_it_is_wiped() -> None:
    arena = Arena(GIB)
    tenant = tenant_of(arena, 1)
    reserve(arena, tenant, GIB)
    made(arena, tenant)
    (segment,) = arena.end(tenant)
    assert arena.reserved_bytes == arena.made_bytes == MAX_SEGMENT_BYTES
    arena.wiped(segment)
    assert arena.reserved_bytes == arena.made_bytes == 0
    assert list(arena) == []


def test_a_segment_that_is_made_for_somebody_who_died_meanwhile_is_to_be_wiped() -> None:
    arena = Arena(GIB)
    tenant = tenant_of(arena, 1)
    reserve(arena, tenant, GIB)
    segment = arena.begin(tenant, STEP_BYTES)
    assert arena.end(tenant) == []
    assert not arena.made(segment, (1, 2))
    assert arena.reserved_bytes == STEP_BYTES
    arena.wiped(segment)
    assert list(arena) == []


def test_a_segment_is_given_back_once_and_by_its_tenant() -> None:
    arena = Arena(GIB)
    one, other = tenant_of(arena, 1), tenant_of(arena, 2)
    reserve(arena, one, GIB)
    number = made(arena, one)
    with pytest.raises(ArenaError):
        arena.give(other, number)
    arena.give(one, number)
    with pytest.raises(ArenaError):
        arena.give(one, number)


def test_a_segment_of_an_earlier_relay_counts_even_where_it_was_not_reserved() -> None:
    arena = Arena(0)
    tenant = tenant_of(arena, 1)
    segment, is_new = arena.adopt(tenant, MAX_SEGMENT_BYTES, (1, 2))
    assert is_new
    assert segment.state is State.MADE
    assert arena.reserved_bytes == MAX_SEGMENT_BYTES
    assert arena.free_bytes == 0


def test_a_segment_that_is_handed_in_twice_counts_once() -> None:
    arena = Arena(GIB)
    tenant = tenant_of(arena, 1)
    first, _ = arena.adopt(tenant, STEP_BYTES, (1, 2))
    assert arena.adopt(tenant, STEP_BYTES, (1, 2)) == (first, False)
    assert arena.made_bytes == STEP_BYTES


def test_nobody_adopts_the_segment_of_another() -> None:
    arena = Arena(GIB)
    one, other = tenant_of(arena, 1), tenant_of(arena, 2)
    arena.adopt(one, STEP_BYTES, (1, 2))
    with pytest.raises(ArenaError) as refusal:
        arena.adopt(other, STEP_BYTES, (1, 2))
    assert refusal.value.number == errno.EPERM


def test_a_program_whose_memory_is_still_being_wiped_is_asked_to_come_again() -> None:
    arena = Arena(GIB)
    tenant = tenant_of(arena, 1)
    arena.adopt(tenant, STEP_BYTES, (1, 2))
    arena.end(tenant)
    with pytest.raises(ArenaError) as refusal:
        arena.join(tenant.key)
    assert refusal.value.number == errno.EAGAIN


def test_allocations_are_served_in_turn() -> None:
    turns: Turns[str] = Turns()
    for job in ("a1", "a2", "a3", "b1", "c1", "b2"):
        turns.add(job[0], job)
    assert [turns.next() for _ in range(len(turns))] == ["a1", "b1", "c1", "a2", "b2", "a3"]
