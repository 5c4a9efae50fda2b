"""The rule over the tests itself: conftest.py of the root, run on small trees of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BUDGETS = """
[whole]
seconds = 0.5
[reruns]
[seconds]
"quick" = 5
"slow" = 0
[skips]
"needs the moon" = "false"
"needs the earth" = "true"
"""


def run_with_budgets(root: Path, folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    """pytest's run on a tree with one test, `folder/test_it.py`."""
    top = folder.parent
    shutil.copy(root / "conftest.py", top)
    (top / "budgets.toml").write_text(BUDGETS)
    (top / "pytest.ini").write_text("[pytest]\n")
    folder.mkdir()
    (folder / "test_it.py").write_text(f"import pytest, time\ndef test_it():\n    {test}\n")
    command = [sys.executable, "-m", "pytest", "--budgets", "budgets.toml", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=top, env=environment, capture_output=True, text=True)


def test_a_run_within_its_budget_passes(root: Path, tmp_path: Path) -> None:
    assert run_with_budgets(root, tmp_path / "quick", "pass").returncode == 0


@pytest.mark.parametrize(
    ("folder", "test", "message"),
    [
        ("slow", "time.sleep(0.1)", "slow took 0.1 s of 0 s"),
        ("quick", "time.sleep(1.1)", "the run took"),
        ("nameless", "pass", "nameless has no budget in seconds"),
        ("quick", "pytest.skip('no mood')", "skipped for a reason that is not allowed (no mood)"),
        ("quick", "pytest.skip('needs the earth')", "skipped although it could run here (needs the earth)"),
    ],
)
def test_a_run_over_its_budget_fails(root: Path, tmp_path: Path, folder: str, test: str, message: str) -> None:
    run = run_with_budgets(root, tmp_path / folder, test)
    assert run.returncode == 1
    assert message in run.stdout


def test_a_skip_that_this_machine_cannot_help_passes(root: Path, tmp_path: Path) -> None:
    assert run_with_budgets(root, tmp_path / "quick", "pytest.skip('needs the moon')").returncode == 0
