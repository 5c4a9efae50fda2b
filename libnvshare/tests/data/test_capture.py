"""Stream capture: the program's captures stay valid whatever our own marks do."""

import time

import pytest
from libnvshare.tests.data.conftest import DRAINING, MIB, Run, ScriptedRelay

MODES = ["GLOBAL", "THREAD_LOCAL", "RELAXED"]


@pytest.mark.parametrize("mode", MODES)
def test_captures_stay_valid_beside_launches_and_marks(mode: str, relay: ScriptedRelay, run: Run) -> None:
    program = run(
        f"""
        import threading
        gpu = Gpu()
        words = 1024
        block = gpu.allocate(4 * words)
        stop = threading.Event()

        def beside():  # launches and their marks, on another thread and stream
            gpu.use()
            stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
            while not stop.is_set():
                gpu.spin(MS // 10, stream)

        neighbour = threading.Thread(target=beside)
        neighbour.start()
        stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        for turn in range(1, 40):
            gpu.spin(MS // 20, stream)
            ok(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_{mode}))
            for value in range(20):
                gpu.launch("fill", block, words, 1, turn * 100 + value, 1000, stream=stream)
            graph = ok(driver.cuStreamEndCapture(stream))
            assert ok(driver.cuGraphGetNodes(graph))[1] == 20  # none of ours is in it
            exec = ok(driver.cuGraphInstantiate(graph, 0))
            ok(driver.cuGraphLaunch(exec, stream))
        stop.set()
        neighbour.join()
        ok(driver.cuStreamSynchronize(stream))
        say(right=gpu.read(block, 4 * words) == (39 * 100 + 19).to_bytes(4, "little") * words)
        """
    )
    start_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000  # slots: the gate opens and closes all the time
    relay.client_with_plan(window_us=2000, slot_start_us=start_us, slot_length_us=4000, period_us=5000)
    assert program.said() == {"right": True}
    program.end()


def test_a_launch_that_is_only_captured_passes_a_closed_gate_and_is_no_launch(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        gpu.spin(MS)
        gpu.synchronize()
        say(ready=True)
        hear()
        stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        ok(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL))
        for _ in range(10):
            gpu.spin(MS, stream)
        exec = ok(driver.cuGraphInstantiate(ok(driver.cuStreamEndCapture(stream)), 0))
        say(captured=True)
        ok(driver.cuGraphLaunch(exec, stream))
        ok(driver.cuStreamSynchronize(stream))
        say(replayed=True)
        hear()
        """
    )
    client = relay.client_with_plan()
    program.said()
    client.revoke()
    program.tell()
    assert program.said() == {"captured": True}
    assert program.silent(0.1)
    client.grant()
    assert program.said() == {"replayed": True}
    client.report_where(lambda report: report.launches == 2)
    program.tell()
    program.end()


def test_a_drain_after_a_capture_on_the_per_thread_stream_ends(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        own = driver.CU_STREAM_PER_THREAD
        gpu.spin(MS, own)
        ok(driver.cuStreamBeginCapture(own, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
        gpu.spin(MS, own)
        ok(driver.cuStreamEndCapture(own))
        say(ready=True)
        hear()
        """
    )
    client = relay.client_with_plan()
    program.said()
    assert client.revoke().drain_us < 100_000
    program.tell()
    program.end()


def test_the_legacy_stream_may_be_used_beside_a_capture_of_a_non_blocking_one(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        ok(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
        for _ in range(100):
            gpu.spin(MS // 50)
            gpu.spin(MS, stream)
        nodes = ok(driver.cuGraphGetNodes(ok(driver.cuStreamEndCapture(stream))))[1]
        gpu.synchronize()
        say(nodes=nodes)
        hear()
        """
    )
    client = relay.client_with_plan()
    assert program.said() == {"nodes": 100}
    assert client.revoke().drain_us < 100_000
    program.tell()
    program.end()


def test_streams_that_come_and_go_lose_no_work(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        import threading
        gpu = Gpu()
        def come_and_go():
            gpu.use()
            for _ in range(60):
                stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
                for _ in range(5):
                    gpu.spin(MS // 20, stream)
                    gpu.spin(MS // 20, driver.CU_STREAM_PER_THREAD)
                ok(driver.cuStreamDestroy(stream))  # with its work in flight
        threads = [threading.Thread(target=come_and_go) for _ in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        say(launched=True)
        hear()
        say(turns=turns())
        """
    )
    client = relay.client_with_plan()
    program.said()
    waiting = client.revoke()
    assert waiting.launches == 3 * 60 * 10
    program.tell()
    turns = program.said()["turns"]
    assert turns[-1][1] <= waiting.monotonic_ns
    program.end()


# A capture in the strictest mode, which an unsafe call of any thread makes invalid, from one word to the next.
CAPTURE = """
    stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
    hear()
    ok(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL))
    gpu.spin(MS, stream)
    say(capturing=True)
    hear()
    say(captured=error_of(driver.cuStreamEndCapture(stream)))
"""


def test_captures_stay_valid_while_the_control_thread_looks_at_work(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        f"""
    import ctypes
    gpu = Gpu()
    memory = int(ok(driver.cuMemHostAlloc(4, 0)))
    word = ctypes.c_uint32.from_address(memory)
    word.value = 0
    held = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
    gpu.spin(MS, held)
    ok(driver.cuStreamWaitValue32(held, memory, 1, driver.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_EQ))
    {CAPTURE}
    word.value = 1
    """
    )
    client = relay.client_with_plan()
    program.tell()
    assert program.said() == {"capturing": True}
    epoch = client.grant(may_launch=False)
    client.report_where(lambda report: report.epoch == epoch and report.state == DRAINING)
    assert program.silent(0.1)  # a drain looks ten thousand times a second
    program.tell()
    assert program.said() == {"captured": "CUDA_SUCCESS"}
    program.end()


def test_captures_stay_valid_while_host_memory_is_registered(relay: ScriptedRelay, run: Run) -> None:
    program = run(f"\n    gpu = Gpu()\n    gpu.allocate(64 * MIB)\n    {CAPTURE}")
    client = relay.client_with_plan()
    program.tell()
    assert program.said() == {"capturing": True}
    client.grant(pool_bytes=64 * MIB)
    client.report_where(lambda report: report.pool_bytes >= 64 * MIB)
    program.tell()
    assert program.said() == {"captured": "CUDA_SUCCESS"}
    program.end()


def test_captures_stay_valid_while_the_memory_of_another_gpu_moves(relay: ScriptedRelay, run: Run) -> None:
    link = {"NVSHARE_EMULATOR_LINK_BYTES_PER_SECOND": str(256 * MIB)}
    program = run(
        f"""
    gpu, other = Gpu(0), Gpu(1)
    gpu.use()
    gpu.spin(MS)
    hear()
    other.use()
    for _ in range(6):
        other.allocate(64 * MIB)
    gpu.use()
    say(allocated=True)
    {CAPTURE}
    """,
        NVSHARE_EMULATOR_DEVICES="2",
        **link,
    )
    client = relay.client_with_plan()
    first = client.gpu()
    program.tell()
    second = client.report_where(lambda report: report.gpu != first).gpu
    client.grant(second)
    program.said()
    client.grant(second, may_launch=False, resident_bytes=0)
    client.report_where(lambda report: report.gpu == second and 0 < report.swapped_out_bytes < report.needed_bytes)
    program.tell()
    assert program.said() == {"capturing": True}
    since = len(client.reports)
    client.report_where(lambda report: report.gpu == second and report.swapped_out_bytes < report.needed_bytes, since)
    client.report_where(lambda report: report.gpu == second and report.resident_bytes == 0 < report.needed_bytes)
    program.tell()
    assert program.said() == {"captured": "CUDA_SUCCESS"}
    program.end()
