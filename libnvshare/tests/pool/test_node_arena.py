"""The pool on memory that the relay makes: the real arena, in a process that can be killed."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from libnvshare.tests.pool.conftest import SEGMENT, SLOT, TOTAL, Arena, Pool, StartPool, environment


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    arena = Arena(tmp_path)
    yield arena
    arena.kill()


@pytest.fixture
def pool(arena: Arena, start_pool: StartPool) -> Pool:
    """A pool on the arena, with context 0."""
    pool = start_pool(NVSHARE_HOST_MEMORY="arena")
    pool.do("make", 0)
    return pool


def resident_bytes(pid: int, kind: str) -> int:
    """Of a process, by /proc/<pid>/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(kind)


def test_b1_memory_of_the_arena_is_made_by_the_relay_and_pinned_by_the_process(arena: Arena, pool: Pool) -> None:
    pool.do("prepare", 0, 2 * SLOT)
    arena.until(lambda reserved, made: made == 2 * SLOT)
    slots = pool.take(0, 2)
    assert slots.are_present()
    assert slots.are_pinned()
    slots.fill(7)
    assert slots.hold(7)


def test_the_room_is_known_before_the_first_report(pool: Pool) -> None:
    assert pool.bytes("room") == TOTAL


def test_the_room_is_what_is_kept_and_what_nobody_has_reserved(pool: Pool, start_pool: StartPool) -> None:
    other = start_pool(NVSHARE_HOST_MEMORY="arena")
    assert other.bytes("reserve", 3 * SEGMENT) == 3 * SEGMENT
    assert pool.until("room", lambda value: value == SEGMENT)
    assert other.bytes("room") == TOTAL


def test_two_processes_are_never_kept_the_same_room(pool: Pool, start_pool: StartPool) -> None:
    other = start_pool(NVSHARE_HOST_MEMORY="arena")
    assert pool.bytes("reserve", 3 * SEGMENT) == 3 * SEGMENT
    assert other.bytes("reserve", 3 * SEGMENT) == SEGMENT


def test_e9_what_the_arena_does_not_have_is_refused_with_the_reason(pool: Pool, start_pool: StartPool) -> None:
    other = start_pool(NVSHARE_HOST_MEMORY="arena")
    other.bytes("reserve", TOTAL)
    kept = "the node arena keeps 0 MiB for this process and has 0 MiB more for it"
    assert pool.refusal(0, 1).startswith(kept)


def test_what_a_killed_process_had_is_free_for_others(arena: Arena, pool: Pool) -> None:
    pool.take(0, 2)
    pool.process.send_signal(signal.SIGKILL)
    arena.until(lambda reserved, made: made == 2 * SLOT)
    arena.until(lambda reserved, made: (reserved, made) == (0, 0))


def test_a_forked_child_has_nothing_of_it_and_may_have_its_own(arena: Arena, pool: Pool) -> None:
    slots = pool.take(0, 2)
    slots.fill(8)
    assert pool.ask("fork") == "ready 0 taken 1"
    assert slots.hold(8)


def test_data_outlives_the_relay_and_is_handed_in_to_the_next_one(arena: Arena, pool: Pool) -> None:
    slots = pool.take(0, SEGMENT // SLOT + 1)
    slots.fill(9)
    arena.kill()
    assert slots.hold(9)
    arena.start()
    arena.until(lambda reserved, made: made == SEGMENT + SLOT)
    assert slots.hold(9)
    more = pool.take(0, 1)
    more.fill(1)
    assert slots.hold(9)


def test_without_the_relay_a_take_beyond_what_is_there_is_refused_and_later_served(arena: Arena, pool: Pool) -> None:
    slots = pool.take(0, 1)
    arena.kill()
    assert "the relay, which has the node arena, is away" in pool.refusal(0, 40)
    slots.fill(2)
    arena.start()
    more = pool.take(0, 1)
    more.fill(3)
    assert slots.hold(2)


def test_b1_memory_of_the_arena_is_not_the_process_s_own(arena: Arena, pool: Pool) -> None:
    before = resident_bytes(pool.process.pid, "RssAnon")
    pool.take(0, 8).fill(1)
    assert resident_bytes(pool.process.pid, "RssAnon") - before < 4 * SLOT
    assert resident_bytes(pool.process.pid, "RssShmem") >= 8 * SLOT


def test_what_the_pool_gives_back_is_free_for_others_and_no_descriptor_is_left(arena: Arena, pool: Pool) -> None:
    def memory_files() -> list[str]:
        folder = Path(f"/proc/{pool.process.pid}/fd")
        return [str(one.readlink()) for one in folder.iterdir() if "nvshare-arena" in str(one.readlink())]

    pool.do("prepare", 0, 2 * SLOT)
    arena.until(lambda reserved, made: made == 2 * SLOT)
    pool.until("ready", lambda value: value == 2 * SLOT)
    assert len(memory_files()) == 1
    pool.do("prepare", 0, 0)
    arena.until(lambda reserved, made: (reserved, made) == (0, 0))
    assert memory_files() == []


def test_who_wants_the_process_s_own_memory_has_it_beside_an_arena(arena: Arena, start_pool: StartPool) -> None:
    pool = start_pool(NVSHARE_HOST_MEMORY="own")
    pool.do("make", 0)
    pool.take(0, 1).fill(1)
    assert resident_bytes(pool.process.pid, "RssShmem") < SLOT
    assert pool.bytes("room") > 0


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_a_storm_passes_on_an_arena_under_sanitizers(
    sanitizer: str, arena: Arena, programs: Path, thread_programs: Path, tmp_path: Path
) -> None:
    folder = programs if sanitizer == "address" else thread_programs
    variables = environment(tmp_path, NVSHARE_HOST_MEMORY="arena", TSAN_OPTIONS="exitcode=66")
    done = subprocess.run([folder / "pool_storm"], env=variables, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "ThreadSanitizer" not in done.stderr
    arena.until(lambda reserved, made: made > 0)
    arena.until(lambda reserved, made: (reserved, made) == (0, 0))
