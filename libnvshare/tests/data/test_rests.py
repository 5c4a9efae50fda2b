"""Busy time is the time of the work, and not of what a program does between its bursts."""

import pytest
from libnvshare.tests.data.conftest import Run, ScriptedRelay

MS = 1_000_000

WAITS = ["gpu.synchronize()", "ok(driver.cuStreamSynchronize(0))"]


def busy_and_took_ns(relay: ScriptedRelay, run: Run, rounds: int, *lines: str) -> tuple[float, int]:
    """The busy time that a program of so many rounds of these lines, each with one launch, reports at its end, and how
    long it took."""
    indented = "".join(f"    {line}\n" for line in lines)
    begins = f"gpu = Gpu()\nbegan_ns = now_ns()\nfor _ in range({rounds}):\n"
    program = run(f"{begins}{indented}say(took_ns=now_ns() - began_ns)\nhear()\n")
    client = relay.client_with_plan()
    took_ns: int = program.said()["took_ns"]
    report = client.report_where(lambda report: not report.demand and report.launches == rounds)
    program.tell()
    program.end()
    return 1000 * report.busy_us, took_ns


@pytest.mark.parametrize("wait", WAITS)
def test_b6_a_program_that_pauses_after_its_waits_is_busy_for_as_long_as_its_work(
    wait: str, relay: ScriptedRelay, run: Run
) -> None:
    busy_ns, took_ns = busy_and_took_ns(relay, run, 60, "gpu.spin(2 * MS)", wait, "time.sleep(0.008)")
    assert 110 * MS < busy_ns < 120 * MS + 0.3 * took_ns


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
