"""A benchmark's result as a table for people. Pure: from a Result to what rich prints."""

from collections.abc import Sequence
from statistics import fmean

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from nvshare.cli.bench.result import Result, Row


def result_table(result: Result) -> RenderableType:
    """A line for each run; below them the least, the most and the mean of durations and speeds; then the summary."""
    rows = result.rows
    compared = any(row.solo_ratio is not None for row in rows)
    shared = any(row.hand_overs is not None for row in rows)
    table = Table()
    for heading in ("name", "GPU", "status"):
        table.add_column(heading)
    table.add_column("seconds", justify="right")
    table.add_column("it/s", justify="right")
    if compared:
        table.add_column("of solo", justify="right")
    if shared:
        for heading in ("hand-overs", "waited s", "checksum"):
            table.add_column(heading, justify="right")
    for row in rows:
        cells = [row.name, row.gpu, row.status, f"{row.seconds:.2f}", _number(row.iterations_per_second, ".1f")]
        if compared:
            cells.append(_number(row.solo_ratio, ".4f"))
        if shared:
            cells += [_number(row.hand_overs, "d"), _number(row.waited_seconds, ".2f"), _checksum(row)]
        table.add_row(*(escape(cell) for cell in cells), style=None if row.ok else "bold red")
    if len(rows) > 1:
        table.add_section()
        for name, seconds, speed in spread(rows):
            table.add_row(name, "", "", f"{seconds:.2f}", _number(speed, ".1f"), style="dim")
    summary = [Text(f"{name}: {value:.4g}") for name, value in result.summary.items()]
    return Group(Text(f"{result.scenario} on {result.hardware}", style="bold"), table, *summary)


def spread(rows: Sequence[Row]) -> list[tuple[str, float, float | None]]:
    """(`min`, `max`, `avg`), each with that of the durations and of the speeds (None where no row has one)."""
    seconds = [row.seconds for row in rows]
    speeds = [row.iterations_per_second for row in rows if row.iterations_per_second is not None]
    return [
        ("min", min(seconds), min(speeds, default=None)),
        ("max", max(seconds), max(speeds, default=None)),
        ("avg", fmean(seconds), fmean(speeds) if speeds else None),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _checksum(row: Row) -> str:
    if row.checksum_ok is None:
        return row.checksum or ""
    return f"{row.checksum} {'equal' if row.checksum_ok else 'DIFFERS'}"
