"""The folder of a node that starts: made, checked, locked, and the place for the state of its emulated cards."""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.environment import EmulatedCards
from nvshare.cli.errors import CommandError
from nvshare.cli.libraries import emulator_libraries
from nvshare.cli.node_options import NodeOptions

LOCK_SECONDS = 0.2
SOCKET_PATH_BYTES = 107  # of sockaddr_un.sun_path, less its closing zero
LONGEST_SOCKET = f"allocations/{'x' * 40}/nvshare.sock"
# Left-overs of a node that was killed are removed by these names only: a node's folder may hold files of others.
EMULATED_CARDS = "emulated-cards"
EMULATED_CARDS_NAME = re.compile(r"[0-9a-f]{8}")


class NodeRunsError(CommandError):
    """Another `nvshare up` holds the folder."""


def check_directory(path: Path) -> None:
    """Make the node's folder, which all users may read and only its owner may change.

    Raises CommandError when it cannot be made, is too deep for the sockets in it, or is not ours alone to change.
    """
    if len(os.fsencode(path / LONGEST_SOCKET)) > SOCKET_PATH_BYTES:
        raise CommandError(f"{path} is too long a path for the sockets in it; choose a shorter --node-dir")
    try:
        if not path.exists():
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o755)  # whatever the umask of whoever starts the node
        found = path.stat()
    except OSError as error:
        raise CommandError(f"cannot make {path}: {error.strerror}; choose another folder with --node-dir") from error
    # Whoever may change the folder could replace the sockets in it.
    if found.st_uid != os.geteuid():
        raise CommandError(f"{path} belongs to uid {found.st_uid}; choose a folder of your own with --node-dir")
    if found.st_mode & 0o022:
        raise CommandError(f"others may write into {path}; run `chmod go-w {path}`, or choose another with --node-dir")


@contextlib.contextmanager
def locked(node: NodeDirectory) -> Iterator[None]:
    """Hold the node's lock. Raises NodeRunsError when another process holds it."""
    deadline = time.monotonic() + LOCK_SECONDS
    with node.lock.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # Whoever asks whether a node runs holds a shared lock for a moment.
                if time.monotonic() >= deadline:
                    raise NodeRunsError(
                        f"a node already runs in {node.path}; use it, end it, or choose another with --node-dir"
                    ) from None
            time.sleep(0.01)
        yield


@contextlib.contextmanager
def emulated_cards(node: NodeDirectory, options: NodeOptions) -> Iterator[EmulatedCards | None]:
    """A fresh folder for the state of the node's emulated cards, gone at the end; None for real cards.

    Each start has a folder of its own: a program of the node before does not meet the new node's cards.
    """
    parent = node.path / EMULATED_CARDS
    _remove_left_overs(parent)
    if not options.emulated_gpus:
        yield None
        return
    folder = parent / secrets.token_hex(4)
    folder.mkdir(parents=True)
    # Every user of the box may run on the cards, as on real ones.
    folder.chmod(0o1777)
    try:
        yield EmulatedCards(folder, emulator_libraries())
    finally:
        _remove_left_overs(parent)


def _remove_left_overs(parent: Path) -> None:
    if parent.is_symlink() or not parent.is_dir():
        return
    for folder in parent.iterdir():
        if EMULATED_CARDS_NAME.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # files of somebody else are in it
        parent.rmdir()
