"""Stream capture and graphs, with the driver's own errors."""

from emulator.tests.conftest import Cards

ILLEGAL_STATE = 401
UNSUPPORTED = 900
INVALIDATED = 901
UNJOINED = 904
ISOLATION = 905
IMPLICIT = 906
CAPTURED_EVENT = 907

CAPTURE = """
    gpu = Gpu()
    mode = driver.CUstreamCaptureMode
    GLOBAL, RELAXED = mode.CU_STREAM_CAPTURE_MODE_GLOBAL, mode.CU_STREAM_CAPTURE_MODE_RELAXED
    stream = call(driver.cuStreamCreate, 0)
    p = call(driver.cuMemAlloc, 64)
    event = call(driver.cuEventCreate, 2)
    call(driver.cuEventRecord, event, 0)
    call(driver.cuCtxSynchronize)
"""


def test_a_captured_graph_runs_when_it_is_launched_and_as_often(cards: Cards) -> None:
    found = cards.run(
        CAPTURE
        + """
    host = call(driver.cuMemHostAlloc, 64, 0)
    words = (ctypes.c_uint32 * 16).from_address(int(host))
    call(driver.cuStreamBeginCapture, stream, GLOBAL)
    call(driver.cuMemsetD32Async, p, 3, 16, stream)
    gpu.launch("fill", p, 16, 2, 9, 1000, stream=stream)
    call(driver.cuMemcpyDtoHAsync, host, p, 64, stream)
    graph = call(driver.cuStreamEndCapture, stream)
    call(driver.cuCtxSynchronize)
    before = list(words)
    executable = call(driver.cuGraphInstantiate, graph, 0)
    results = []
    for _ in range(2):
        call(driver.cuGraphLaunch, executable, stream)
        call(driver.cuStreamSynchronize, stream)
        results.append(list(words))
        ctypes.memset(int(host), 0, 64)
    print(json.dumps([before, results, call(driver.cuGraphGetNodes, graph, 0)[1]]))
    """
    )
    assert found == [[0] * 16, [[9, 3] * 8] * 2, 3]


def test_events_fork_and_join_a_capture_over_streams(cards: Cards) -> None:
    found = cards.run(
        CAPTURE
        + """
    other = call(driver.cuStreamCreate, 1)
    join = call(driver.cuEventCreate, 2)
    def capture(joined):
        call(driver.cuStreamBeginCapture, stream, GLOBAL)
        gpu.launch("spin", 1000, stream=stream)
        call(driver.cuEventRecord, event, stream)
        call(driver.cuStreamWaitEvent, other, event, 0)
        gpu.launch("spin", 1000, stream=other)
        call(driver.cuEventRecord, join, other)
        if joined:
            call(driver.cuStreamWaitEvent, stream, join, 0)
        return error_of(driver.cuStreamEndCapture, stream)
    print(json.dumps([capture(True), capture(False)]))
    """
    )
    assert found == [0, UNJOINED]


FORBIDDEN = {
    "error_of(driver.cuStreamSynchronize, stream)": UNSUPPORTED,
    "error_of(driver.cuStreamQuery, stream)": UNSUPPORTED,
    "error_of(driver.cuCtxSynchronize)": UNSUPPORTED,
    "error_of(driver.cuMemAlloc, 64)": UNSUPPORTED,
    "error_of(driver.cuMemFree, p)": UNSUPPORTED,
    "error_of(driver.cuEventQuery, event)": UNSUPPORTED,
    "error_of(driver.cuLaunchKernel, *gpu.launch_arguments('spin', 1000))": IMPLICIT,
    "error_of(driver.cuMemcpyDtoD, p, int(p) + 8, 8)": IMPLICIT,
    "error_of(driver.cuStreamWaitEvent, stream, event, 0)": ISOLATION,
}


def test_what_a_global_capture_forbids_invalidates_it(cards: Cards) -> None:
    found = cards.run(
        CAPTURE
        + f"""
    found = {{}}
    for forbidden in {list(FORBIDDEN)}:
        call(driver.cuStreamBeginCapture, stream, GLOBAL)
        error = eval(forbidden)
        found[forbidden] = [error, error_of(driver.cuStreamEndCapture, stream)]
    print(json.dumps(found))
    """
    )
    assert found == {forbidden: [error, INVALIDATED] for forbidden, error in FORBIDDEN.items()}


def test_ending_a_capture_that_was_not_begun_is_an_error_and_harms_no_other(cards: Cards) -> None:
    found = cards.run(
        CAPTURE
        + """
    call(driver.cuStreamBeginCapture, stream, GLOBAL)
    error = error_of(driver.cuStreamEndCapture, call(driver.cuStreamCreate, 1))
    print(json.dumps([error, error_of(driver.cuStreamEndCapture, stream)]))
    """
    )
    assert found == [ILLEGAL_STATE, 0]


def test_a_relaxed_thread_may_allocate_during_another_threads_capture(cards: Cards) -> None:
    found = cards.run(
        CAPTURE
        + """
    import threading
    call(driver.cuStreamBeginCapture, stream, GLOBAL)
    results = []
    def worker():
        call(driver.cuCtxSetCurrent, gpu.context)
        call(driver.cuThreadExchangeStreamCaptureMode, RELAXED)
        results.append(error_of(driver.cuMemAlloc, 64))
        results.append(error_of(driver.cuEventQuery, event))
    thread = threading.Thread(target=worker)
    thread.start()
    thread.join()
    print(json.dumps([results, error_of(driver.cuStreamEndCapture, stream)]))
    """
    )
    assert found == [[0, 0], 0]


def test_capture_status_and_a_captured_event(cards: Cards) -> None:
    found = cards.run(
        CAPTURE
        + """
    def status():
        return int(call(driver.cuStreamIsCapturing, stream))
    seen = [status()]
    call(driver.cuStreamBeginCapture, stream, RELAXED)
    seen.append(status())
    call(driver.cuEventRecord, event, stream)
    query = error_of(driver.cuEventQuery, event)
    error_of(driver.cuStreamSynchronize, stream)
    seen.append(status())
    print(json.dumps([seen, query]))
    """
    )
    assert found == [[0, 1, 2], CAPTURED_EVENT]
