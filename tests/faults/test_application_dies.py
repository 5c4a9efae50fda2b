"""An application is killed while it holds the lock (design, section 10; issue A, must show 5)."""

import os
import signal

import pytest

from live_node import GIB, MIB, MakeNode, Node, wait_until

pytestmark = [pytest.mark.heavy, pytest.mark.alone]

MILLISECOND_NS = 1_000_000
NEXT_RUNS_WITHIN_NS = 100 * MILLISECOND_NS
LONG_NS = 60_000 * MILLISECOND_NS  # a kernel that would outlast the test


def serial_node(make_node: MakeNode) -> Node:
    return make_node("--emulate", "1", "--gpu-memory", "16GiB", "--mode", "serial", "--quantum", "60")


def held_by(node: Node, pid: int) -> int:
    """Bytes that status names as this process's, without a living client."""
    return sum(int(holder["bytes"]) for holder in node.gpu()["holders"] if holder["pid"] == pid)


def test_the_next_client_runs_within_100_ms_of_the_kill(make_node: MakeNode) -> None:
    node = serial_node(make_node)
    holder, waiter = node.puppet("holder"), node.puppet("waiter")
    holder.do(f"alloc {GIB}")
    holder.do(f"launch {LONG_NS}")
    waiter.start("launch 1000")
    wait_until(lambda: node.clients().get("waiter", {}).get("wait") == "turn", 5, "waiting for the turn")
    killed_ns = holder.kill()
    answer = waiter.answer()
    assert answer["error"] is None
    assert answer["ended_ns"] - killed_ns <= NEXT_RUNS_WITHIN_NS


def test_the_next_client_runs_within_100_ms_when_forked_workers_live_on(make_node: MakeNode) -> None:
    node = serial_node(make_node)
    holder, waiter = node.puppet("holder"), node.puppet("waiter")
    holder.do(f"alloc {GIB}")
    child = holder.do("fork")["child"]
    try:
        holder.do(f"launch {LONG_NS}")
        waiter.start("launch 1000")
        wait_until(lambda: node.clients().get("waiter", {}).get("wait") == "turn", 5, "waiting for the turn")
        killed_ns = holder.kill()
        assert waiter.answer()["ended_ns"] - killed_ns <= NEXT_RUNS_WITHIN_NS
    finally:
        os.kill(child, signal.SIGKILL)


def test_memory_that_forked_workers_keep_is_named_and_not_promised_again_before_it_is_free(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1", "--gpu-memory", "16GiB")
    parent, other = node.puppet("parent"), node.puppet("other")
    parent.do(f"alloc {10 * GIB}")
    child = parent.do("fork")["child"]
    parent.kill()
    other.start(f"alloc {10 * GIB}")
    wait_until(lambda: held_by(node, parent.pid) >= 10 * GIB, 5, "the dead client's memory named")
    assert node.clients()["other"]["wait"] == "memory"
    os.kill(child, signal.SIGKILL)
    assert other.answer()["error"] is None
    wait_until(lambda: not held_by(node, parent.pid), 5, "nobody named")


def test_a_waiting_allocation_gets_a_dead_client_s_memory_within_50_ms(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1", "--gpu-memory", "16GiB")
    first, second = node.puppet("first"), node.puppet("second")
    first.do(f"alloc {10 * GIB}")
    second.start(f"alloc {10 * GIB}")
    wait_until(lambda: node.clients().get("second", {}).get("wait") == "memory", 5, "waiting for memory")
    killed_ns = first.kill()
    # The driver frees a dead process's memory once the kernel has closed its files; the emulated one at once.
    assert second.answer()["ended_ns"] - killed_ns <= 100 * MILLISECOND_NS
    second.do(f"alloc {MIB}")
