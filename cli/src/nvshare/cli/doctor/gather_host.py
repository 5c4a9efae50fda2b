"""Looks at the machine: kernel, memory, driver, container toolkit. Never raises for what it finds."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml

from nvshare.cli.doctor.facts import DriverFacts, GpuFacts, HostFacts, ToolkitFacts

_MEMBARRIER_NUMBERS = {"x86_64": 324, "aarch64": 283}  # of the system call
_MEMBARRIER_QUERY = 0
_MEMBARRIER_PRIVATE_EXPEDITED = 1 << 3
_SO_PEERPIDFD = 77
_DRIVER_VERSION = Path("/proc/driver/nvidia/version")
_MPS_PROGRAMS = ("nvidia-cuda-mps", "nvidia-cuda-mps-server", "nvidia-cuda-mps-control")
_TOOLKIT_PROGRAMS = ("nvidia-ctk", "nvidia-container-runtime", "nvidia-container-cli")
_RUNTIME_FILES = (
    "/etc/containerd/config.toml",
    "/etc/containerd/conf.d",
    "/etc/crio/crio.conf.d",
    "/etc/docker/daemon.json",
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
)
_NVIDIA = re.compile("nvidia")
_CDI_KIND = re.compile(r"nvidia\.com/gpu")
# As containerd (default_runtime_name), CRI-O (default_runtime) and Docker ("default-runtime") call it.
_DEFAULT_RUNTIME = re.compile(r"""^\s*"?default[-_]runtime(?:_name)?"?\s*[=:]\s*["']nvidia["']""", re.MULTILINE)
_CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
_CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))


def gather_host() -> HostFacts:
    """Kernel, C library and memory."""
    library, version = platform.libc_ver()
    memory = _memory()
    return HostFacts(
        root=os.geteuid() == 0,
        container="KUBERNETES_SERVICE_HOST" in os.environ or any(path.exists() for path in _CONTAINER_MARKS),
        kernel=platform.release(),
        glibc=version if library == "glibc" else "",
        membarrier=_has_membarrier(),
        pidfd=_works(lambda: os.close(os.pidfd_open(os.getpid()))),
        peer_pidfd=_works(_ask_for_peer_pidfd),
        memfd=_works(lambda: os.close(os.memfd_create("nvshare-doctor"))),
        memory_bytes=memory.get("MemTotal", 0),
        available_bytes=memory.get("MemAvailable", 0),
    )


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (OSError, AttributeError):
        return False
    return True


def _has_membarrier() -> bool:
    number = _MEMBARRIER_NUMBERS.get(platform.machine())
    if number is None:
        return False
    commands = int(ctypes.CDLL(None, use_errno=True).syscall(number, _MEMBARRIER_QUERY, 0))
    return commands > 0 and bool(commands & _MEMBARRIER_PRIVATE_EXPEDITED)


def _ask_for_peer_pidfd() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        os.close(ours.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))


def _memory() -> dict[str, int]:
    """Bytes by name, of /proc/meminfo."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, amount = line.partition(":")
            if amount.endswith(" kB"):
                found[name] = int(amount.removesuffix(" kB")) * 1024
    return found


def gather_driver() -> DriverFacts:
    """What NVML says, in this process's environment."""
    mps_pids = tuple(_pids_of(_MPS_PROGRAMS))
    kernel_version = _kernel_driver_version()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return DriverFacts(version=kernel_version, refusal=str(error), mps_pids=mps_pids)
    try:
        gpus = tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
        version = _text(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError as error:
        return DriverFacts(version=kernel_version, refusal=str(error), mps_pids=mps_pids)
    finally:
        pynvml.nvmlShutdown()
    emulated = any("Emulated" in gpu.name for gpu in gpus)
    libcuda = _works(lambda: ctypes.CDLL("libcuda.so.1"))
    return DriverFacts(version, "", emulated, libcuda, gpus, mps_pids)


def _gpu(index: int) -> GpuFacts:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        shared_modes = (pynvml.NVML_COMPUTEMODE_DEFAULT, None)
        return GpuFacts(
            index=index,
            uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
            name=_text(pynvml.nvmlDeviceGetName(handle)),
            total_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            exclusive=_optional(pynvml.nvmlDeviceGetComputeMode, handle) not in shared_modes,
            mig=bool((_optional(pynvml.nvmlDeviceGetMigMode, handle) or [0])[0]),
            display=_optional(pynvml.nvmlDeviceGetDisplayActive, handle) == 1,
        )
    except pynvml.NVMLError as error:
        return GpuFacts(index, problem=str(error))


def _optional(question: Callable[[Any], Any], handle: Any) -> Any:
    """The answer; None where this driver or card does not know."""
    try:
        return question(handle)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return None


def _kernel_driver_version() -> str:
    try:
        words = _DRIVER_VERSION.read_text().split()
    except OSError:
        return ""
    return next((word for word in words if word.count(".") >= 1 and word.replace(".", "").isdecimal()), "")


def _pids_of(names: tuple[str, ...]) -> list[int]:
    """The processes with one of these names, as the kernel cuts them."""
    cut = {name[:15] for name in names}
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                if (folder / "comm").read_text().strip() in cut:
                    found.append(int(folder.name))
    return sorted(found)


def gather_toolkit() -> ToolkitFacts:
    """What files tell of NVIDIA's container toolkit."""
    return ToolkitFacts(
        programs=tuple(name for name in _TOOLKIT_PROGRAMS if shutil.which(name)),
        runtimes=tuple(path for path in _RUNTIME_FILES if _matches(Path(path), _NVIDIA)),
        default=any(_matches(Path(path), _DEFAULT_RUNTIME) for path in _RUNTIME_FILES),
        cdi_specs=tuple(str(spec) for folder in _CDI_FOLDERS for spec in _files(folder) if _matches(spec, _CDI_KIND)),
    )


def _matches(path: Path, pattern: re.Pattern[str]) -> bool:
    """Whether a file, or one in a folder, has such a text."""
    for file in _files(path) if path.is_dir() else [path]:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if pattern.search(file.read_text()):
                return True
    return False


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:
        return []


def _text(answer: str | bytes) -> str:
    return answer.decode() if isinstance(answer, bytes) else answer
