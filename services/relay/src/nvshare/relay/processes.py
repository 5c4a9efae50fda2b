"""What the kernel says of the process at the other end of a unix socket, and of its end."""

import errno
import os
import select
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from nvshare.relay.peers import Process

_SO_PEERGROUPS = 59  # <asm-generic/socket.h>, Linux 4.13
_SO_PEERPIDFD = 77  # <asm-generic/socket.h>, Linux 6.5
_UCRED = struct.Struct("3i")
_MAX_GROUPS = 1024

# A pidfd of a process that was reaped: ESRCH, and EINVAL or ENODATA from SO_PEERPIDFD. A pid that is a thread's now:
# EINVAL, and ENOENT since Linux 6.9. Everything else (no descriptor left, no memory) says nothing about the process.
_GONE = frozenset({errno.ESRCH, errno.ENOENT, errno.EINVAL, errno.ENODATA})


class ProcessGoneError(RuntimeError):
    """The process has ended, or the relay cannot see it."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who connected: the process that called connect(2), even when another one holds the socket now."""

    pid: int
    uid: int
    gid: int


def peer_credentials(connection: socket.socket) -> Credentials:
    """SO_PEERCRED of a connected unix socket; the pid is 0 when it is outside of the relay's pid namespace."""
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Credentials(pid=pid, uid=uid & 0xFFFFFFFF, gid=gid & 0xFFFFFFFF)


def peer_groups(connection: socket.socket) -> frozenset[int]:
    """The supplementary groups of who connected (SO_PEERGROUPS); none where the kernel does not tell."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:
        return frozenset()
    return frozenset(group for (group,) in struct.iter_unpack("I", raw))


def peer_pidfd(connection: socket.socket, pid: int) -> int:
    """A new descriptor of the process that connected: from the kernel (SO_PEERPIDFD), else by its pid.

    Raises ProcessGoneError, or OSError when the relay is short of something.
    """
    if pid <= 0:
        raise ProcessGoneError("the process is not in the relay's pid namespace")
    try:
        descriptor = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:  # an older kernel
            return open_pidfd(pid)
        raise _gone_or(error, pid) from None
    os.set_inheritable(descriptor, False)
    return descriptor


def open_pidfd(pid: int) -> int:
    """A new descriptor of the process `pid`. Raises ProcessGoneError, or OSError when the relay is short of
    something.
    """
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise _gone_or(error, pid) from None


def has_ended(pidfd: int) -> bool:
    """Whether the process of `pidfd` has ended (a zombie has)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def identify(pid: int, pidfd: int) -> Process:
    """The life of `pid` that `pidfd` stands for. Raises ProcessGoneError, or OSError when the relay is short of
    something.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError as error:
        raise _gone_or(error, pid) from None
    # The second field is the program's name in parentheses and may hold anything; field 22 is the 20th after it
    # (proc(5)).
    start_time_ticks = int(stat.rpartition(")")[2].split()[19])
    if has_ended(pidfd):  # then the pid may have been another's when it was read
        raise ProcessGoneError(f"process {pid} is gone")
    return Process(pid, start_time_ticks)


def pidfd_of(process: Process) -> int:
    """A new descriptor of this life of the process. Raises ProcessGoneError when it ended, even if its pid is
    another's now, or OSError when the relay is short of something.
    """
    pidfd = open_pidfd(process.pid)
    try:
        if identify(process.pid, pidfd) != process:
            raise ProcessGoneError(f"process {process.pid} is another one now")
    except (ProcessGoneError, OSError):
        os.close(pidfd)
        raise
    return pidfd


def _gone_or(error: OSError, pid: int) -> Exception:
    """ProcessGoneError when `error` means that, else `error` itself."""
    return ProcessGoneError(f"process {pid} is gone: {error.strerror}") if error.errno in _GONE else error
