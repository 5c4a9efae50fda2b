"""A control group (cgroup v2) that bounds a program's host memory, as a container's limit does."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
# The shell moves itself into the group whose folder is $0, then becomes the program.
ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


class NoControlGroupError(RuntimeError):
    """Why no program can be bounded here, in one sentence."""


@contextlib.contextmanager
def memory_limited(limit_bytes: int) -> Iterator[tuple[str, ...]]:
    """The beginning of a command line that runs the rest of it in a new group with so much memory, and no swap space.

    Raises NoControlGroupError where this user may not make one, or the system has no memory controller for it.
    """
    folder = _root() / f"nvshare-bench-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        raise NoControlGroupError(f"cannot make a control group: {error.strerror}") from error
    try:
        try:
            (folder / "memory.max").write_text(str(limit_bytes))
        except OSError as error:
            raise NoControlGroupError(f"cannot limit memory in a control group: {error.strerror}") from error
        with contextlib.suppress(OSError):  # a host without swap space has no such file
            (folder / "memory.swap.max").write_text("0")
        yield ("/bin/sh", "-c", ENTER, str(folder))
    finally:
        # Its programs have ended by now; a group that still has one stays, and is empty at the next start.
        with contextlib.suppress(OSError):
            folder.rmdir()


def _root() -> Path:
    if os.geteuid() != 0:
        raise NoControlGroupError("only root can bound a program's memory with a control group")
    for root in ROOTS:
        controllers = root / "cgroup.controllers"
        if controllers.exists() and "memory" in controllers.read_text().split():
            with contextlib.suppress(OSError):
                (root / "cgroup.subtree_control").write_text("+memory")
            return root
    raise NoControlGroupError("this system has no cgroup v2 with a memory controller")
