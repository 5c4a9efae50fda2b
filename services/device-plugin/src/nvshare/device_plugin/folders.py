"""The allocation folders on disk: made, repaired, read, removed.

What is decided here is only how; `joining` and `keeping` say when. A folder's name is random, so that nobody can guess
the way to somebody else's socket. Everything in it may be read by everybody: containers run as any user, and the folder
is mounted into one of them alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from pathlib import Path

import structlog

from nvshare.bus.node_directory import NodeDirectory, write_atomically
from nvshare.device_plugin.injection import PRELOAD_FILE, preload_text
from nvshare.device_plugin.records import Record, RecordError, is_foreign, parse_record

_FOLDER_MODE = 0o755
_FILE_MODE = 0o644
_SELINUX = "security.selinux"

_log = structlog.get_logger()


class Folders:
    """Those of one node. `label`: the SELinux label that they get where the host has SELinux; empty: the host's own."""

    def __init__(self, directory: NodeDirectory, label: str = "") -> None:
        self._directory = directory
        self._label = label
        self._read: dict[str, tuple[tuple[int, int], Record]] = {}  # by name: version on disk, and what it says
        self._bad: set[str] = set()  # said once

    def path(self, allocation: str) -> Path:
        return self._directory.allocation(allocation)

    def new_id(self) -> str:
        """A name that nobody has."""
        return secrets.token_hex(8)

    def read_all(self) -> dict[str, Record]:
        """All allocations of device plugins that are on disk, by ID; those that cannot be read are left out."""
        found: dict[str, Record] = {}
        with contextlib.suppress(FileNotFoundError):
            for folder in sorted(self._directory.allocations.iterdir()):
                record = self._read_one(folder)
                if record is not None:
                    found[record.id] = record
        self._read = {name: one for name, one in self._read.items() if name in found}
        return found

    def write(self, record: Record) -> None:
        """Makes the allocation's folder what `record` says, whatever is missing of it. Raises OSError."""
        folder = self.path(record.id)
        self._directory.allocations.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        folder.chmod(_FOLDER_MODE)  # whatever the umask is
        self._set_label(folder)
        text, preload = record.to_json(), preload_text(record.opted_out)
        preload_path = folder / PRELOAD_FILE
        # A file that is mounted is replaced only before a start; the container keeps the old one.
        if _text(preload_path) != preload:
            if preload_path.is_dir():  # a runtime makes one where it finds no file to mount
                preload_path.rmdir()
            write_atomically(preload_path, preload, _FILE_MODE)
            self._set_label(preload_path)
        description = self._directory.allocation_description(record.id)
        if _text(description) != text:
            write_atomically(description, text, _FILE_MODE)
            self._set_label(description)
            self._directory.touch_allocations(time.time_ns())
        status = description.stat()
        self._read[record.id] = ((status.st_mtime_ns, status.st_ino), record)

    def remove(self, allocation: str) -> None:
        """Removes a folder, if it is there."""
        self._read.pop(allocation, None)
        try:
            shutil.rmtree(self.path(allocation))
        except FileNotFoundError:
            return
        except OSError as error:
            _log.error("a folder cannot be removed", folder=allocation, error=error.strerror)

    def _read_one(self, folder: Path) -> Record | None:
        description = self._directory.allocation_description(folder.name)
        try:
            status = description.stat()
            version = (status.st_mtime_ns, status.st_ino)
            known = self._read.get(folder.name)
            if known is not None and known[0] == version:
                return known[1]
            text = description.read_text()
            if is_foreign(text):
                return None
            record = parse_record(text, folder.name)
        except (OSError, RecordError, UnicodeDecodeError) as error:
            if folder.name not in self._bad and not isinstance(error, FileNotFoundError):
                self._bad.add(folder.name)
                _log.warning("an allocation cannot be read", folder=folder.name, error=str(error))
            return None
        self._read[folder.name] = (version, record)
        return record

    def _set_label(self, path: Path) -> None:
        if self._label:
            set_label(path, self._label)


def set_label(path: Path, label: str) -> None:
    """Sets a file's SELinux label, where the host has SELinux."""
    try:
        os.setxattr(path, _SELINUX, label.encode() + b"\0")
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EINVAL):
            raise
        _log.debug("a label is not set", path=path, error=error.strerror)


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None
