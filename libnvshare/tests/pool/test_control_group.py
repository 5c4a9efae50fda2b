"""Host memory in a container's bounds: a real control group whose limit is far below what is moved to host memory."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from libnvshare.tests.pool.conftest import MIB, SLOT, Arena, Pool, environment

LIMIT_BYTES = 320 * MIB
SLOTS = 48  # 768 MiB


def _make_group(name: str) -> Path | None:
    """A new control group with the limit, of version 1 or 2; None: this system has none."""
    for root, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
        (Path("/sys/fs/cgroup/unified"), "memory.max"),
    ):
        folder = root / name
        with contextlib.suppress(OSError):
            if limit == "memory.max":
                (root / "cgroup.subtree_control").write_text("+memory")
            folder.mkdir()
            try:
                (folder / limit).write_text(str(LIMIT_BYTES))
                return folder
            except OSError:
                folder.rmdir()
    return None


@pytest.fixture
def program(programs: Path) -> Path:
    return programs / "pool_program"


@pytest.fixture
def group() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    folder = _make_group(f"nvshare-test-{os.getpid()}")
    if folder is None:
        pytest.skip("needs a memory control group")
    yield folder
    folder.rmdir()


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    arena = Arena(tmp_path)
    yield arena
    arena.kill()


def start_in(group: Path, program: Path, folder: Path, **variables: str) -> Pool:
    """A pool's process in a group, with context 0."""
    entering = folder / "enter"
    entering.write_text(f'#!/bin/sh\necho $$ > "{group}/cgroup.procs"\nexec "{program}"\n')
    entering.chmod(0o755)
    pool = Pool(entering, environment(folder, **variables), folder / "stderr")
    pool.do("make", 0)
    return pool


def test_b1_a_limited_process_moves_more_than_its_limit_through_the_arena(
    group: Path,
    arena: Arena,
    program: Path,
    tmp_path: Path,
) -> None:
    """It finds by itself that it is limited, and the arena: nothing is set."""
    pool = start_in(group, program, tmp_path)
    slots = pool.take(0, SLOTS)
    slots.fill(7)
    assert slots.hold(7)
    assert slots.are_pinned()
    arena.until(lambda reserved, made: made == SLOTS * SLOT)
    pool.end()


def test_e9_without_the_arena_it_is_refused_and_lives(
    group: Path,
    arena: Arena,
    program: Path,
    tmp_path: Path,
) -> None:
    pool = start_in(group, program, tmp_path, NVSHARE_HOST_MEMORY="own")
    assert pool.bytes("room") < LIMIT_BYTES
    kept = pool.take(0, 2)
    kept.fill(3)
    assert "more host memory (its cgroup, its limits and the host)" in pool.refusal(0, SLOTS)
    assert kept.hold(3)
    pool.end()
