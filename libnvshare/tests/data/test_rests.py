"""Busy time is the time of the work, and not of what a program does between its bursts."""

import pytest
from libnvshare.tests.data.conftest import Run, ScriptedRelay

MS = 1_000_000

WAITS = ["gpu.synchronize()", "ok(driver.cuStreamSynchronize(0))"]


@pytest.mark.parametrize("wait", WAITS)
def test_b6_a_program_that_pauses_after_its_waits_is_busy_for_as_long_as_its_work(
    wait: str, relay: ScriptedRelay, run: Run
) -> None:
    program = run(
        f"""
        gpu = Gpu()
        began_ns = now_ns()
        for _ in range(60):
            gpu.spin(2 * MS)
            {wait}
            time.sleep(0.008)
        say(took_ns=now_ns() - began_ns)
        hear()
        """
    )
    client = relay.client_with_plan()
    took_ns = program.said()["took_ns"]
    busy_ns = 1000 * client.report_where(lambda report: not report.demand and report.launches == 60).busy_us
    assert 110 * MS < busy_ns < 120 * MS + 0.3 * took_ns
    program.tell()
    program.end()


@pytest.mark.parametrize("wait", WAITS)
def test_who_launches_again_at_once_keeps_the_card_busy(wait: str, relay: ScriptedRelay, run: Run) -> None:
    program = run(
        f"""
        gpu = Gpu()
        began_ns = now_ns()
        for _ in range(300):
            gpu.spin(1 * MS)
            {wait}
        say(took_ns=now_ns() - began_ns)
        hear()
        """
    )
    client = relay.client_with_plan()
    took_ns = program.said()["took_ns"]
    busy_ns = 1000 * client.report_where(lambda report: not report.demand and report.launches == 300).busy_us
    assert busy_ns > 0.6 * took_ns
    program.tell()
    program.end()


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
