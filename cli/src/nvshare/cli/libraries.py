"""Where our C libraries are; a source tree in which they are not built yet gets one clear line."""

from pathlib import Path

from nvshare import emulator, preload
from nvshare.cli.errors import CommandError


def preload_library() -> Path:
    """The library that programs are preloaded with. Raises CommandError when it is not built."""
    try:
        return preload.library_path()
    except FileNotFoundError as error:
        raise CommandError(str(error)) from error


def emulator_libraries() -> Path:
    """The folder of the emulated driver and NVML. Raises CommandError when they are not built."""
    try:
        return emulator.library_directory()
    except FileNotFoundError as error:
        raise CommandError(str(error)) from error
