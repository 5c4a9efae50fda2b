"""The distributions agree with each other and with constraints.txt."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def distributions(tree: list[Path], root: Path) -> dict[str, dict[str, Any]]:
    """The parsed pyproject.toml of every distribution, by its name."""
    parsed = [tomllib.loads(path.read_text()) for path in tree if path.name == "pyproject.toml" and path.parent != root]
    return {str(document["project"]["name"]): document for document in parsed}


@pytest.fixture(scope="module")
def pins(root: Path) -> dict[str, str]:
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {normalised(name): version for name, _, version in (line.partition("==") for line in lines)}


def normalised(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return normalised(match.group())


def test_all_distributions_have_one_version(distributions: dict[str, dict[str, Any]]) -> None:
    assert len({document["project"]["version"] for document in distributions.values()}) == 1


def test_each_asks_for_its_own_siblings_of_the_same_version(distributions: dict[str, dict[str, Any]]) -> None:
    for name, document in distributions.items():
        version = document["project"]["version"]
        siblings = [entry for entry in document["project"].get("dependencies", []) if name_of(entry) in distributions]
        assert [entry for entry in siblings if entry != f"{name_of(entry)}=={version}"] == [], name


def test_each_requirement_is_pinned(distributions: dict[str, dict[str, Any]], pins: dict[str, str], root: Path) -> None:
    groups = tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]
    required = [entry for group in groups.values() for entry in group]
    for document in distributions.values():
        required += document["project"].get("dependencies", []) + document["build-system"]["requires"]
    assert not {name_of(entry) for entry in required} - pins.keys() - distributions.keys()


def test_pins_are_exact_and_carry_no_address(root: Path) -> None:
    for line in (root / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+(; python_version .+)?", line), line


def test_the_c_parts_report_the_version_of_their_distributions(
    distributions: dict[str, dict[str, Any]], root: Path
) -> None:
    for name, folder in (("nvshare-preload", "libnvshare"), ("nvshare-emulator", "emulator")):
        cmake = (root / folder / "CMakeLists.txt").read_text()
        stated = re.findall(r'set\(NVSHARE_VERSION "([^"]+)"', cmake)
        assert stated in ([], [distributions[name]["project"]["version"]])
