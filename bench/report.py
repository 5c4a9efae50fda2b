"""Makes the report of the benchmarks: the JSON files of `nvshare bench --json` as tables in Markdown.

    python bench/report.py bench/results/*.json

One line a scenario: its summary, the hardware, the day and the command that repeats it.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HEADINGS = ("scenario", "result", "hardware", "date", "command")


def results_of(document: Any) -> list[Mapping[str, Any]]:
    """The results in one file, which holds one or a list."""
    return list(document) if isinstance(document, list) else [document]


def summary_words(result: Mapping[str, Any]) -> str:
    """The figures of a result, and how many of its runs failed, if any."""
    words = [f"{name} {value:.4g}" for name, value in result["summary"].items()]
    failed = sum(row["status"] != "ok" for row in result["rows"])
    if failed:
        words.append(f"**{failed} of {len(result['rows'])} runs failed**")
    return ", ".join(words)


def report(results: Iterable[Mapping[str, Any]]) -> str:
    """The table, by scenario, the newest first."""
    ordered = sorted(results, key=lambda result: result["date"], reverse=True)
    ordered.sort(key=lambda result: result["scenario"])
    lines = [f"| {' | '.join(HEADINGS)} |", f"|{' --- |' * len(HEADINGS)}"]
    for result in ordered:
        cells = (
            result["scenario"],
            summary_words(result),
            result["hardware"],
            result["date"][:10],
            f"`{result['command']}`",
        )
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def main(paths: list[str]) -> None:
    """Print the report of these files."""
    documents = [json.loads(Path(path).read_text()) for path in paths]
    sys.stdout.write(report(result for document in documents for result in results_of(document)))


if __name__ == "__main__":
    main(sys.argv[1:])
