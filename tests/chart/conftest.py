"""The chart, loaded once."""

from collections.abc import Iterator

import helm_python
import pytest

from rendered_chart import CHART, Chart


@pytest.fixture(scope="session")
def chart() -> Iterator[Chart]:
    with helm_python.Chart.load(CHART) as loaded:
        yield Chart(loaded)
