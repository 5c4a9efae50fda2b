"""The window: how much work is in flight."""

import pytest
from libnvshare.tests.data.conftest import Run, ScriptedRelay

MS = 1_000_000


@pytest.mark.alone
@pytest.mark.parametrize("length_us", [100, 1000, 8000, 50_000])
def test_a9_work_in_flight_is_bounded_in_time(length_us: int, relay: ScriptedRelay, run: Run) -> None:
    program = run(
        f"""
        gpu = Gpu()
        returned = gpu.spin_for({length_us} * 1000, 0.6)
        said_ns = now_ns()
        gpu.synchronize()
        say(last_ns=returned[-1], end_ns=turns()[-1][1], launches=len(returned))
        """
    )
    client = relay.client_with_plan(window_us=10_000)
    words = program.said()
    window_ns, mark_ns, kernel_ns = 10 * MS, 2_500_000, length_us * 1000
    # At least two marks, of one kernel each, are in flight, and one launch goes on before it is held back.
    bound_ns = max(window_ns + mark_ns + kernel_ns, 3 * kernel_ns)
    assert (
        words["end_ns"] - words["last_ns"] < bound_ns + 5 * MS
    )  # the wake-up of the launching thread on a busy machine
    assert client.report_where(lambda report: report.launches == words["launches"]).window_us == 10_000
    program.end()


def test_a9_the_first_launches_are_bounded_before_anything_is_known_of_them(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        gpu.synchronize()
        returned = []
        for _ in range(6):
            gpu.spin(100 * MS)
            returned.append(now_ns())
        say(took_ns=returned[-1] - returned[0])
        """
    )
    relay.client_with_plan()
    assert program.said()["took_ns"] > 290 * MS  # of six, no more than three are in flight
    program.end()


@pytest.mark.alone
def test_a9_the_card_never_runs_dry_within_the_window(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        gpu.spin_for(200_000, 0.3)
        begin_ns = now_ns()
        gpu.spin_for(200_000, 1)
        end_ns = now_ns()
        gpu.synchronize()
        busy_ns = sum(min(end, end_ns) - max(start, begin_ns) for start, end in turns(begin_ns) if start < end_ns)
        say(share=busy_ns / (end_ns - begin_ns))
        """
    )
    relay.client_with_plan()
    assert program.said()["share"] > 0.97
    program.end()


@pytest.mark.alone
def test_e2_one_launch_of_two_seconds_does_not_shrink_the_window(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        before = len(gpu.spin_for(100_000, 0.5))
        gpu.spin(2000 * MS)
        gpu.synchronize()
        first = len(gpu.spin_for(100_000, 0.5))
        second = len(gpu.spin_for(100_000, 0.5))
        gpu.synchronize()
        say(before=before, first=first, second=second)
        """
    )
    relay.client_with_plan()
    words = program.said()
    assert words["first"] > 0.8 * words["before"]
    assert words["second"] > 0.95 * words["before"]
    program.end()


@pytest.mark.alone
def test_a_phase_of_long_kernels_is_noticed_by_the_window(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        gpu.spin_for(500_000, 0.3)
        gpu.spin_for(20 * MS, 1.5)
        last_ns = now_ns()
        gpu.synchronize()
        say(in_flight_ns=turns()[-1][1] - last_ns)
        """
    )
    relay.client_with_plan(window_us=10_000)
    assert program.said()["in_flight_ns"] < 70 * MS
    program.end()


BLOCKERS = {
    "value": """
        ok(driver.cuStreamWaitValue32(stream, flag, 1, driver.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_EQ))
    """,
    "host function": """
        def wait(_):
            released.wait()
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(wait)
        address = ctypes.cast(function, ctypes.c_void_p).value
        ok(driver.cuLaunchHostFunc(stream, driver.CUhostFn(_ptr=ctypes.addressof(ctypes.c_void_p(address))), 0))
    """,
    "event of another stream": """
        other = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        ok(driver.cuStreamWaitValue32(other, flag, 1, driver.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_EQ))
        event = ok(driver.cuEventCreate(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING))
        ok(driver.cuEventRecord(event, other))
        ok(driver.cuStreamWaitEvent(stream, event, 0))
    """,
}


# How many launches follow, and how long they may be held back: what waits for a value says so.
@pytest.mark.parametrize(
    ("blocker", "launches", "least_ms", "most_ms"),
    [("value", 200, 0, 1500), ("host function", 8, 900, 6000), ("event of another stream", 8, 900, 6000)],
)
def test_a_thread_may_launch_behind_what_waits_for_itself(
    blocker: str, launches: int, least_ms: int, most_ms: int, relay: ScriptedRelay, run: Run
) -> None:
    """The driver takes some 1000 launches, whatever they wait for; a window that waited for ever would never end."""
    program = run(
        """
        import ctypes
        import threading
        released = threading.Event()
        gpu = Gpu()
        memory = ok(driver.cuMemHostAlloc(4096, driver.CU_MEMHOSTALLOC_DEVICEMAP))
        flag = int(ok(driver.cuMemHostGetDevicePointer(memory, 0)))
        word = ctypes.c_uint32.from_address(int(memory))
        word.value = 0
        stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        """
        + BLOCKERS[blocker]
        + f"""
        since_ns = now_ns()
        for _ in range({launches}):
            gpu.spin(MS // 10, stream)
        waited_ns = now_ns() - since_ns
        released.set()
        word.value = 1
        ok(driver.cuStreamSynchronize(stream))
        since_ns = now_ns()
        for _ in range(400):  # the window is as before
            gpu.spin(MS, stream)
        launched_ns = now_ns() - since_ns
        ok(driver.cuStreamSynchronize(stream))
        say(waited_ns=waited_ns, in_flight_ns=now_ns() - since_ns - launched_ns)
        """
    )
    relay.client_with_plan(window_us=10_000)
    words = program.said()
    assert least_ms * MS <= words["waited_ns"] < most_ms * MS
    assert words["in_flight_ns"] < 40 * MS
    program.end()


def test_a9_long_kernels_are_told_from_a_stream_that_waits(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        returned = []
        for _ in range(3):
            gpu.spin(1300 * MS)
            returned.append(now_ns())
        say(took_ns=returned[-1] - returned[0])
        """
    )
    relay.client_with_plan()
    # The third one is excused, and the next one is not: the first one's time says what to expect.
    assert program.said()["took_ns"] > 2500 * MS
    program.end()


def test_reports_that_follow_each_other_closely_say_the_same_busy_share(relay: ScriptedRelay, run: Run) -> None:
    """No kernel of 25 ms ends between two of them: that says nothing of the share."""
    program = run("Gpu().spin_for(25 * MS, 4)")
    client = relay.client_with_plan()
    client.report_where(lambda report: report.busy_permille > 800)

    def share_under(window_us: int) -> int:
        epoch = client.grant(window_us=window_us)
        return int(client.report_where(lambda report: report.epoch == epoch).busy_permille)

    shares = [share_under(4000 + number) for number in range(4)]
    assert min(shares) > 800
    program.end()
