"""The supervisor, with real processes."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from nvshare.cli.supervisor import ServiceProcess, Supervisor, describe_exit, restart_delay_seconds


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
async def supervisor(tmp_path: Path, lines: list[str]) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(tmp_path, lines.append)
    yield supervisor
    await supervisor.stop()


def service(program: str, **more: str | bytes) -> ServiceProcess:
    return ServiceProcess("sleeper", (sys.executable, "-c", program), dict(os.environ), **more)  # type: ignore[arg-type]


SLEEP = "import time; time.sleep(600)"


async def test_a_killed_service_is_started_again_and_said_so(supervisor: Supervisor, lines: list[str]) -> None:
    supervisor.start(service(SLEEP))
    await until(lambda: supervisor.pid("sleeper") is not None)
    first = supervisor.pid("sleeper")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: supervisor.pid("sleeper") not in (None, first))
    assert supervisor.starts("sleeper") == 2
    assert "sleeper was killed by SIGKILL; starting it again" in lines[0]


async def test_each_start_gets_the_same_secret_through_a_pipe(supervisor: Supervisor, tmp_path: Path) -> None:
    program = "import os; print(os.read(int(os.environ['SECRET_FD']), 99), 'SECRET' in os.environ, flush=True)"
    supervisor.start(service(program, secret=b"seed", secret_variable="SECRET_FD"))
    log = tmp_path / "sleeper.log"
    await until(lambda: log.exists() and log.read_text().count("\n") >= 2)
    assert log.read_text().splitlines()[:2] == ["b'seed' False"] * 2


async def test_a_service_that_cannot_be_started_is_said_so_and_tried_again(
    supervisor: Supervisor, lines: list[str]
) -> None:
    supervisor.start(ServiceProcess("nothing", ("/nonexistent/program",), {}))
    await until(lambda: supervisor.starts("nothing") >= 3)
    assert "nothing cannot be started" in lines[0]


async def test_whatever_goes_wrong_at_a_start_is_said_and_tried_again(supervisor: Supervisor, lines: list[str]) -> None:
    async def fail() -> int:
        raise ValueError("no such thing")

    supervisor.keep("odd", fail)
    await until(lambda: supervisor.starts("odd") >= 2)
    assert "odd cannot be started: no such thing" in lines[0]


async def test_a_service_is_started_again_when_nobody_listens_to_announcements(tmp_path: Path) -> None:
    def closed(_line: str) -> None:
        raise BrokenPipeError

    supervisor = Supervisor(tmp_path, closed)
    supervisor.start(service("pass"))
    await until(lambda: supervisor.starts("sleeper") >= 3)
    await supervisor.stop()


async def test_stop_ends_a_service_that_ignores_sigterm(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nvshare.cli.supervisor.END_SECONDS", 0.2)
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); " + SLEEP
    supervisor.start(service(program))
    log = tmp_path / "sleeper.log"
    await until(lambda: log.exists() and "deaf" in log.read_text())
    pid = supervisor.pid("sleeper")
    assert pid is not None
    await supervisor.stop()
    assert not alive(pid)


async def test_services_end_in_the_reverse_order_of_their_starts(supervisor: Supervisor, lines: list[str]) -> None:
    ends: list[str] = []

    def run_once(name: str) -> Callable[[], "asyncio.Future[int]"]:
        async def run() -> int:
            try:
                await asyncio.sleep(600)
            finally:
                ends.append(name)
            return 0

        return lambda: asyncio.ensure_future(run())

    supervisor.keep("first", run_once("first"))
    supervisor.keep("second", run_once("second"))
    await until(lambda: supervisor.starts("second") == 1)
    await asyncio.sleep(0)
    await supervisor.stop()
    assert ends == ["second", "first"]
    assert lines == []


async def test_a_service_that_ended_before_its_turn_is_not_started_again_by_stop(
    supervisor: Supervisor, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for delay in ("SHORTEST_DELAY_SECONDS", "LONGEST_DELAY_SECONDS"):
        monkeypatch.setattr(f"nvshare.cli.supervisor.{delay}", 60.0)
    ended = asyncio.Event()

    async def end_at_once() -> int:
        ended.set()
        return 0

    supervisor.keep("brief", end_at_once)
    await ended.wait()
    await asyncio.wait_for(supervisor.stop(), 5)
    assert supervisor.starts("brief") == 1
    assert lines == []


def test_delays_double_from_a_tenth_of_a_second_to_two() -> None:
    assert [restart_delay_seconds(deaths) for deaths in range(8)] == [0.1, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_an_end_is_described_by_status_or_signal() -> None:
    assert describe_exit(3) == "ended with status 3"
    assert describe_exit(-9) == "was killed by SIGKILL"
