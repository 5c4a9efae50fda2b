"""Memory that cannot move, or not yet, or while something else happens: the program stays whole, with its data."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from libnvshare.tests.data.conftest import MIB, RUNNING, STUCK, WAITING, Run, ScriptedRelay
from libnvshare.tests.data.moving import CHECKS, FILLED, bring_back, end_right, move

from nvshare.emulator import account, library_directory


def test_a_kernel_that_does_not_end_keeps_the_memory_and_when_it_ends_the_memory_goes(
    relay: ScriptedRelay, run: Run
) -> None:
    program = run(FILLED.format(sizes="[64]") + "    gpu.spin(7000 * MS)\n    say(launched=True)\n    hear()\n")
    client = relay.client_with_plan()
    program.said()
    program.said()
    epoch = client.grant(may_launch=False, resident_bytes=0)
    stuck = client.report_where(lambda report: report.epoch == epoch and report.state == STUCK)
    assert stuck.resident_bytes == stuck.needed_bytes
    client.report_where(lambda report: report.resident_bytes == 0)
    program.tell()
    program.end()


def test_an_open_capture_keeps_the_memory_until_it_ends(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        FILLED.format(sizes="[64]")
        + """
    stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
    ok(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
    gpu.launch("fill", blocks[0][0], blocks[0][1] // 4, STRIDE, 5, 1000, stream=stream)
    say(capturing=True)
    hear()
    graph = ok(driver.cuStreamEndCapture(stream))
    hear()
    launchable = ok(driver.cuGraphInstantiate(graph, 0))
    ok(driver.cuGraphLaunch(launchable, stream))
    ok(driver.cuStreamSynchronize(stream))
    say(right=sums() == expected(5))
    """
    )
    client = relay.client_with_plan()
    program.said()
    program.said()
    since = len(client.reports)
    epoch = client.grant(may_launch=False, resident_bytes=0)
    closed = client.report_where(lambda report: report.epoch == epoch and report.state == WAITING, since)
    assert closed.resident_bytes == closed.needed_bytes
    assert program.silent(0.1)
    assert client.reports[-1].resident_bytes == closed.needed_bytes
    program.tell()
    client.report_where(lambda report: report.resident_bytes == 0, since)
    bring_back(client)
    program.tell()
    assert program.said() == {"right": True}
    program.end()


def test_who_waits_at_the_gate_with_an_open_capture_says_that_it_keeps_the_memory(
    relay: ScriptedRelay, run: Run
) -> None:
    program = run(
        FILLED.format(sizes="[64]")
        + """
    import threading
    stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
    ok(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
    say(capturing=True)
    hear()
    threading.Thread(target=lambda: (gpu.use(), gpu.spin(MS), gpu.synchronize())).start()
    hear()
    ok(driver.cuStreamEndCapture(stream))
    """
        + CHECKS
    )
    client = relay.client_with_plan()
    program.said()
    program.said()
    epoch = client.grant(may_launch=False, resident_bytes=0)
    program.tell()
    kept = client.report_where(  # and that it wants its turn
        lambda report: report.epoch == epoch and report.swap_failures > 0 and report.demand
    )
    assert (kept.state, kept.resident_bytes) == (WAITING, kept.needed_bytes)
    assert "stream capture" in kept.swap_failure
    since = len(client.reports)
    program.tell()
    client.report_where(lambda report: report.resident_bytes == 0, since)
    bring_back(client)
    end_right(program)


@pytest.mark.parametrize("count", [1, 100])
def test_captures_end_with_their_context_and_keep_nothing(count: int, relay: ScriptedRelay, run: Run) -> None:
    program = run(
        FILLED.format(sizes="[64]")
        + f"""
    other = ok(driver.cuCtxCreate(None, 0, 0))
    for _ in range({count}):
        stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        ok(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
    ok(driver.cuCtxDestroy(other))
    gpu.use()
    say(destroyed=True)
    """
        + CHECKS
    )
    client = relay.client_with_plan()
    program.said()
    program.said()
    move(client, 0)
    bring_back(client)
    end_right(program)


@pytest.mark.parametrize("call", ["gpu.launch('fill', blocks[0][0], 1, 1, 1, 1000)", "gpu.allocate(64 * MIB)"])
def test_a_program_whose_context_is_lost_learns_it_before_its_turn_comes(
    call: str, relay: ScriptedRelay, run: Run
) -> None:
    program = run(
        FILLED.format(sizes="[64]")
        + f"""
    gpu.launch("fill", 4096, 1, 1, 1, 1000)
    say(faulted=error_of(driver.cuCtxSynchronize()))
    hear()
    try:
        {call}
    except DriverError as error:
        say(error=error.name)
    """
    )
    client = relay.client_with_plan()
    program.said()
    assert program.said() == {"faulted": "CUDA_ERROR_ILLEGAL_ADDRESS"}
    client.grant(may_launch=False, resident_bytes=0)
    client.report_where(lambda report: report.swap_failures > 0)
    program.tell()
    assert program.said() == {"error": "CUDA_ERROR_ILLEGAL_ADDRESS"}
    program.end()


def test_a_card_that_is_full_although_promised_leaves_the_data_in_host_memory_until_it_is_not(
    relay: ScriptedRelay, run: Run
) -> None:
    program = run(FILLED.format(sizes="[256] * 4") + CHECKS, NVSHARE_EMULATOR_MEMORY="2GiB")
    client = relay.client_with_plan()
    program.said()
    move(client, 0)
    stranger = run(
        """
        gpu = Gpu()
        held = gpu.allocate(1200 * MIB)
        say(held=True)
        hear()
        """,
        preload="",
    )
    assert stranger.said() == {"held": True}
    client.grant()
    failed = client.report_where(lambda report: report.swap_failures > 0)
    assert "card" in failed.swap_failure
    assert failed.resident_bytes < failed.needed_bytes
    stranger.tell()
    stranger.end()
    client.report_where(lambda report: report.resident_bytes == report.needed_bytes, len(client.reports) - 1)
    end_right(program)


def test_the_end_of_the_context_that_it_copies_in_leaves_the_others_whole(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        FILLED.format(sizes="[64, 64]")
        + """
    other = ok(driver.cuCtxCreate(None, 0, 0))
    held = gpu.allocate(32 * MIB)
    say(other=True)
    hear()
    ok(driver.cuCtxDestroy(other))
    gpu.use()
    say(destroyed=True)
    while hear() == "check":
        say(right=sums() == expected(5))
    """
    )
    client = relay.client_with_plan()
    program.said()
    program.said()
    move(client, 0)
    program.tell()
    program.said()
    bring_back(client)
    program.tell("check")
    assert program.said() == {"right": True}
    move(client, 0)
    bring_back(client)
    end_right(program)


def test_a_fork_while_memory_is_away_leaves_the_parent_whole(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        FILLED.format(sizes="[64, 64]")
        + """
    import subprocess
    hear()
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    say(forked=True)
    """
        + CHECKS
    )
    client = relay.client_with_plan()
    program.said()
    move(client, 0)
    program.tell()
    program.said()
    bring_back(client)
    end_right(program)


@pytest.mark.parametrize("kinds", [("copy in", "unmap"), ("access", "unmap")], ids=" and ".join)
def test_memory_that_can_neither_come_nor_be_unmapped_comes_at_the_next_try(
    kinds: tuple[str, str], relay: ScriptedRelay, run: Run, programs: Path
) -> None:
    program = run(
        FILLED.format(sizes="[64, 64]")
        + f"""
    import ctypes
    driver_library = ctypes.CDLL("libcuda.so.1")
    hear()
    for kind in {kinds}:
        driver_library.fail_next(kind.encode(), 1)
    say(failing=True)
    """
        + CHECKS,
        LD_LIBRARY_PATH=f"{programs / 'faulty'}:{library_directory()}",
    )
    client = relay.client_with_plan()
    program.said()
    away = move(client, 0)
    program.tell()
    assert program.said() == {"failing": True}
    client.grant()
    client.report_where(lambda report: report.swap_failures > away.swap_failures)
    client.report_where(lambda report: report.state == RUNNING, len(client.reports) - 1)
    end_right(program)


def test_too_little_host_memory_keeps_on_the_card_what_cannot_leave_and_says_so(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        FILLED.format(sizes="[256] * 4")
        + """
    import resource
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 900 * MIB, -1))
    say(limited=True)
    while hear() == "check":
        say(right=sums() == expected(5))
    """
    )
    client = relay.client_with_plan()
    program.said()
    program.said()
    client.grant(may_launch=False, resident_bytes=0)
    failed = client.report_where(lambda report: report.swap_failures > 0 and report.swapped_out_bytes > 0)
    assert "host memory" in failed.swap_failure
    assert 0 < failed.resident_bytes < failed.needed_bytes
    assert failed.swapped_out_bytes == failed.needed_bytes - failed.resident_bytes
    bring_back(client)
    end_right(program)


def test_e11_while_memory_is_away_a_device_that_may_access_it_waits_too(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        one, two = Gpu(0), Gpu(1)
        one.use()
        block = one.allocate(64 * MIB)
        one.launch("fill", block, 16 * MIB, 1021, 7, 1000)
        one.synchronize()
        two.use()
        out = two.allocate(MIB)
        ok(driver.cuCtxEnablePeerAccess(one.context, 0))
        two.synchronize()
        say(ready=True)
        while hear() == "sum":
            two.launch("checksum", out, block, 16 * MIB, 1021, 1000)
            say(sum=int.from_bytes(two.read(out, 8), "little"))
        """,
        NVSHARE_EMULATOR_DEVICES="2",
    )
    client = relay.client_with_plan()
    first = client.gpu()
    second = client.report_where(lambda report: report.gpu != first).gpu
    client.grant(second)
    assert program.said() == {"ready": True}
    client.grant(first, may_launch=False, resident_bytes=0)
    client.report_where(
        lambda report: report.gpu == first and report.resident_bytes == 0 and report.swapped_out_bytes > 0
    )
    program.tell("sum")
    assert program.silent(0.1)
    client.grant(first)
    assert program.said() == {"sum": 7 * sum(range(1, 16 * MIB + 1, 1021))}
    program.tell("end")
    program.end()


def copies_of(folder: Path) -> list[account.Copy]:
    """The completed copies of the first card there. Read in a process of its own: the account's folder is that of the
    environment at the first look."""
    program = (
        "import dataclasses, json; from nvshare.emulator import account; "
        "print(json.dumps([dataclasses.asdict(copy) for copy in account.copies()]))"
    )
    environment = {**os.environ, "NVSHARE_EMULATOR_DIR": str(folder)}
    read = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    return [account.Copy(**copy) for copy in json.loads(read)]


@pytest.mark.alone
def test_one_process_goes_out_while_another_comes_in(relay: ScriptedRelay, run: Run) -> None:
    link = {"NVSHARE_EMULATOR_LINK_BYTES_PER_SECOND": str(256 * MIB)}
    one, other = (run(FILLED.format(sizes="[64] * 6") + CHECKS, **link) for _ in range(2))
    clients = [relay.client_with_plan(), relay.client_with_plan()]
    for program in (one, other):
        program.said()
    first, second = clients
    move(first, 0)
    since_ns = time.monotonic_ns()
    second.grant(may_launch=False, resident_bytes=0)
    bring_back(first)
    second.report_where(lambda report: report.resident_bytes == 0 and report.swapped_out_bytes > 0)
    copies = [copy for copy in copies_of(relay.path.parent / "cards") if copy.start_ns > since_ns and copy.bytes >= MIB]
    out = [(copy.start_ns, copy.end_ns) for copy in copies if copy.out]
    back = [(copy.start_ns, copy.end_ns) for copy in copies if not copy.out]
    overlap_ns = max(0, min(out[-1][1], back[-1][1]) - max(out[0][0], back[0][0]))
    assert overlap_ns > 0.5 * min(out[-1][1] - out[0][0], back[-1][1] - back[0][0])
    bring_back(second)
    for program in (one, other):
        program.tell("check")
        assert program.said() == {"right": True}
        program.tell("end")
        program.end()
