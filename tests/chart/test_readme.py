"""The chart's README is what its values say."""

import importlib.util
import re
import tomllib
from types import ModuleType

import pytest

from rendered_chart import CHART, Chart


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    specification = importlib.util.spec_from_file_location("generate_readme", CHART.parent / "generate_readme.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_readme_is_up_to_date(generator: ModuleType) -> None:
    written = generator.render((CHART / "README.template.md").read_text(), (CHART / "values.yaml").read_text())
    assert (CHART / "README.md").read_text() == written, "run `make chart-readme`"


def test_each_row_has_the_comment_and_the_default_of_its_value(generator: ModuleType) -> None:
    (alone, group) = generator.groups(
        "# What one is.\none: 1\n\n# Of two.\ntwo:\n  # What three\n  # is.\n  three: []\n"
    )
    assert [(row.path, row.default, row.description) for row in alone.values] == [("one", "1", "What one is.")]
    assert group.description == "Of two."
    assert [(row.path, row.default, row.description) for row in group.values] == [("two.three", "[]", "What three is.")]


def test_a_value_without_a_comment_is_refused(generator: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"does not say what one\.two is for"):
        generator.render("", "one:\n  two: 1\n  # What three is.\n  three: 2\n")


def test_no_registry_stands_in_the_defaults(chart: Chart) -> None:
    assert set(re.findall(r"repository: (\S+)", (CHART / "values.yaml").read_text())) == {
        "nvshare/link",
        "nvshare/scheduler",
        "nvshare/device-plugin",
        "nvshare/quota-watcher",
    }


def test_chart_and_distributions_have_one_version(chart: Chart) -> None:
    project = tomllib.loads((CHART.parents[1] / "cli" / "pyproject.toml").read_text())["project"]
    assert chart.loaded.version == chart.loaded.metadata["appVersion"] == project["version"]
