"""NVIDIA MPS beside nvshare. Nothing of it can run without a real GPU: a small program stands for its control program,
so these tests say what that is told and what is left of it, not what MPS does.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from nvshare.cli.bench.mixes import Mix, ways
from nvshare.cli.bench.mps import Mps, running_mps
from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.policies import run_policies
from nvshare.cli.bench.runner import SilentSteps
from nvshare.cli.bench.scenario import Job
from nvshare.cli.bench.workload import SMALL, Bounds, numbered
from nvshare.cli.errors import CommandError
from nvshare.cli.main import main
from nvshare.v1.control_pb2 import GpuStatus

GPUS = [GpuStatus(uuid="GPU-a"), GpuStatus(uuid="GPU-b")]
CONTROL = """#!{python}
import json, os, pathlib, subprocess, sys, time

folder = pathlib.Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
behaviour = {behaviour!r}
if sys.argv[1:] == ["-d"]:
    if behaviour == "refuses":
        sys.exit("An instance of this daemon is already running")
    if behaviour == "hangs":
        time.sleep(600)
    # It keeps what it was given as standard error, as the real one does.
    daemon = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    (folder / "pid").write_text(str(daemon.pid))
    told = {{name: value for name, value in os.environ.items() if name.startswith(("CUDA", "LD_PRELOAD"))}}
    pathlib.Path({told!r}).write_text(json.dumps({{"pid": daemon.pid, "environment": told}}))
else:
    command = sys.stdin.read()
    if command == "get_server_list\\n":
        print("" if behaviour == "serves nobody" else "4711")
        sys.exit()
    with open({told!r} + ".commands", "a") as commands:
        commands.write(command)
    if behaviour == "obeys" and command == "quit\\n":
        os.kill(int((folder / "pid").read_text()), 15)
"""


class Control:
    """The program that stands for the control program."""

    def __init__(self, folder: Path) -> None:
        self.told = folder / "told"
        self.path = folder / "nvidia-cuda-mps-control"

    def write(self, behaviour: str) -> None:
        self.path.write_text(CONTROL.format(python=sys.executable, behaviour=behaviour, told=str(self.told)))
        self.path.chmod(0o755)

    @property
    def daemon(self) -> psutil.Process | None:
        """The daemon, if it was started and still runs."""
        if not self.told.exists():
            return None
        with_pid = json.loads(self.told.read_text())["pid"]
        try:
            process = psutil.Process(with_pid)
            return process if process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    @property
    def environment(self) -> dict[str, str]:
        """What the daemon was given of the environment."""
        given: dict[str, str] = json.loads(self.told.read_text())["environment"]
        return given

    @property
    def commands(self) -> str:
        """What the control program was told."""
        return Path(f"{self.told}.commands").read_text()


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Control:
    """On PATH, and obedient."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    program = Control(tmp_path)
    program.write("obeys")
    return program


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


async def test_the_daemon_has_folders_of_its_own_and_sees_the_node_s_gpus_only(
    control: Control, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")
    monkeypatch.setenv("LD_PRELOAD", "")
    async with running_mps(GPUS, logs) as mps:
        assert control.environment["CUDA_MPS_PIPE_DIRECTORY"] == str(mps.pipes)
        assert control.environment["CUDA_MPS_LOG_DIRECTORY"] == str(logs)
        assert control.environment["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
        assert "LD_PRELOAD" not in control.environment
        assert len(str(mps.pipes)) < 64, "a unix socket's path has at most 107 characters"
        assert control.daemon is not None


def test_a_program_is_its_client_with_as_many_threads_as_it_may_have() -> None:
    job = Job(SMALL, Bounds(seconds=1.0), settings={"OTHER": "1"})
    mps = Mps(Path("/tmp/mps"))
    assert mps.of(job).settings == {"OTHER": "1", "CUDA_MPS_PIPE_DIRECTORY": "/tmp/mps"}
    assert mps.of(job, 30).settings["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "30"
    assert mps.of(replace(job, priority="latency-critical")).settings == mps.of(job).settings
    assert mps.of(replace(job, priority="best-effort")).settings["CUDA_MPS_CLIENT_PRIORITY"] == "1"


async def test_it_is_told_to_quit_and_leaves_nothing(control: Control, logs: Path) -> None:
    async with running_mps(GPUS, logs) as mps:
        pass
    assert control.commands == "quit\n"
    assert control.daemon is None
    assert not mps.pipes.exists()


async def test_programs_that_ran_without_it_are_no_figures_of_it(control: Control, logs: Path) -> None:
    control.write("serves nobody")
    with pytest.raises(CommandError, match="no program used NVIDIA MPS"):
        async with running_mps(GPUS, logs):
            pass
    assert control.daemon is None


async def test_what_does_not_quit_is_killed(control: Control, logs: Path) -> None:
    control.write("stays")
    async with running_mps(GPUS, logs) as mps:
        pass
    assert control.daemon is None
    assert not mps.pipes.exists()


async def test_it_ends_with_a_scenario_that_fails(control: Control, logs: Path) -> None:
    with pytest.raises(CommandError, match="a program failed"):
        async with running_mps(GPUS, logs):
            raise CommandError("a program failed")
    assert control.daemon is None


async def test_it_ends_with_a_scenario_that_is_cancelled(control: Control, logs: Path) -> None:
    started = asyncio.Event()

    async def measure() -> None:
        async with running_mps(GPUS, logs):
            started.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(measure())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert control.daemon is None


async def test_a_start_that_is_refused_is_said_in_its_own_words(control: Control, logs: Path) -> None:
    control.write("refuses")
    with pytest.raises(CommandError, match="did not start: An instance of this daemon is already running"):
        async with running_mps(GPUS, logs):
            pytest.fail("it did not start")


async def test_a_start_that_hangs_ends(control: Control, logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvshare.cli.bench.mps.START_SECONDS", 0.5)
    control.write("hangs")
    with pytest.raises(CommandError, match="did not start within"):
        async with running_mps(GPUS, logs):
            pytest.fail("it did not start")


def test_ctrl_c_ends_it(control: Control, logs: Path, until: Callable[..., None]) -> None:
    program = f"""
import asyncio, pathlib, signal
from nvshare.cli.bench.mps import running_mps
from nvshare.v1.control_pb2 import GpuStatus

async def measure():
    async with running_mps([GpuStatus(uuid="GPU-a")], pathlib.Path({str(logs)!r})):
        await asyncio.Event().wait()

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
asyncio.run(measure())
"""
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as process:
        try:
            until(lambda: control.daemon is not None)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
        finally:
            process.kill()
    assert control.daemon is None


def test_on_an_emulated_gpu_there_is_no_mps(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "quota-solo", "--mps", "--emulate"]) == 2
    assert "emulated GPUs have no NVIDIA MPS" in capsys.readouterr().err


def test_without_its_control_program_there_is_no_mps(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["bench", "quota-solo", "--mps"]) == 1
    assert "nvidia-cuda-mps-control on PATH" in capsys.readouterr().err


def test_a_scenario_that_does_not_compare_with_mps_says_which_do(
    control: Control, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "demo", "--mps"]) == 2
    assert "demo does not compare with NVIDIA MPS; " in (error := capsys.readouterr().err)
    assert "quota-solo" in error


@pytest.mark.heavy
@pytest.mark.timeout(180)
async def test_a_mix_runs_without_nvshare_under_mps_and_with_each_way_to_share_time(control: Control) -> None:
    """Emulated GPUs know nothing of MPS: what is under it here is without nvshare, and has the variables."""
    mix = Mix("pair", "two", tuple(numbered(SMALL, 2)))
    findings = await run_policies([mix], BenchOptions(emulated=True, seconds=1.0, mps=True), SilentSteps())
    assert {row.status for row in findings.rows} == {"ok"}
    assert len(findings.rows) == 1 + 2 * len(ways(mps=True))
    assert all(findings.summary[f"pair_{way}_sum_ratio"] > 0 for way in ways(mps=True))
    assert control.daemon is None
