"""The pool of pinned host memory, made of the process's own."""

import re
import subprocess
import time
from pathlib import Path

import pytest
from libnvshare.tests.pool.conftest import SEGMENT, SLOT, Pool, StartPool, environment


def test_b1_what_is_wished_becomes_ready_in_the_background(pool: Pool) -> None:
    pool.do("prepare", 0, 3 * SLOT)
    assert pool.until("ready", lambda value: value > 0) == 3 * SLOT


def test_b1_that_what_is_wished_is_ready_is_told_once_for_each_wish(pool: Pool) -> None:
    pool.do("prepare", 0, 2 * SLOT)
    assert pool.until("told", lambda times: times > 0) == 1
    assert pool.bytes("ready") == 2 * SLOT
    pool.take(0, 1)
    pool.do("prepare", 0, 2 * SLOT)
    pool.do("prepare", 0, 3 * SLOT)
    assert pool.until("told", lambda times: times > 1) == 2
    assert pool.bytes("ready") == 3 * SLOT


def test_b1_slots_that_are_ready_have_their_pages_and_are_registered(pool: Pool) -> None:
    pool.do("prepare", 0, 3 * SLOT)
    pool.until("ready", lambda value: value == 3 * SLOT)
    slots = pool.take(0, 3)
    assert slots.are_present()
    assert slots.are_pinned()


def test_slots_of_one_take_are_neighbours_and_do_not_overlap_those_of_another(pool: Pool) -> None:
    pool.do("prepare", 0, 6 * SLOT)
    pool.until("ready", lambda value: value == 6 * SLOT)
    one, other = pool.take(0, 3), pool.take(0, 3)
    assert one.addresses == [one.addresses[0] + i * SLOT for i in range(3)]
    assert len({*one.addresses, *other.addresses}) == 6


def test_a_take_beyond_what_is_ready_makes_the_pool_grow(pool: Pool) -> None:
    slots = pool.take(0, 2)
    assert slots.are_pinned()
    assert pool.bytes("ready") >= 2 * SLOT


def test_a_take_larger_than_a_segment_spans_several(pool: Pool) -> None:
    slots = pool.take(0, SEGMENT // SLOT + 2)
    slots.fill(7)
    assert slots.hold(7)
    assert len(set(slots.addresses)) == SEGMENT // SLOT + 2


def test_data_stays_while_others_take_and_give(pool: Pool) -> None:
    kept, other = pool.take(0, 2), pool.take(0, 1)
    kept.fill(1)
    other.fill(2)
    other.give()
    pool.take(0, 2).fill(3)
    assert kept.hold(1)


def test_slots_that_were_given_back_are_used_again(pool: Pool) -> None:
    pool.do("prepare", 0, 2 * SLOT)
    first = pool.take(0, 2)
    first.give()
    assert pool.take(0, 2).addresses == first.addresses
    assert pool.bytes("ready") == 2 * SLOT


def test_e9_a_take_that_the_process_may_not_hold_is_refused_with_the_reason_and_leaves_the_rest(pool: Pool) -> None:
    kept = pool.take(0, 2)
    kept.fill(5)
    pool.do("limit", 4 * SLOT)
    reason = pool.refusal(0, 20)
    assert re.search(r"may have \d+ MiB more host memory .* and \d+ MiB are needed", reason)
    assert kept.hold(5)
    pool.do("prepare", 0, 0)
    pool.take(0, 1).fill(6)  # what can be had is had


def test_a_wish_that_cannot_be_had_keeps_nobody_from_what_can(pool: Pool) -> None:
    pool.do("limit", 6 * SLOT)
    pool.do("prepare", 0, 40 * SLOT)
    pool.take(0, 2).fill(1)


def test_the_room_is_what_the_pool_has_and_what_could_still_be_had(pool: Pool) -> None:
    pool.take(0, 4)
    pool.do("limit", 8 * SLOT)
    assert pool.until("room", lambda value: value <= 12 * SLOT) > 8 * SLOT


def test_own_memory_cannot_be_kept_for_a_process(pool: Pool) -> None:
    assert pool.bytes("reserve", 4 * SLOT) == pool.bytes("room")


def test_what_was_registered_in_a_context_that_ended_is_registered_anew_with_its_data(pool: Pool) -> None:
    slots = pool.take(0, 2)
    slots.fill(9)
    pool.do("end", 0)
    assert not slots.are_pinned()
    pool.do("make", 1)
    pool.do("prepare", 1, 2 * SLOT)
    pool.until("ready", lambda value: value >= 2 * SLOT)
    pool.take(1, 1)
    assert slots.are_pinned()
    assert slots.hold(9)


def test_a_context_that_ends_takes_nothing_that_another_one_registered(pool: Pool) -> None:
    pool.do("make", 1)
    slots = pool.take(1, 1)
    pool.do("end", 0)
    assert slots.are_pinned()


def test_without_a_context_memory_is_made_ready_and_registered_when_there_is_one(start_pool: StartPool) -> None:
    pool = start_pool(NVSHARE_HOST_MEMORY="own")
    pool.do("prepare", -1, SLOT)
    pool.until("ready", lambda value: value == SLOT)
    slots = pool.take(-1, 1)
    assert not slots.are_pinned()
    pool.do("make", 0)
    pool.do("prepare", 0, SLOT)
    pool.until("ready", lambda value: value == SLOT)
    assert slots.are_pinned()


def test_memory_that_cannot_be_registered_is_handed_out_all_the_same_and_said_once(pool: Pool) -> None:
    pool.do("refuse", 1)
    slots = pool.take(0, 20)
    slots.fill(3)
    assert slots.hold(3)
    assert not slots.are_pinned()
    assert len(re.findall("cannot be registered", pool.log())) == 1


def test_what_is_beyond_a_lower_wish_is_kept_for_a_while_and_then_given_back(pool: Pool) -> None:
    pool.do("prepare", 0, SEGMENT + 2 * SLOT)
    pool.until("ready", lambda value: value == SEGMENT + 2 * SLOT)
    kept = pool.take(0, 1)
    kept.fill(4)
    lowered = time.monotonic()
    pool.do("prepare", 0, 0)
    pool.until("ready", lambda value: value <= SEGMENT)
    assert time.monotonic() - lowered > 4.5
    assert kept.hold(4)


def test_a_forked_child_has_an_empty_pool_that_it_can_use(pool: Pool) -> None:
    slots = pool.take(0, 2)
    slots.fill(8)
    assert pool.ask("fork") == "ready 0 taken 1"
    assert slots.hold(8)


def test_nothing_is_made_when_the_program_ends(pool: Pool) -> None:
    pool.do("leave")
    assert pool.refusal(0, 1) == "the program ends"


def test_sparse_memory_has_no_pages_until_they_are_written(start_pool: StartPool) -> None:
    pool = start_pool(NVSHARE_HOST_MEMORY="sparse")
    pool.do("make", 0)
    slots = pool.take(0, 200)  # 3 GiB
    assert slots.are_pinned()
    assert not slots.are_present()
    assert pool.bytes("room") > 2**40


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_a_storm_of_takers_contexts_and_wishes_passes_under_sanitizers(
    sanitizer: str, programs: Path, thread_programs: Path, tmp_path: Path
) -> None:
    folder = programs if sanitizer == "address" else thread_programs
    variables = environment(tmp_path, NVSHARE_HOST_MEMORY="own", TSAN_OPTIONS="exitcode=66")
    done = subprocess.run([folder / "pool_storm"], env=variables, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "ThreadSanitizer" not in done.stderr
