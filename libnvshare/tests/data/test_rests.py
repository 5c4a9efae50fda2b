"""Busy time is the time of the work, and not of what a program does between its bursts."""

import pytest
from libnvshare.tests.data.conftest import Run, ScriptedRelay

MS = 1_000_000

WAITS = ["gpu.synchronize()", "ok(driver.cuStreamSynchronize(0))"]
RECORDED = "event = ok(driver.cuEventCreate(0)); ok(driver.cuEventRecord(event, 0)); "
POLL = "[time.sleep(0.0002) for _ in iter(lambda: int(driver.cuEventQuery(event)[0]), 0)]"
EVENT_WAITS = [RECORDED + "ok(driver.cuEventSynchronize(event))", RECORDED + POLL]


def busy_and_took_ns(relay: ScriptedRelay, run: Run, rounds: int, *lines: str) -> tuple[float, int]:
    """The busy time that a program of so many rounds of these lines reports at its end, and how long it took."""
    indented = "".join(f"    {line}\n" for line in lines)
    begins = f"gpu = Gpu()\nbegan_ns = now_ns()\nfor _ in range({rounds}):\n"
    program = run(f"{begins}{indented}say(took_ns=now_ns() - began_ns)\nhear()\n")
    client = relay.client_with_plan()
    took_ns: int = program.said()["took_ns"]
    launches = rounds * sum("spin" in line for line in lines)
    report = client.report_where(lambda report: not report.demand and report.launches == launches)
    program.tell()
    program.end()
    return 1000 * report.busy_us, took_ns


@pytest.mark.parametrize("wait", WAITS + EVENT_WAITS)
def test_b6_a_program_that_pauses_after_its_waits_is_busy_for_as_long_as_its_work(
    wait: str, relay: ScriptedRelay, run: Run
) -> None:
    busy_ns, took_ns = busy_and_took_ns(relay, run, 60, "gpu.spin(2 * MS)", wait, "time.sleep(0.008)")
    assert 110 * MS < busy_ns < 120 * MS + 0.3 * took_ns


def test_b6_work_that_follows_a_wait_at_once_is_busy_time_too(relay: ScriptedRelay, run: Run) -> None:
    lines = ("gpu.spin(MS // 10)", WAITS[0], "gpu.spin(4 * MS)", WAITS[0], "time.sleep(0.008)")
    busy_ns, took_ns = busy_and_took_ns(relay, run, 60, *lines)
    assert 235 * MS < busy_ns < 246 * MS + 0.3 * took_ns


@pytest.mark.parametrize("wait", WAITS)
def test_who_launches_again_at_once_keeps_the_card_busy(wait: str, relay: ScriptedRelay, run: Run) -> None:
    busy_ns, took_ns = busy_and_took_ns(relay, run, 300, "gpu.spin(1 * MS)", wait)
    assert busy_ns > 0.6 * took_ns


def test_work_that_goes_on_beside_a_thread_that_waits_is_busy_time(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        other = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        for _ in range(40):
            gpu.spin(10 * MS)
            gpu.spin(1 * MS, other)
            ok(driver.cuStreamSynchronize(other))
        gpu.synchronize()
        say()
        hear()
        """
    )
    client = relay.client_with_plan()
    program.said()
    assert client.report_where(lambda report: not report.demand and report.launches == 80).busy_us > 400_000
    program.tell()
    program.end()


@pytest.mark.parametrize("wait", EVENT_WAITS)
def test_work_behind_the_event_that_a_program_waits_for_is_busy_time(wait: str, relay: ScriptedRelay, run: Run) -> None:
    lines = ("gpu.spin(1 * MS)", RECORDED, "gpu.spin(9 * MS)", wait.removeprefix(RECORDED), "time.sleep(0.009)")
    busy_ns, _ = busy_and_took_ns(relay, run, 40, *lines)
    assert busy_ns > 0.9 * 400 * MS


KEEPS_THE_CARD_BUSY = """
gpu = Gpu()
gpu.spin(MS)
say()
gpu.spin_for(5 * MS, 60)
"""


def wakes_of(relay: ScriptedRelay, run: Run, bursts: int, pause_seconds: float, *lines: str) -> int:
    """How often the card comes to a program that has so many bursts of these lines, with pauses after them, beside one
    that keeps it busy: by the card's own account. Its window is so long that few marks are made because of that."""
    assert run(KEEPS_THE_CARD_BUSY, preload="").said() == {}
    indented = "".join(f"    {line}\n" for line in lines)
    program = run(
        f"gpu = Gpu()\ngpu.spin(MS)\ngpu.synchronize()\ntime.sleep({pause_seconds})\nbefore = wakes()\n"
        f"for _ in range({bursts}):\n{indented}    time.sleep({pause_seconds})\nsay(wakes=wakes() - before)\n"
    )
    relay.client_with_plan(window_us=1_000_000)
    wakes: int = program.said()["wakes"]
    program.end()
    return wakes


# Kernels so long that the card does not run empty within a burst where the machine is busy elsewhere.
LONG = "gpu.spin(20 * MS)"


@pytest.mark.parametrize("wait", WAITS)
def test_b12_the_card_comes_to_a_bursty_program_once_for_each_burst(wait: str, relay: ScriptedRelay, run: Run) -> None:
    """Each time stops who has the card meanwhile, so nothing is put on a stream that the program knows to be empty."""
    assert 12 <= wakes_of(relay, run, 12, 0.018, LONG, LONG, wait) <= 14


def test_b12_the_first_burst_after_a_long_rest_needs_no_event_before_it(relay: ScriptedRelay, run: Run) -> None:
    assert 12 <= wakes_of(relay, run, 12, 0.08, LONG, LONG, WAITS[0]) <= 14


def test_b12_the_card_comes_to_a_program_that_waits_often_once_for_each_wait(relay: ScriptedRelay, run: Run) -> None:
    assert 24 <= wakes_of(relay, run, 12, 0.03, "gpu.spin(MS // 10)", WAITS[0], LONG, WAITS[0]) <= 27
