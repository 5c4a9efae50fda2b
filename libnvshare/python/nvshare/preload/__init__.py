"""Where the preload library is: `library_path()`."""

import os
from pathlib import Path

__all__ = ["library_path"]

_NAME = "libnvshare.so"


def library_path() -> Path:
    """The path of libnvshare.so: what NVSHARE_LIBRARY names, else beside this module in an installation, else in the
    build folder of a source tree.

    Raises FileNotFoundError, saying what to do, if it is not there.
    """
    chosen = os.environ.get("NVSHARE_LIBRARY")
    if chosen:
        if not Path(chosen).is_file():
            raise FileNotFoundError(f"NVSHARE_LIBRARY names {chosen}, which is no file")
        return Path(chosen).absolute()
    here = Path(__file__).resolve()
    installed = here.parent / _NAME
    built = here.parents[4] / "build" / "libnvshare" / _NAME
    for path in (installed, built):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{_NAME} is not built: run `make build` in the source tree")
