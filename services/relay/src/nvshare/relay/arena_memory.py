"""The memory of the node arena: segments as memfds that are faulted in here, so that they are charged to the relay.

Whoever touches a page first is charged for it. A segment is sealed against growing and against further seals, and not
against shrinking: truncating it frees its pages, whoever still has it mapped or keeps its descriptor.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import stat
from pathlib import Path

from nvshare.relay.arena import MAX_SEGMENT_BYTES, STEP_BYTES

_NAME = "nvshare-arena"
_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MADV_POPULATE_WRITE = 23  # Linux 5.14
_MPOL_PREFERRED = 1  # numaif.h
_SYS_MBIND = {"x86_64": 237, "aarch64": 235}
_MAX_NUMA_NODES = 64  # the bits of the one word that is passed
_KEEP_OF_HOST = 16  # a part of all memory that the arena leaves to everybody else, whatever its size is
_NO_LIMIT = 2**62
_libc = ctypes.CDLL(None, use_errno=True)  # its calls release the interpreter's lock


def available_bytes() -> int:
    """What the host could still give to the arena."""
    return max(0, _meminfo("MemAvailable") - _meminfo("MemTotal") // _KEEP_OF_HOST)


def default_total_bytes() -> int:
    """An arena's size where no setting says another: half of the host's memory, or of what the relay's cgroup may
    have.
    """
    return min(_meminfo("MemTotal"), _cgroup_limit_bytes()) // 2 // STEP_BYTES * STEP_BYTES


class Segment:
    """One memfd, without pages yet. `file` is its inode."""

    def __init__(self, size_bytes: int) -> None:
        """Raises OSError."""
        self.bytes = size_bytes
        self.descriptor = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, size_bytes)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
            self.file = _file_of(self.descriptor)
        except OSError:
            os.close(self.descriptor)
            raise

    @classmethod
    def adopt(cls, descriptor: int, size_bytes: int) -> "Segment":
        """Of a descriptor that a client handed in, which it owns from here on. Raises OSError, EBADF where that is none
        of an arena's.
        """
        try:
            status = os.fstat(descriptor)
            is_ours = (
                stat.S_ISREG(status.st_mode)
                and fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) == _SEALS
                and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
                and status.st_size == size_bytes <= MAX_SEGMENT_BYTES
                and status.st_blocks * 512 >= size_bytes
            )
            if not is_ours:
                raise OSError(errno.EBADF, "this is no segment of an arena")
        except OSError:
            os.close(descriptor)
            raise
        segment = cls.__new__(cls)
        segment.bytes = size_bytes
        segment.descriptor = descriptor
        segment.file = (status.st_dev, status.st_ino)
        return segment

    def fault_in(self, offset: int, size_bytes: int, numa_node: int) -> None:
        """Makes the pages of a part, near `numa_node` if that is not -1. Releases the interpreter's lock: several
        threads make several parts at once. Raises OSError.
        """
        with mmap.mmap(self.descriptor, size_bytes, offset=offset) as mapped:
            first = ctypes.c_char.from_buffer(mapped)
            try:
                address = ctypes.c_void_p(ctypes.addressof(first))
                _prefer_node(address, size_bytes, numa_node)
                failed = _libc.madvise(address, ctypes.c_size_t(size_bytes), _MADV_POPULATE_WRITE) != 0
                number = ctypes.get_errno()
            finally:
                del first  # or the mapping could not be closed
        if failed and number == errno.EINVAL:  # an older kernel
            os.posix_fallocate(self.descriptor, offset, size_bytes)
        elif failed:
            raise OSError(number, os.strerror(number))

    def wipe(self) -> None:
        """Frees its pages and closes it."""
        try:
            os.ftruncate(self.descriptor, 0)
        finally:
            os.close(self.descriptor)

    def close(self) -> None:
        """Closes it; its pages stay with whoever has it."""
        os.close(self.descriptor)


def maps_arena(pid: int) -> bool:
    """Whether the process has memory of an arena mapped; true as well where the kernel does not tell."""
    try:
        with Path(f"/proc/{pid}/maps").open(errors="replace") as maps:
            return any(f"/memfd:{_NAME}" in line for line in maps)
    except OSError:
        return True


def _file_of(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _prefer_node(address: ctypes.c_void_p, size_bytes: int, numa_node: int) -> None:
    """A preference: on a host without NUMA, or with a node that has no memory, the pages come from elsewhere."""
    number = _SYS_MBIND.get(platform.machine())
    if number is not None and 0 <= numa_node < _MAX_NUMA_NODES:
        nodes = ctypes.c_ulong(1 << numa_node)
        _libc.syscall(
            ctypes.c_long(number),
            address,
            ctypes.c_size_t(size_bytes),
            ctypes.c_long(_MPOL_PREFERRED),
            ctypes.byref(nodes),
            ctypes.c_ulong(_MAX_NUMA_NODES + 1),  # the kernel takes one off
            ctypes.c_long(0),
        )


def _meminfo(name: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _cgroup_limit_bytes() -> int:
    """The least limit of the memory cgroups that this process is in, as far as it sees them."""
    limit_bytes = _NO_LIMIT
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return limit_bytes
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, name = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        own = mount / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(mount):
                limit_bytes = min(limit_bytes, _limit_in(folder / name))
    return limit_bytes


def _limit_in(file: Path) -> int:
    try:
        text = file.read_text().strip()
    except OSError:
        return _NO_LIMIT
    return int(text) if text.isdecimal() else _NO_LIMIT
