"""Programs whose memory is moved to the node arena, with everything real but the card.

The node shares 256 MiB of its card; a program has 192 MiB.
"""

import json

import pytest

from live_node import MIB, MakeNode, Node, Workload, wait_until
from nvshare.bus.node_directory import NodeDirectory

CAPACITY_BYTES = 256 * MIB
PROGRAM_BYTES = 192 * MIB


@pytest.fixture
def node(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setenv("NVSHARE_GPU_MEMORY", str(CAPACITY_BYTES))
    options = ("--emulate", "1", "--gpu-memory", "4GiB", "--host-memory", "1GiB", "--quantum", "0.3")
    return make_node(*options)


def start_two(node: Node) -> list[Workload]:
    """Two programs in the middle of their turns, with the arena for their memory."""
    size = ("--memory-bytes", PROGRAM_BYTES, "--kernel-ns", 1_000_000, "--until-told")
    programs = [node.workload(name, *size, options=("--host-memory", "arena")) for name in ("one", "two")]
    for program in programs:
        program.ready()
    for program in programs:
        program.go()
    wait_until(lambda: int(node.gpu()["swapped_bytes"]) > PROGRAM_BYTES, 30, "a turn")
    return programs


def reserved_bytes(node: Node) -> int:
    """What the arena keeps for all programs."""
    records = json.loads(NodeDirectory(node.directory).relay_arena.read_text())
    return sum(int(record["reserved_bytes"]) for record in records)


@pytest.mark.heavy
def test_b1_programs_take_turns_through_the_arena_and_leave_nothing_in_it(node: Node) -> None:
    programs = start_two(node)
    assert reserved_bytes(node) >= PROGRAM_BYTES
    for program in programs:
        program.finish()
    wait_until(lambda: reserved_bytes(node) == 0, 5, "the arena is free again")


@pytest.mark.heavy
def test_e14_memory_in_the_arena_outlives_a_killed_relay(node: Node) -> None:
    programs = start_two(node)
    node.kill_service("relay")
    for program in programs:
        program.finish()
    wait_until(lambda: reserved_bytes(node) == 0, 5, "the arena is free again")
