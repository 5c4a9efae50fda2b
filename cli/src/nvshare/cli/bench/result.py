"""What a benchmark found: rows and a summary, as JSON. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One run of one program. `status` is `ok` or says in a few words what was wrong.

    `solo_ratio` is its speed over that of the same program alone without nvshare, where the scenario compares them.
    The last four are filled where the scenario looks at them.
    """

    name: str
    gpu: str
    status: str
    seconds: float
    iterations_per_second: float | None = None
    solo_ratio: float | None = None
    hand_overs: int | None = None
    waited_seconds: float | None = None
    checksum: str | None = None
    checksum_ok: bool | None = None

    @property
    def ok(self) -> bool:
        return self.status == "ok"


@dataclass(frozen=True)
class Result:
    """A scenario's outcome. `date` is ISO 8601, UTC; `command` the command line that repeats it."""

    scenario: str
    date: str
    hardware: str
    command: str
    rows: tuple[Row, ...]
    summary: Mapping[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every program ended well and right."""
        return all(row.ok for row in self.rows)


_ALWAYS = ("name", "gpu", "status", "seconds", "iterations_per_second", "solo_ratio")
_WHERE_FILLED = ("hand_overs", "waited_seconds", "checksum", "checksum_ok")


def row_document(row: Row) -> dict[str, Any]:
    """A row as JSON values; what the scenario did not look at is left out."""
    document = {name: getattr(row, name) for name in _ALWAYS}
    document |= {name: value for name in _WHERE_FILLED if (value := getattr(row, name)) is not None}
    return document


def result_document(result: Result) -> dict[str, Any]:
    """`{scenario, date, hardware, command, rows: […], summary: {…}}`."""
    return {
        "scenario": result.scenario,
        "date": result.date,
        "hardware": result.hardware,
        "command": result.command,
        "rows": [row_document(row) for row in result.rows],
        "summary": dict(result.summary),
    }
