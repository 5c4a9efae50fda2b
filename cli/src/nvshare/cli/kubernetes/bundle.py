"""The workloads' sources as an argument of Python: they run in any image that has Python and their framework."""

from __future__ import annotations

import base64
import io
import zipfile
from pathlib import Path

import nvshare.cli.workloads.loop

_PACKAGE = "nvshare/cli/workloads"
_START = """\
import base64, runpy, sys, tempfile
file = tempfile.NamedTemporaryFile(suffix=".zip")
file.write(base64.b64decode(sys.argv.pop(1)))
file.flush()
sys.path.insert(0, file.name)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that the format knows: the same sources give the same bytes


def bundled_command(python: str, arguments: list[str]) -> list[str]:
    """A command line that runs what `-m MODULE ARGUMENTS…` in `arguments` says, without nvshare being installed."""
    assert arguments[0] == "-m"
    return [python, "-c", _START, base64.b64encode(_sources()).decode(), *arguments[1:]]


def _sources() -> bytes:
    folder = Path(nvshare.cli.workloads.loop.__file__).parent
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        # Folders without __init__.py are packages only where the archive has them as entries.
        for parent in reversed([Path(_PACKAGE), *Path(_PACKAGE).parents][:-1]):
            archive.writestr(zipfile.ZipInfo(f"{parent}/", _DATE), "")
        for source in sorted(folder.glob("*.py")):
            entry = zipfile.ZipInfo(f"{_PACKAGE}/{source.name}", _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, source.read_text())
    return content.getvalue()
