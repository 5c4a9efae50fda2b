"""Where the command writes to."""

import sys

from rich.console import Console


def console() -> Console:
    """The terminal. Without one rich assumes 80 columns and folds the tables; a log or a pipe has room."""
    return Console() if sys.stdout.isatty() else Console(width=200)
