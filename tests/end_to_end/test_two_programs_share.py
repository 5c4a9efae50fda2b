"""Two unmodified programs share a GPU through the library, the relay, NATS and the scheduler."""

import sys

import pytest

from live_node import GIB, MIB, MakeNode, wait_until


def test_a7_serial_mode_gives_the_lock_to_one_client_at_a_time(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1", "--mode", "serial", "--quantum", "0.3")
    one, two = node.puppet("one"), node.puppet("two")
    one.start("launch 2000000 500")  # a second of work
    two.start("launch 2000000 500")
    seen: list[int] = []
    while len(seen) < 20:
        clients = node.clients()
        if {"one", "two"} <= set(clients):
            seen.append(sum(client["state"] == "running" for client in clients.values()))
    assert max(seen) == 1
    assert one.answer()["error"] is None
    assert two.answer()["error"] is None
    assert all(int(client["hand_overs"]) >= 2 for client in node.clients().values())


@pytest.mark.heavy
def test_a7_a12_the_mode_changes_at_run_time_and_no_work_is_lost(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    one, two = node.puppet("one"), node.puppet("two")
    for puppet in (one, two):
        puppet.do(f"alloc {GIB}")
        puppet.do("fill 3")
    expected = one.do("sum")["sum"]
    one.start("launch 1000000 1500")
    two.start("launch 1000000 1500")
    for mode in ("serial", "concurrent", "off", "serial", "auto"):
        done = node.nvshare("mode", "0", mode)
        assert done.returncode == 0, done.stderr
        assert node.gpu()["mode"] == mode
    assert one.answer()["error"] is None
    assert two.answer()["error"] is None
    assert one.do("sum")["sum"] == two.do("sum")["sum"] == expected


def test_a12_off_with_more_than_fits_is_refused_with_the_sums(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1", "--gpu-memory", "16GiB")
    one, two = node.puppet("one"), node.puppet("two")
    one.do(f"alloc {12 * GIB}")
    two.start(f"alloc {12 * GIB}")
    wait_until(lambda: node.clients().get("two", {}).get("wait") == "memory", 5, "waiting for memory")
    done = node.nvshare("mode", "0", "off")
    assert done.returncode != 0
    assert "24.0 GiB" in done.stderr
    assert "16.0 GiB" in done.stderr or "GiB" in done.stderr
    one.do("free")
    assert two.answer()["error"] is None


def test_e12_memory_allocated_after_admission_waits_instead_of_overfilling_the_card(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1", "--gpu-memory", "16GiB")
    big, grower = node.puppet("big"), node.puppet("grower")
    big.do(f"alloc {11 * GIB}")
    grower.do(f"alloc {748 * MIB}")
    grower.start(f"alloc {11 * GIB}")
    wait_until(lambda: node.clients()["grower"].get("wait") == "memory", 5, "waiting for memory")
    big.do("launch 1000000 10")
    big.do("free")
    assert grower.answer()["error"] is None


def test_an_allocation_that_can_never_fit_gets_cuda_s_out_of_memory(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1", "--gpu-memory", "8GiB")
    puppet = node.puppet("greedy")
    puppet.start(f"alloc {9 * GIB}")
    assert puppet.answer()["error"] == "CUDA_ERROR_OUT_OF_MEMORY"
    puppet.do(f"alloc {GIB}")


def test_a2_a3_e11_each_gpu_has_its_own_lock(make_node: MakeNode) -> None:
    node = make_node("--emulate", "2", "--mode", "serial", "--quantum", "60")
    both, first = node.puppet("both", gpu="0,1"), node.puppet("first", gpu="0")
    first.do("launch 1000000000 3")  # three seconds of work: it holds GPU 0
    both.do("device 1")
    answer = both.do("launch 1000")
    assert answer["ended_ns"] - answer["started_ns"] < 500_000_000, "load on GPU 0 delayed GPU 1"
    both.do("device 0")
    both.start("launch 1000")
    wait_until(lambda: node.clients(0).get("both", {}).get("wait") == "turn", 2, "GPU 0 excludes them")
    assert both.answer()["error"] is None


def test_e16_status_shows_what_is_in_force_and_both_builds(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    node.puppet("program").do(f"alloc {GIB}")
    client = wait_until(lambda: node.clients().get("program"), 3, "the client")
    status = node.status()
    assert client["build"]
    assert client["version"]
    assert status["build"]
    assert status["relay_build"]
    table = node.nvshare("status").stdout
    assert "program" in table


def test_nvshare_run_ends_with_the_program_s_own_status(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    done = node.nvshare("run", "--", sys.executable, "-c", "raise SystemExit(3)")
    assert done.returncode == 3
