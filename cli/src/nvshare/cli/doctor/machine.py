"""Checks of the machine: kernel, C library, memory, driver, GPUs. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from nvshare.bus.quantities import format_bytes
from nvshare.cli.doctor.check import Check, fault, ok, unknown, warning
from nvshare.cli.doctor.facts import DriverFacts, Facts, GpuFacts, HostFacts

OLDEST_GLIBC = (2, 17)
_UPDATE_KERNEL = "use Linux {} or later"


def machine_checks(facts: Facts) -> Iterator[Check]:
    """Of what is there whether a node runs or not."""
    yield from _kernel_checks(facts.host)
    yield _glibc_check(facts.host)
    yield from _driver_checks(facts)
    for gpu in facts.driver.gpus:
        yield _gpu_check(gpu)
    yield from _mps_checks(facts.driver)
    yield _memory_check(facts.host, facts.driver)


def _kernel_checks(host: HostFacts) -> Iterator[Check]:
    name = "kernel"
    missing = []
    if not host.pidfd:
        missing.append(fault(name, "it has no pidfd: nobody would notice that a program ended", _kernel("5.3")))
    if not host.memfd:
        missing.append(fault(name, "it has no memfd: there can be no node arena", _kernel("3.17")))
    if not host.membarrier:
        text = "it refuses expedited membarrier: each launch costs a fence"
        missing.append(warning(name, text, f"{_kernel('4.14')}; in a container allow the call in its seccomp profile"))
    if host.pidfd and not host.peer_pidfd:
        text = "it has no SO_PEERPIDFD: who connects is known by pid only"
        missing.append(warning(name, text, f"{_kernel('6.5')}, or run the relay in the host's pid namespace (hostPID)"))
    yield from missing or [ok(name, f"Linux {host.kernel} has what is needed: membarrier, pidfd, SO_PEERPIDFD, memfd")]


def _kernel(version: str) -> str:
    return _UPDATE_KERNEL.format(version)


def _glibc_check(host: HostFacts) -> Check:
    name = "C library"
    oldest = ".".join(map(str, OLDEST_GLIBC))
    advice = f"programs under nvshare need glibc {oldest} or later; those in containers bring their own"
    if not host.glibc:
        return warning(name, "this is not glibc", advice)
    version = tuple(int(part) for part in host.glibc.split(".")[:2] if part.isdecimal())
    if version < OLDEST_GLIBC:
        return fault(name, f"glibc {host.glibc} is too old", advice)
    return ok(name, f"glibc {host.glibc}")


def _driver_checks(facts: Facts) -> Iterator[Check]:
    name, driver = "driver", facts.driver
    if driver.refusal:
        yield _missing_driver(name, facts)
        return
    kind = "emulated GPU" if driver.emulated else "NVIDIA driver"
    if not driver.gpus:
        yield fault(name, f"{kind} {driver.version} knows no GPU", "see `nvidia-smi -L` and the kernel's log")
    elif not driver.libcuda:
        yield warning(
            name,
            f"{kind} {driver.version}, {len(driver.gpus)} GPUs, but no libcuda.so.1",
            "programs on this host need the driver's compute libraries; containers get theirs from the toolkit",
        )
    else:
        yield ok(name, f"{kind} {driver.version}, GPUs: {len(driver.gpus)}")


def _missing_driver(name: str, facts: Facts) -> Check:
    """NVML cannot be used: whether that matters depends on what else is here."""
    driver, node = facts.driver, facts.node
    if node is not None and node.status is not None and node.status.gpus:
        kind = "emulated GPUs" if node.emulated else "GPUs"
        return ok(name, f"not needed here: the node's scheduler has {len(node.status.gpus)} {kind}")
    text = f"NVML cannot be used: {driver.refusal}"
    advice = "install NVIDIA's driver, or try nvshare on emulated GPUs (`nvshare up --emulate 1`)"
    if driver.version:
        advice = f"the kernel's part is there ({driver.version}): put the driver's libraries where the linker looks"
    return fault(name, text, advice) if facts.kubelet.present else warning(name, text, advice)


def _gpu_check(gpu: GpuFacts) -> Check:
    name = f"GPU {gpu.index}"
    described = f"{gpu.name}, {format_bytes(gpu.total_bytes)}"
    if gpu.problem:
        return fault(
            name, f"it cannot be used: {gpu.problem}", "see the kernel's log for Xid errors; reset it or reboot"
        )
    if gpu.exclusive:
        advice = f"run `nvidia-smi -i {gpu.index} -c DEFAULT`"
        return fault(name, f"{described}: its compute mode keeps programs from sharing it", advice)
    if gpu.mig:
        advice = f"run `nvidia-smi -i {gpu.index} -mig 0`, or leave this GPU to others"
        return warning(name, f"{described}: it is split by MIG, whose parts nvshare does not share", advice)
    if gpu.display:
        return warning(
            name, f"{described}: it drives a display, whose memory and time are not nvshare's", "share another GPU"
        )
    return ok(name, f"{described}, {gpu.uuid}")


def _mps_checks(driver: DriverFacts) -> Iterator[Check]:
    if driver.mps_pids:
        pids = ", ".join(map(str, driver.mps_pids))
        text = f"NVIDIA's MPS runs (pid {pids}): programs under it have no time slices of their own"
        yield warning(
            "MPS", text, "end it (`echo quit | nvidia-cuda-mps-control`), or leave its programs out of nvshare"
        )
    elif not driver.refusal:
        yield ok("MPS", "NVIDIA's MPS does not run")


def _memory_check(host: HostFacts, driver: DriverFacts) -> Check:
    name = "host memory"
    if not host.memory_bytes:
        return unknown(name, "the kernel does not say how much there is")
    arena_bytes = host.memory_bytes // 2  # the relay's default
    card_bytes = max((gpu.total_bytes for gpu in driver.gpus), default=0)
    text = (
        f"{format_bytes(host.available_bytes)} of {format_bytes(host.memory_bytes)} are free; "
        f"what moves off the GPUs may have {format_bytes(arena_bytes)}"
    )
    if card_bytes and not driver.emulated and min(arena_bytes, host.available_bytes) < card_bytes:
        advice = "programs that would need more are refused memory; add host memory, or share less (`--gpu-memory`)"
        return warning(name, f"{text}, less than a card has ({format_bytes(card_bytes)})", advice)
    return ok(name, text)
