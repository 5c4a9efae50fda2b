"""The Makefile and what the documents say about it."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

SET_UP_SECONDS = 60  # of a fresh clone, on two cores


@pytest.fixture(scope="module")
def targets(root: Path) -> set[str]:
    phony = re.search(r"^\.PHONY: (.*)$", (root / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    return set(phony.group(1).split())


def test_help_lists_every_target(root: Path, targets: set[str]) -> None:
    listing = subprocess.run(["make", "help"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([a-z-]+)  +\w", listing, re.MULTILINE)) == targets


def test_documents_name_only_targets_that_exist(texts: dict[str, str], targets: set[str]) -> None:
    named = {
        (name, target)
        for name, text in texts.items()
        if name.endswith(".md")
        for target in re.findall(r"`make ([a-z-]+)`", text)
    }
    assert not [(name, target) for name, target in named if target not in targets]


@pytest.fixture(scope="module")
def budgets(root: Path) -> dict[str, float]:
    """Seconds by folder of tests."""
    seconds: dict[str, float] = tomllib.loads((root / "tests/budgets.toml").read_text())["seconds"]
    return seconds


def test_every_folder_of_tests_has_a_budget(root: Path, tree: list[Path], budgets: dict[str, float]) -> None:
    folders = {path.relative_to(root).parent for path in tree if re.fullmatch(r"test_\w+\.py", path.name)}
    assert not [
        str(folder) for folder in folders if not any(str(parent) in budgets for parent in (folder, *folder.parents))
    ]


def test_the_whole_run_stays_within_what_the_target_promises(root: Path) -> None:
    """`make test` is to pass within 8 minutes, set-up included, and `make test-system` within 10."""
    whole_seconds = tomllib.loads((root / "tests/budgets.toml").read_text())["whole"]["seconds"]
    assert whole_seconds <= 8 * 60 - SET_UP_SECONDS
