"""Holds the tests to `tests/budgets.toml`: the seconds of each folder, and the reasons for which a test may be skipped.

Off unless pytest is given `--budgets FILE`, as `make test` does: one test alone on a slow machine is nobody's business.
"""

import os
import subprocess
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A child that a test starts while gRPC's threads run would be aborted by gRPC between fork and exec.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# An example that the host was too busy for is no failure.
settings.register_profile("nvshare", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nvshare")


SYSTEM = "tests/system/"
LINTERS = "tests/system/test_lint.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--budgets", type=Path, metavar="FILE", help="fail when a folder's tests cost or skip too much")


def pytest_configure(config: pytest.Config) -> None:
    if path := config.getoption("--budgets"):
        budgets = tomllib.loads(path.read_text())
        whole = budgets["whole"]["seconds"]
        if not hasattr(config, "workerinput"):  # of several processes the first one counts
            config.pluginmanager.register(Budgets(budgets["seconds"], whole, budgets["skips"]), "nvshare-budgets")
        config.pluginmanager.register(Reruns(budgets["reruns"]), "nvshare-reruns")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of the system, and puts them in front: they take longer than any other file's, so that the
    processes which share the files would wait for one that begins with them late."""
    system = [item for item in items if item.nodeid.startswith(SYSTEM)]
    for item in system:
        item.add_marker(pytest.mark.system)
    items[:] = system + [item for item in items if not item.nodeid.startswith(SYSTEM)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which process gets which tests: files side by side, and all of the system's in one, but for its linters: they
    share a Docker daemon, its images, and the wheels."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return SYSTEM if file.startswith(SYSTEM) and file != LINTERS else file

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


class Reruns:
    """Gives the tests of folders that look at the clock more than one try: a shared host stands still now and then.

    pytest's closing line counts the tries that failed.
    """

    def __init__(self, tries: Mapping[str, int]) -> None:
        self.tries = tries

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for folder, tries in self.tries.items():
                if item.nodeid.startswith(f"{folder}/"):
                    item.add_marker(pytest.mark.flaky(reruns=tries - 1))


def processor_ticks() -> tuple[int, int]:
    """Ticks of all cores since the host started (proc(5), /proc/stat): in which something ran, and that a hypervisor
    took away while something wanted to run."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return user + nice + system + irq + softirq, steal


class Budgets:
    """Adds up what the tests of each folder took, and judges it when the session ends.

    Time that a hypervisor took away is not the tests': every budget grows by it.
    """

    def __init__(self, seconds: Mapping[str, float], whole_seconds: float, skips: Mapping[str, str]) -> None:
        self.seconds = seconds
        self.whole_seconds = whole_seconds
        self.skips = skips
        self.taken: defaultdict[str, float] = defaultdict(float)
        self.tests: Counter[str] = Counter()
        self.ticks = processor_ticks()
        self.started = time.monotonic()
        self.skipped: dict[str, list[str]] = {}
        self.problems: list[str] = []

    def folder_of(self, test: str) -> str:
        """The folder with a budget that `test` (a node ID) is in, else the folder of its file."""
        path = PurePosixPath(test.partition("::")[0])
        return next((str(parent) for parent in path.parents if str(parent) in self.seconds), str(path.parent))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        folder = self.folder_of(report.nodeid)
        self.taken[folder] += report.duration
        self.tests[folder] += report.when == "call" or report.skipped
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skipped.setdefault(report.longrepr[2].removeprefix("Skipped: "), []).append(report.nodeid)

    def slower(self) -> float:
        """By how much the host was slower than one of its own: at most twice."""
        busy, stolen = (now - then for now, then in zip(processor_ticks(), self.ticks, strict=True))
        return 1 / (1 - min(0.5, stolen / max(1, busy + stolen)))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        slower = self.slower()
        for folder, seconds in self.taken.items():
            if folder not in self.seconds:
                self.problems.append(f"{folder} has no budget in seconds")
            elif seconds > self.seconds[folder] * slower:
                self.problems.append(f"{folder} took {seconds:.1f} s of {self.seconds[folder] * slower:.0f} s")
        if (whole := time.monotonic() - self.started) > self.whole_seconds * slower:
            self.problems.append(f"the run took {whole:.0f} s of {self.whole_seconds * slower:.0f} s")
        for reason, tests in self.skipped.items():
            could_run = next((command for start, command in self.skips.items() if reason.startswith(start)), None)
            if could_run is None:
                self.problems.append(f"skipped for a reason that is not allowed ({reason}): {', '.join(tests)}")
            elif subprocess.run(could_run, shell=True).returncode == 0:
                self.problems.append(f"skipped although it could run here ({reason}): {', '.join(tests)}")
        if self.problems and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("seconds of each folder of tests")
        for folder in sorted(self.taken):
            budget = f"{self.seconds[folder]:5.0f}" if folder in self.seconds else " none"
            terminalreporter.line(f"{folder:28} {self.tests[folder]:5} tests {self.taken[folder]:7.1f} s of {budget} s")
        for problem in self.problems:
            terminalreporter.line(f"over budget: {problem}", red=True)
