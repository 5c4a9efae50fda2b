"""Where the preload library is: `library_path()`."""

from pathlib import Path

__all__ = ["library_path"]

_NAME = "libnvshare.so"


def library_path() -> Path:
    """The path of libnvshare.so: beside this module in an installation, in the build folder of a source tree otherwise.

    Raises FileNotFoundError, saying what to do, if it was not built.
    """
    here = Path(__file__).resolve()
    installed = here.parent / _NAME
    built = here.parents[4] / "build" / "libnvshare" / _NAME
    for path in (installed, built):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{_NAME} is not built: run `make build` in the source tree")
