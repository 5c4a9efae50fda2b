"""The gate: what waits for a grant, what does not, and that nothing follows a revocation."""

import time

import pytest
from libnvshare.tests.data.conftest import DRAINING, RUNNING, WAITING, Program, Run, ScriptedRelay

from nvshare.v1.client_pb2 import Mode

MS = 1_000_000

# Prepares `gpu`, a block of memory and an instantiated graph under an open plan, then waits for the test's word.
PREPARED = """
    gpu = Gpu()
    block = gpu.allocate(MIB)
    stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
    ok(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
    gpu.spin(MS, stream)
    graph = ok(driver.cuGraphInstantiate(ok(driver.cuStreamEndCapture(stream)), 0))
    plane = driver.CUDA_MEMCPY2D()
    plane.srcMemoryType = plane.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
    plane.srcDevice, plane.dstDevice = block, block + 4096
    plane.WidthInBytes, plane.Height = 64, 2
    gpu.synchronize()
    say(ready=True)
    hear()
    {call}
    say(passed=True)
    gpu.synchronize()
"""


def prepared(relay: ScriptedRelay, run: Run, call: str) -> Program:
    """A program that is to make this call once its grant for launches was taken away."""
    program = run(PREPARED.format(call=call))
    client = relay.client_with_plan()
    assert program.said() == {"ready": True}
    client.revoke()
    program.tell()
    return program


def test_a_launch_waits_for_the_first_grant_and_goes_on_with_it(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        gpu.spin(MS)
        say(launched=True)
        gpu.synchronize()
        """
    )
    client = relay.client()
    assert client.report_where(lambda report: report.demand).state == WAITING
    assert program.silent(0.2)
    epoch = client.grant()
    assert program.said() == {"launched": True}
    assert client.report_where(lambda report: report.epoch == epoch).state == RUNNING
    program.end()


@pytest.mark.parametrize(
    "call",
    [
        "gpu.spin(MS)",
        "ok(driver.cuGraphLaunch(graph, stream))",
        "ok(driver.cuMemsetD32(block, 7, 16))",
        "ok(driver.cuMemsetD32Async(block, 7, 16, stream))",
        "ok(driver.cuMemcpyDtoD(block, block + 4096, 64))",
        "ok(driver.cuMemcpy(block, block + 4096, 64))",
        "ok(driver.cuMemcpy2D(plane))",
    ],
)
def test_what_runs_on_the_card_waits_while_the_gate_is_closed(call: str, relay: ScriptedRelay, run: Run) -> None:
    program = prepared(relay, run, call)
    assert program.silent(0.1)
    relay.latest().grant()
    assert program.said() == {"passed": True}
    program.end()


@pytest.mark.parametrize(
    "call",
    [
        "ok(driver.cuMemcpyHtoD(block, bytes(64), 64))",
        "ok(driver.cuMemcpyHtoDAsync(block, bytes(64), 64, stream))",
        "gpu.read(block, 64)",
        "ok(driver.cuGraphUpload(graph, stream))",
    ],
)
def test_copies_between_host_and_card_pass_a_gate_closed_for_launches(
    call: str, relay: ScriptedRelay, run: Run
) -> None:
    program = prepared(relay, run, call)
    assert program.said() == {"passed": True}
    program.end()


def test_no_kernel_runs_after_the_report_that_says_waiting(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        import threading
        gpu = Gpu()
        words = 4096
        blocks = [gpu.allocate(4 * words) for _ in range(3)]
        rounds = [0] * len(blocks)
        stop = threading.Event()

        def storm(index):
            gpu.use()
            stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
            while not stop.is_set():
                rounds[index] += 1
                gpu.launch("fill", blocks[index], words, 1, rounds[index], MS // 5, stream=stream)
            ok(driver.cuStreamSynchronize(stream))

        threads = [threading.Thread(target=storm, args=(index,)) for index in range(len(blocks))]
        [thread.start() for thread in threads]
        say(ready=True)
        hear()
        stop.set()
        [thread.join() for thread in threads]
        wanted = [count.to_bytes(4, "little") * words for count in rounds]
        right = [gpu.read(block, 4 * words) == data for block, data in zip(blocks, wanted)]
        say(turns=turns(), right=right, rounds=rounds)
        """
    )
    client = relay.client_with_plan()
    program.said()
    closed: list[tuple[int, int]] = []  # from the report to just before the next grant
    for _ in range(12):
        time.sleep(0.03)  # lets the storm run: the length of a turn
        report = client.revoke()
        assert report.drain_us < 200_000
        time.sleep(0.02)  # the length of the time away
        closed.append((report.monotonic_ns, time.clock_gettime_ns(time.CLOCK_MONOTONIC)))
        client.grant()
    program.tell()
    words = program.said()
    late = [(start, end, away) for start, end in words["turns"] for away in closed if start < away[1] and end > away[0]]
    assert not late
    assert min(words["rounds"]) > 12
    assert words["right"] == [True, True, True]
    program.end()


def test_a_grant_that_is_not_newer_changes_nothing(relay: ScriptedRelay, run: Run) -> None:
    program = run("gpu = Gpu()\nwhile hear(): gpu.spin(MS); say(launched=True)")
    program.tell()
    client = relay.client()
    client.grant(generation=2, epoch=5, sequence=3)
    program.said()
    for generation, epoch, sequence in ((1, 9, 1), (2, 4, 9), (2, 5, 3)):
        client.grant(may_launch=False, generation=generation, epoch=epoch, sequence=sequence)
    client.grant(generation=2, epoch=5, sequence=4)  # a resend; its report comes after those were read
    client.report_where(lambda report: report.epoch == 5 and report.state == RUNNING, since=len(client.reports))
    program.tell()
    assert program.said() == {"launched": True}
    client.grant(generation=3, epoch=1, may_launch=False)  # a new life of the scheduler
    client.report_where(lambda report: report.generation == 3 and report.state == WAITING)
    program.tell()
    assert program.silent(0.1)


def test_a_drain_waits_for_the_work_in_flight_and_tells_how_long(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        gpu.spin(300 * MS)
        say(launched=True)
        gpu.synchronize()
        say(turns=turns())
        """
    )
    client = relay.client_with_plan()
    program.said()
    epoch = client.grant(may_launch=False)
    client.report_where(lambda report: report.epoch == epoch and report.state == DRAINING)
    waiting = client.report_where(lambda report: report.epoch == epoch and report.state == WAITING)
    assert waiting.monotonic_ns >= program.said()["turns"][-1][1]
    assert 100_000 < waiting.drain_us < 320_000
    program.end()


def test_copies_that_go_on_do_not_hold_up_a_drain(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        import threading
        gpu = Gpu()
        block = gpu.allocate(64 * MIB)
        staging = bytearray(64 * MIB)
        stop = threading.Event()

        def feed():
            gpu.use()
            stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
            while not stop.is_set():
                ok(driver.cuMemcpyHtoDAsync(block, staging, 64 * MIB, stream))

        feeder = threading.Thread(target=feed)
        feeder.start()
        gpu.spin(MS)
        say(ready=True)
        hear()
        stop.set()
        feeder.join()
        gpu.synchronize()
        """
    )
    client = relay.client_with_plan()
    program.said()
    assert client.revoke().drain_us < 100_000
    program.tell()
    program.end()


def test_demand_ends_with_the_work_and_begins_with_the_next_launch(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        while hear():
            gpu.spin(60 * MS)
            gpu.synchronize()
            say(end_ns=turns()[-1][1])
        """
    )
    program.tell()
    client = relay.client_with_plan(mode=Mode.MODE_SERIAL, window_us=5000)
    since = 0
    delays_ns = []
    for _ in range(5):
        end_ns = program.said()["end_ns"]
        client.report_where(lambda report: report.demand and report.state == RUNNING, since)
        idle = client.report_where(lambda report: report.state == RUNNING and not report.demand, since)
        delays_ns.append(idle.monotonic_ns - end_ns)
        since = client.reports.index(idle) + 1
        program.tell()
    assert min(delays_ns) > 0
    assert min(delays_ns) < 10 * MS, "the host may stand still now and then; at its best the library is prompt"
    assert client.report_where(lambda report: report.busy_us > 100_000).launches >= 2
