"""The outcome of `policies` as a table for people: a column for each way to share a card's time."""

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from nvshare.cli.bench.mixes import MIXES, ways
from nvshare.cli.bench.result import Result

FIGURES = {"sum_ratio": "sum", "least_ratio": "least", "p99_ratio": "p99 of bursts"}
EXPLANATION = (
    "sum, least: of the speeds of all programs of the mix, each over its own alone without nvshare.\n"
    "p99 of bursts: the time within which 99 of 100 bursts are done, over the same alone; less is better.\n"
    "stock: without nvshare. mps: NVIDIA MPS, without nvshare. The others: `nvshare up --time-sharing`."
)


def policies_table(result: Result) -> RenderableType:
    """For each mix the sum and the least of its speeds, and the p99 of its bursts; then what went wrong."""
    found = result.summary
    columns = [way for way in ways(mps=True) if any(f"{mix.name}_{way}_sum_ratio" in found for mix in MIXES)]
    table = Table()
    for heading in ("programs together", "figure"):
        table.add_column(heading)
    for way in columns:
        table.add_column(way, justify="right")
    for mix in MIXES:
        words = mix.text
        for figure, heading in FIGURES.items():
            values = [found.get(f"{mix.name}_{way}_{figure}") for way in columns]
            if any(value is not None for value in values):
                cells = ["" if value is None else f"{value:.3f}" for value in values]
                table.add_row(escape(words), heading, *cells)
                words = ""
        table.add_section()
    failed = [Text(f"{row.name}: {row.status}", style="bold red") for row in result.rows if not row.ok]
    return Group(Text(f"{result.scenario} on {result.hardware}", style="bold"), table, Text(EXPLANATION), *failed)
