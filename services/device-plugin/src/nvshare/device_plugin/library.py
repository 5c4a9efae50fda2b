"""The library on the host: `lib/<version>-<build>/libnvshare.so`, and the link `lib/current`.

The whole folder is mounted into containers, so moving the link changes what their next process loads, and nothing of
those that run. A version is never written over: processes have it mapped.
"""

from __future__ import annotations

import filecmp
import hashlib
import itertools
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import structlog

from nvshare.device_plugin.folders import set_label

LIBRARY_NAME = "libnvshare.so"
CURRENT = "current"
_OTHERS = re.compile(r"[^A-Za-z0-9._+-]")

_log = structlog.get_logger()


def install(source: Path, folder: Path, version: str, build: str, label: str = "") -> Path:
    """Puts the library `source` into `folder` and moves the link; gives the version's folder. Raises OSError.

    Another file under the same version and build gets a name of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    if label:
        set_label(folder, label)
    target = folder / _OTHERS.sub("-", f"{version}-{build}")
    installed = target / LIBRARY_NAME
    if installed.exists() and not filecmp.cmp(source, installed, shallow=False):
        digest = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
        target = target.with_name(f"{target.name}-{digest}")
        installed = target / LIBRARY_NAME
    if not installed.exists():
        _copy(source, target, label)
        _log.info("library installed", folder=target.name)
    link = folder / CURRENT
    if not link.is_symlink() or link.readlink() != Path(target.name):
        beside = folder / f".{CURRENT}.{secrets.token_hex(4)}"
        beside.symlink_to(target.name)
        beside.replace(link)
        os.utime(target)  # since when it is current
    return target


def current_version(folder: Path) -> str:
    """Version and build of the library that the next process loads; for people."""
    try:
        return (folder / CURRENT).readlink().name
    except OSError:
        return "none"


def prune(folder: Path, made_unix_ns: Sequence[int]) -> list[str]:
    """Removes the versions that no allocation can have in use, those being made at `made_unix_ns`: each stays until
    the last container that was there when the next one came is gone. Gives the names of those that went.
    """
    versions = sorted((one.stat().st_mtime_ns, one) for one in folder.iterdir() if _is_version(one))
    oldest = min(made_unix_ns, default=None)
    removed = []
    for (_, version), (replaced_ns, _) in itertools.pairwise(versions):
        if oldest is None or oldest > replaced_ns:
            shutil.rmtree(version)
            removed.append(version.name)
    return removed


def _is_version(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not path.name.startswith(".")


def _copy(source: Path, target: Path, label: str) -> None:
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    beside.mkdir()
    try:
        copy = beside / LIBRARY_NAME
        shutil.copyfile(source, copy)
        copy.chmod(0o755)
        beside.chmod(0o755)
        if label:
            for path in (beside, copy):
                set_label(path, label)
        with copy.open("rb") as written:
            os.fsync(written.fileno())  # a link to half a library would stop every program of the node
        try:
            beside.rename(target)
        except OSError:
            if not (target / LIBRARY_NAME).exists():  # else another plugin was quicker
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
