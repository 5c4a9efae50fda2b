"""Which node shares a real GPU: at most one of a machine, or two schedulers would promise the same memory."""

import contextlib
import errno
import socket
from collections.abc import Iterator, Sequence

import pynvml

from nvshare.cli.errors import CommandError


def real_gpus(indices: Sequence[int] = ()) -> tuple[str, ...]:
    """UUIDs of the GPUs that NVML shows, or of those with these indices. Raises CommandError when there is none."""
    uuids: tuple[str, ...] = ()
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        try:
            handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
            uuids = tuple(str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles)
        finally:
            pynvml.nvmlShutdown()
    if not uuids:
        raise CommandError("no NVIDIA GPU found (NVML shows none); use `--emulate 1` for an emulated one")
    missing = [index for index in indices if index >= len(uuids)]
    if missing:
        raise CommandError(f"there is no GPU {missing[0]}: NVML shows {len(uuids)}, the first is GPU 0")
    return tuple(uuids[index] for index in indices) or uuids


@contextlib.contextmanager
def claimed(uuids: Sequence[str]) -> Iterator[None]:
    """Hold a claim on each of these GPUs. Raises CommandError when another node of this machine shares one of them.

    A claim is a bound socket with an abstract name (unix(7)): no file that somebody could put there or take away, and
    the kernel gives it back with the process. It counts within one network namespace.
    """
    with contextlib.ExitStack() as claims:
        for uuid in uuids:
            claim = claims.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            try:
                claim.bind(f"\0nvshare-gpu-{uuid}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                raise CommandError(
                    f"another node shares GPU {uuid}; use it, or end it first (`nvshare status` finds root's and yours)"
                ) from error
        yield
