"""The arena of addresses: arena.h against plain lists, and how much memory it needs for what is allocated."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libnvshare.tests.data.conftest import MIB

PLENTY_MIB = 1 << 20

History = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def history(programs: Path) -> History:
    """Runs a random history, compared with a list at every step; returns the figures at its height and after half."""

    def run(pattern: str, steps: int, *, seed: int = 1, room_mib: int = PLENTY_MIB) -> dict[str, Any]:
        command = [str(programs / "arena_history"), pattern, str(steps), str(seed), str(room_mib)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        figures: dict[str, Any] = json.loads(done.stdout)
        return figures

    return run


@settings(max_examples=40, deadline=None)
@given(
    pattern=st.sampled_from(["pytorch", "odd", "small", "mixed", "apart"]),
    steps=st.integers(1, 400),
    seed=st.integers(0, 2**32),
    room_mib=st.sampled_from([0, 1, 30, PLENTY_MIB]),
)
def test_any_history_agrees_with_a_list(history: History, pattern: str, steps: int, seed: int, room_mib: int) -> None:
    history(pattern, steps, seed=seed, room_mib=room_mib)


@pytest.mark.parametrize("pattern", ["pytorch", "odd", "mixed"])
def test_a11_what_is_needed_stays_close_to_what_is_allocated(history: History, pattern: str) -> None:
    figures = history(pattern, 4000)
    assert figures["needed_bytes"] <= 1.04 * figures["footprint_bytes"] + 64 * MIB
    assert figures["half_needed_bytes"] <= 1.15 * figures["half_footprint_bytes"] + 64 * MIB


def test_where_there_is_no_room_extents_are_exact(history: History) -> None:
    figures = history("pytorch", 4000, room_mib=0)
    assert figures["needed_bytes"] == figures["footprint_bytes"]
    assert figures["half_needed_bytes"] == figures["half_footprint_bytes"]


def test_neighbouring_allocations_share_extents(history: History) -> None:
    figures = history("pytorch", 4000)
    assert figures["extents"] <= 0.6 * figures["blocks"]


def test_a_hundred_thousand_small_blocks_are_quick_and_dense(history: History) -> None:
    figures = history("small", 200_000)
    assert figures["blocks"] > 90_000
    assert figures["needed_bytes"] <= 1.25 * figures["footprint_bytes"] + 64 * MIB
    assert figures["seconds"] < 20
