"""The environments of a node's services and of the programs that run under it. Pure: the base environment comes in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nvshare.cli.node_options import NodeOptions


@dataclass(frozen=True)
class EmulatedCards:
    """Where emulated cards are found: the folder of their state, and the folder of the emulator's libraries."""

    folder: Path
    libraries: Path


def with_emulator(base: Mapping[str, str], cards: EmulatedCards) -> dict[str, str]:
    """`base` for a program that finds the emulated cards instead of real ones."""
    search = [str(cards.libraries), base.get("LD_LIBRARY_PATH", "")]
    return {**base, "LD_LIBRARY_PATH": ":".join(filter(None, search)), "NVSHARE_EMULATOR_DIR": str(cards.folder)}


def service_environment(
    base: Mapping[str, str], directory: Path, node_name: str, options: NodeOptions, cards: EmulatedCards | None
) -> dict[str, str]:
    """For a node's services: nothing preloaded, the node's settings, and the emulated cards if the node has such."""
    environment = {name: value for name, value in base.items() if name not in ("LD_PRELOAD", "NVSHARE_SOCKET")}
    environment |= {"NVSHARE_NODE_DIR": str(directory), "NVSHARE_NODE": node_name, "NVSHARE_PARENT_DEATH": "1"}
    settings = {
        "NVSHARE_GPUS": ",".join(map(str, options.gpus)) or None,
        "NVSHARE_MODE": options.mode,
        "NVSHARE_TIME_SHARING": options.time_sharing,
        "NVSHARE_QUANTUM": options.quantum,
        "NVSHARE_MAX_WAIT": options.max_wait_seconds,
        "NVSHARE_OVERCOMMIT": options.overcommit_ratio,
        "NVSHARE_ARENA": options.host_memory_bytes,
    }
    environment |= {name: str(value) for name, value in settings.items() if value is not None}
    if cards is None:
        if options.gpu_memory_bytes is not None:
            environment["NVSHARE_GPU_MEMORY"] = str(options.gpu_memory_bytes)
        return environment
    environment["NVSHARE_EMULATOR_DEVICES"] = str(options.emulated_gpus)
    if options.gpu_memory_bytes is not None:
        environment["NVSHARE_EMULATOR_MEMORY"] = str(options.gpu_memory_bytes)
    return with_emulator(environment, cards)


def job_environment(
    base: Mapping[str, str], library: Path, socket: Path, gpus: Sequence[str], cards: EmulatedCards | None
) -> dict[str, str]:
    """For a program under a share: the preloaded library, the allocation's socket, and the UUIDs of its GPUs.

    What was preloaded before stays, behind our library. The data of emulated cards is mostly holes, and so is the host
    memory that it is moved to, unless the caller says another.
    """
    preloaded = [entry for entry in base.get("LD_PRELOAD", "").replace(" ", ":").split(":") if entry]
    others = [entry for entry in preloaded if Path(entry).name != library.name]
    environment = {
        **base,
        "LD_PRELOAD": ":".join([str(library), *others]),
        "NVSHARE_SOCKET": str(socket),
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
    }
    return environment if cards is None else with_emulator({"NVSHARE_HOST_MEMORY": "sparse", **environment}, cards)
