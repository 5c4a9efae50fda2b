"""The emulated GPU: where its ``libcuda.so.1`` and ``libnvidia-ml.so.1`` are.

A program sees the emulated cards when their folder is the first of its ``LD_LIBRARY_PATH``; ``docs/protocol.md``
lists the environment that describes them.
"""

from pathlib import Path

KERNEL_IMAGE = b"NVSHARE-EMULATOR-KERNELS-1\0"
"""The module image of the emulator's own kernels (``emulator/src/kernel.h`` documents them)."""

_LIBRARY = "libcuda.so.1"


def library_directory() -> Path:
    """Return the folder that holds both libraries: beside this package when installed, else the tree's build folder.

    Raises:
        FileNotFoundError: the libraries are not built; ``make setup`` builds them.
    """
    package = Path(__file__).resolve().parent
    trees = [parent for parent in package.parents if (parent / "emulator" / "CMakeLists.txt").exists()]
    candidates = [package, *(tree / "build" / "emulator" for tree in trees)]
    for candidate in candidates:
        if (candidate / _LIBRARY).exists():
            return candidate
    folders = " or ".join(str(candidate) for candidate in candidates)
    raise FileNotFoundError(f"the emulated GPU is not built: no {_LIBRARY} in {folders}; run `make setup`")
