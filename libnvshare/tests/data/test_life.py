"""The life of a process: without a relay, fork, exec, exit."""

import signal
from pathlib import Path

from libnvshare.tests.data.conftest import Run, ScriptedRelay

LAUNCH = """
    gpu = Gpu()
    while hear():
        gpu.spin(MS)
        gpu.synchronize()
        say(launched=True)
"""


def test_without_a_relay_a_program_waits_until_one_is_there(folder: Path, run: Run) -> None:
    program = run(LAUNCH)
    program.tell()
    assert program.silent(0.3)
    relay = ScriptedRelay(folder / "nvshare.sock")
    relay.client_with_plan()
    assert program.said() == {"launched": True}
    relay.close()


def test_without_a_relay_a_program_runs_unmanaged_if_that_is_the_setting(run: Run) -> None:
    program = run(LAUNCH, NVSHARE_WITHOUT_RELAY="unmanaged", NVSHARE_WITHOUT_RELAY_SECONDS="0")
    program.tell()
    assert program.said() == {"launched": True}


def test_without_a_plan_calls_fail_if_that_is_the_setting(relay: ScriptedRelay, run: Run) -> None:
    """Also with a relay, if no scheduler speaks; and a plan that comes later is followed."""
    program = run(
        """
        gpu = Gpu()
        for _ in range(2):
            say(error=error_of(driver.cuMemAlloc(4096)))
            hear()
        """,
        NVSHARE_WITHOUT_RELAY="fail",
        NVSHARE_WITHOUT_RELAY_SECONDS="0",
    )
    assert program.said() == {"error": "CUDA_ERROR_SYSTEM_NOT_READY"}
    client = relay.client()
    epoch = client.grant()
    client.report_where(lambda report: report.epoch == epoch)
    program.tell()
    assert program.said() == {"error": "CUDA_SUCCESS"}


def test_e14_the_last_plan_stays_in_force_when_the_relay_dies(relay: ScriptedRelay, run: Run) -> None:
    program = run(LAUNCH)
    program.tell()
    epoch = relay.client_with_plan().grant(window_us=3000)
    program.said()
    relay.close()
    program.tell()
    assert program.said() == {"launched": True}
    relay.listen()
    report = relay.client().report_where(lambda report: True)
    assert (report.epoch, report.window_us) == (epoch, 3000)  # its true state, to a scheduler that may know nothing
    program.tell()
    assert program.said() == {"launched": True}


def test_the_child_of_a_process_that_used_the_gpu_lives(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        gpu.spin(MS)
        child = os.fork()
        if child == 0:
            errors = [error_of(driver.cuCtxSynchronize()), error_of(driver.cuMemAlloc(4096)),
                      error_of(driver.cuMemsetD32(4096, 0, 1))]
            os._exit(0 if all(error != "CUDA_SUCCESS" for error in errors) else 3)
        status = os.waitpid(child, 0)[1]
        gpu.spin(MS)
        gpu.synchronize()
        say(status=status)
        """
    )
    relay.client_with_plan()
    assert program.said() == {"status": 0}
    program.end()


def test_a_child_that_starts_after_the_fork_is_a_client_of_its_own(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        driver.cuDriverGetVersion()
        if os.fork() == 0:
            gpu = Gpu()
            gpu.spin(MS)
            gpu.synchronize()
            os._exit(0)
        gpu = Gpu()
        gpu.spin(MS)
        gpu.synchronize()
        say(status=os.wait()[1])
        """
    )
    one, two = relay.client_with_plan(), relay.client_with_plan()
    assert program.said() == {"status": 0}
    assert one.name != two.name
    assert {len(one.name), len(two.name)} == {16}
    program.end()


def test_a_program_that_is_executed_anew_registers_anew(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        gpu.spin(MS)
        gpu.synchronize()
        if not os.environ.get("AGAIN"):
            os.environ["AGAIN"] = "1"
            os.execv(sys.executable, sys.orig_argv)
        say(again=True)
        """
    )
    one, two = relay.client_with_plan(), relay.client_with_plan()
    assert program.said() == {"again": True}
    assert one.name != two.name
    program.end()


def test_exit_does_not_wait_for_those_who_wait(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        import threading
        gpu = Gpu()
        def wait_at_the_gate():
            gpu.use()
            gpu.spin(MS)
        def wait_for_memory():
            gpu.use()
            gpu.allocate(64 * MIB)
        for wait in (wait_at_the_gate, wait_for_memory):
            threading.Thread(target=wait, daemon=True).start()
        hear()
        """
    )
    client = relay.client()
    client.report_where(lambda report: report.allocation_waits and report.demand)
    program.tell()
    client.report_where(lambda report: report.leaving)
    program.end()


def test_a_signal_handler_of_the_program_runs_on_its_own_threads(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        import signal, threading
        signal.signal(signal.SIGUSR1, lambda *_: say(main=threading.current_thread() is threading.main_thread()))
        gpu = Gpu()
        gpu.spin(MS)
        gpu.synchronize()
        say(ready=True)
        while True:
            signal.pause()
        """
    )
    relay.client_with_plan()
    program.said()
    program.process.send_signal(signal.SIGUSR1)
    assert program.said() == {"main": True}
