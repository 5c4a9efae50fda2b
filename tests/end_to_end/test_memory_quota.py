"""B1, B2, B9, B10: the memory quota of an allocation, over all its processes, changed while they run."""

import sys
from pathlib import Path

from live_node import GIB, MIB, MakeNode, Node, wait_until

FAMILY = """
import subprocess, sys
children = [subprocess.Popen([sys.executable, sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(4)]
for child in children:
    child.stdout.readline()
for child in children:
    child.stdin.write(f"alloc {2 * 2**30}\\n")
    child.stdin.flush()
    print(child.stdout.readline(), end="", flush=True)
for child in children:
    child.stdin.write("launch 1000\\n")
    child.stdin.flush()
    print(child.stdout.readline(), end="", flush=True)
    child.stdin.close()
    child.wait()
"""


def set_quota(node: Node, memory: str) -> None:
    done = node.nvshare("quota", "set", "program", "--memory", memory)
    assert done.returncode == 0, done.stderr


def test_b2_four_processes_of_2_gib_under_4_gib_the_third_is_refused_and_all_live_on(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    puppet = Path(__file__).parents[1] / "programs" / "puppet.py"
    done = node.nvshare("run", "--memory", "4Gi", "--", sys.executable, "-c", FAMILY, str(puppet))
    assert done.returncode == 0, done.stderr
    allocated = [line.count("CUDA_ERROR_OUT_OF_MEMORY") for line in done.stdout.splitlines()[:4]]
    assert allocated == [0, 0, 1, 1]
    assert done.stdout.splitlines()[4:] != []
    assert "ERROR" not in "".join(done.stdout.splitlines()[4:])


def test_b1_an_allocation_beyond_the_quota_gets_cuda_s_error_and_the_answers_follow_it(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    puppet = node.puppet("program", options=["--memory", "4GiB"])
    puppet.do(f"alloc {3 * GIB}")
    info = puppet.do("info")
    assert (info["total_bytes"], info["free_bytes"]) == (4 * GIB, GIB)
    puppet.start(f"alloc {2 * GIB}")
    assert puppet.answer()["error"] == "CUDA_ERROR_OUT_OF_MEMORY"
    puppet.do(f"alloc {GIB}")


def test_b9_b10_a_quota_changes_both_ways_while_the_program_runs(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    puppet = node.puppet("program", options=["--memory", "2GiB"])
    puppet.do(f"alloc {GIB}")
    set_quota(node, "6GiB")
    wait_until(lambda: puppet.do("info")["total_bytes"] == 6 * GIB, 1, "the higher quota in force")
    puppet.do(f"alloc {4 * GIB}")
    set_quota(node, "3GiB")
    wait_until(lambda: puppet.do("info")["total_bytes"] == 3 * GIB, 1, "the lower quota in force")
    puppet.start(f"alloc {MIB}")
    assert puppet.answer()["error"] == "CUDA_ERROR_OUT_OF_MEMORY", "new memory is refused until use falls"
    puppet.do("launch 1000")
    puppet.do("free")
    puppet.do(f"alloc {GIB}")
    set_quota(node, "none")
    puppet.do(f"alloc {8 * GIB}")
    assert "quota-changed" in (node.directory / "logs" / "scheduler.log").read_text()


def test_b11_a_bad_quota_is_refused_with_one_line_and_the_last_one_stays(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    puppet = node.puppet("program", options=["--memory", "2GiB"])
    puppet.do(f"alloc {GIB}")
    for bad in ("-1", "abc", "0", "500GiB"):
        done = node.nvshare("quota", "set", "program", "--memory", bad)
        assert done.returncode != 0
        assert len(done.stderr.strip().splitlines()) == 1
    assert puppet.do("info")["total_bytes"] == 2 * GIB
