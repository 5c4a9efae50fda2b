"""How much more memory of its own a process could have, on hosts that are folders here."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

GIB = 1 << 30
MIB = 1 << 20

Room = Callable[[], int]


def room_and_limit(programs: Path, *root: Path) -> tuple[int, bool]:
    done = subprocess.run([programs / "room_program", *root], capture_output=True, text=True, check=True)
    room, limited = done.stdout.split()
    return int(room), limited == "1"


@pytest.fixture
def room(programs: Path, tmp_path: Path) -> Room:
    """What is said of the host in the test's folder: 64 GiB, of which 32 are available, and no cgroup."""
    write(tmp_path, "proc/meminfo", f"MemTotal: {64 * 2**20} kB\nMemFree: 5 kB\nMemAvailable: {32 * 2**20} kB\n")
    return lambda: room_and_limit(programs, tmp_path)[0]


@pytest.fixture
def limited(programs: Path, tmp_path: Path) -> Callable[[], bool]:
    """Whether the process is said to be limited there."""
    return lambda: room_and_limit(programs, tmp_path)[1]


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def cgroup_2(root: Path, path: str, limit: str, usage_bytes: int, cache_bytes: int = 0) -> None:
    folder = f"sys/fs/cgroup{path}"
    write(root, f"{folder}/memory.max", f"{limit}\n")
    write(root, f"{folder}/memory.current", f"{usage_bytes}\n")
    write(root, f"{folder}/memory.stat", f"anon 1\nfile 2\ninactive_file {cache_bytes}\nactive_file 7\n")


def cgroup_1(root: Path, path: str, limit_bytes: int, usage_bytes: int, cache_bytes: int = 0) -> None:
    folder = f"sys/fs/cgroup/memory{path}"
    write(root, f"{folder}/memory.limit_in_bytes", f"{limit_bytes}\n")
    write(root, f"{folder}/memory.usage_in_bytes", f"{usage_bytes}\n")
    write(root, f"{folder}/memory.stat", f"inactive_file 5\ntotal_inactive_file {cache_bytes}\n")


def test_an_eighth_of_the_host_stays_free(room: Room) -> None:
    assert room() == (32 - 8) * GIB


def test_a_host_that_says_nothing_has_no_room(room: Room, tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", "")
    assert room() == 0


def test_a_16th_of_a_cgroups_limit_stays_free(room: Room, tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/pod\n")
    cgroup_2(tmp_path, "/pod", str(16 * GIB), 4 * GIB)
    assert room() == (16 - 1 - 4) * GIB


def test_every_level_of_the_hierarchy_counts(room: Room, tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/slice/pod/container\n")
    cgroup_2(tmp_path, "/slice/pod/container", "max", GIB)
    cgroup_2(tmp_path, "/slice/pod", str(16 * GIB), 12 * GIB)
    cgroup_2(tmp_path, "/slice", str(32 * GIB), 12 * GIB)
    assert room() == 3 * GIB


def test_half_of_the_inactive_file_cache_counts_as_free(room: Room, tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/pod\n")
    cgroup_2(tmp_path, "/pod", str(16 * GIB), 15 * GIB, cache_bytes=4 * GIB)
    assert room() == 2 * GIB


def test_a_cgroup_that_is_full_has_no_room(room: Room, tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/pod\n")
    cgroup_2(tmp_path, "/pod", str(2 * GIB), 2 * GIB)
    assert room() == 0


def test_memory_high_is_a_limit_too(room: Room, tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/pod\n")
    cgroup_2(tmp_path, "/pod", str(32 * GIB), GIB)
    write(tmp_path, "sys/fs/cgroup/pod/memory.high", f"{16 * GIB}\n")
    assert room() == 14 * GIB


def test_a_container_sees_its_own_cgroup_as_the_root(room: Room, tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    cgroup_2(tmp_path, "", str(16 * GIB), GIB)
    assert room() == 14 * GIB


def test_a_container_without_a_cgroup_namespace_finds_its_cgroup_at_the_mounts_root(room: Room, tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "5:devices:/docker/abc\n4:cpu,memory:/docker/abc\n")
    cgroup_1(tmp_path, "", 16 * GIB, GIB)
    assert room() == 14 * GIB


def test_version_1_counts_its_limit_and_its_whole_cache(room: Room, tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:memory:/pod\n0::/\n")
    cgroup_1(tmp_path, "/pod", 16 * GIB, 10 * GIB, cache_bytes=2 * GIB)
    cgroup_1(tmp_path, "", 9223372036854771712, 11 * GIB)  # none
    assert room() == 6 * GIB


def test_controllers_whose_names_only_resemble_memory_do_not_count(room: Room, tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:memory2,hugememory:/pod\n")
    cgroup_1(tmp_path, "/pod", GIB, GIB)
    assert room() == 24 * GIB


@pytest.mark.parametrize("text", ["", "::::\n", "0:\n0::\n", "nonsense", "4:memory:" + "/x" * 4000, "\n\n"])
def test_a_cgroup_file_that_cannot_be_read_limits_nothing(room: Room, tmp_path: Path, text: str) -> None:
    write(tmp_path, "proc/self/cgroup", text)
    assert room() == 24 * GIB


def test_a_limit_that_cannot_be_read_limits_nothing(room: Room, tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/pod\n")
    cgroup_2(tmp_path, "/pod", "99999999999999999999999999", GIB)
    assert room() == 24 * GIB


def test_the_host_that_this_runs_on_has_room(programs: Path) -> None:
    assert 0 < room_and_limit(programs)[0] < 2**50


def test_a_process_is_limited_by_a_limit_at_any_level(limited: Callable[[], bool], tmp_path: Path) -> None:
    assert not limited()
    write(tmp_path, "proc/self/cgroup", "0::/pod/container\n")
    cgroup_2(tmp_path, "/pod/container", "max", GIB)
    assert not limited()
    cgroup_2(tmp_path, "/pod", str(2**40), GIB)
    assert limited()
