"""Processes come, die, fork and exec."""

import os
import signal
import time
from collections.abc import Callable

from emulator.tests.conftest import Cards

HOLD = """
    gpu = Gpu()
    call(driver.cuMemAlloc, 8 * GIB)
    {extra}
    print(json.dumps({value}), flush=True)
    sys.stdin.readline()
"""


def used_bytes(cards: Cards) -> int:
    return int(cards.run("from nvshare.emulator import account\nprint(account.totals().used_bytes)"))


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"


def test_a_killed_processs_memory_is_free_at_once(cards: Cards) -> None:
    holder = cards.start(HOLD.format(extra="", value="0"))
    holder.hear()
    assert used_bytes(cards) > 8 << 30
    holder.kill()
    assert used_bytes(cards) == 0


def test_a_killed_processs_pending_work_does_not_delay_others(cards: Cards) -> None:
    hog = cards.start(HOLD.format(extra='[gpu.launch("spin", 100_000_000) for _ in range(200)]', value="0"))
    hog.hear()
    other = cards.start("""
        gpu = Gpu()
        print("ready", flush=True)
        sys.stdin.readline()
        begin = time.monotonic()
        gpu.launch("spin", 200_000_000)
        call(driver.cuCtxSynchronize)
        print(time.monotonic() - begin)
    """)
    other.hear()
    hog.kill()
    other.say("go")
    assert other.result() < 0.3


def test_a_forked_child_keeps_its_dead_parents_memory(cards: Cards) -> None:
    parent = cards.start(
        HOLD.format(
            extra="child = os.fork()\n    if child == 0:\n        time.sleep(60)\n        os._exit(0)", value="child"
        )
    )
    child = int(parent.hear())
    try:
        parent.kill()
        held = cards.run("""
            import pynvml
            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            print(json.dumps([[p.pid, p.usedGpuMemory] for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]))
        """)
        assert held == [[parent.pid, (8 << 30) + (128 << 20)]]
    finally:
        os.kill(child, signal.SIGKILL)
    until(lambda: used_bytes(cards) == 0)


def test_a_forked_child_cannot_use_the_driver(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        child = os.fork()
        if child == 0:
            wrong = error_of(driver.cuInit, 0) != 3 or error_of(driver.cuMemAlloc, 8) != 3
            os._exit(1 if wrong else 0)
        print(os.waitpid(child, 0)[1])
    """)
    assert found == 0


def test_exec_gives_the_memory_back(cards: Cards) -> None:
    program = cards.start(
        HOLD.format(extra="", value="0") + '    os.execv("/bin/sh", ["sh", "-c", "echo changed; read line"])\n'
    )
    program.hear()
    program.say("go")
    assert program.hear() == "changed"
    assert used_bytes(cards) == 0


def test_the_account_keeps_what_a_process_had(cards: Cards) -> None:
    pid = cards.run("""
        gpu = Gpu()
        call(driver.cuMemAlloc, GIB)
        for _ in range(5):
            gpu.launch("spin", 10_000_000)
        call(driver.cuCtxSynchronize)
        print(os.getpid())
    """)
    account = cards.run("""
        from dataclasses import asdict
        from nvshare.emulator import account
        print(json.dumps(asdict(account.accounts()[0])))
    """)
    assert account["pid"] == pid
    assert not account["present"]
    assert account["peak_bytes"] == (1 << 30) + (128 << 20)
    assert account["busy_ns"] == 50_000_000
    assert account["launches"] == 5


def test_clients_that_are_killed_at_any_moment_leave_the_card_usable(cards: Cards) -> None:
    for _ in range(3):
        victims = [
            cards.start("""
                gpu = Gpu()
                call(driver.cuMemAlloc, GIB)
                print("busy", flush=True)
                while True:
                    for _ in range(50):
                        gpu.launch("spin", 1000)
                    call(driver.cuCtxSynchronize)
            """)
            for _ in range(3)
        ]
        for victim in victims:
            assert victim.hear() == "busy"
        for victim in victims:
            victim.kill()
    found = cards.run("""
        gpu = Gpu()
        gpu.launch("spin", 1_000_000)
        print(json.dumps([error_of(driver.cuCtxSynchronize), call(driver.cuMemGetInfo)[0]]))
    """)
    assert found == [0, (16 << 30) - (128 << 20)]
