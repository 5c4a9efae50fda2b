"""How a node is to be run, and the command line that says so."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nvshare.bus.node_directory import NodeDirectory

MODES = ("auto", "serial", "concurrent", "off")
TIME_SHARINGS = ("auto", "driver", "slices", "slots")

NATS_PORT_KEPT = 0
"""Instead of a port: that of the node's last bus, if it is free, else any."""

Quantum = float | Literal["auto"]
"""Seconds, or `auto`: from the measured time of a swap."""


@dataclass(frozen=True)
class HubOption:
    """The hub that a node is a leaf of: its address, a file with a credential, and one with certificates."""

    url: str
    credentials: Path | None = None
    ca_file: Path | None = None

    def arguments(self) -> tuple[str, ...]:
        """The arguments that stand for it."""
        files = {"--hub-credentials": self.credentials, "--hub-ca": self.ca_file}
        given = [str(part) for option, path in files.items() if path is not None for part in (option, path.absolute())]
        return ("--hub", self.url, *given)


@dataclass(frozen=True)
class NodeOptions:
    """`None` leaves a setting at its default. `emulated_gpus` 0 is a node of real cards.

    `gpus` are the indices of the GPUs that the node shares, as NVML counts them; empty: all.
    `gpu_memory_bytes` is an emulated card's size, and on a real card the logical capacity that nvshare shares out.
    `time_sharing` is by which means programs that are on a GPU share its time.
    `overcommit_ratio` times that is the most that a GPU promises in all; `host_memory_bytes` the most host memory that
    the node keeps for what is moved off its cards.
    `hub` is whose leaf the node is; `nats_port` where its NATS server listens.
    """

    directory: Path
    emulated_gpus: int = 0
    gpus: tuple[int, ...] = ()
    gpu_memory_bytes: int | None = None
    mode: str | None = None
    time_sharing: str | None = None
    quantum: Quantum | None = None
    max_wait_seconds: float | None = None
    overcommit_ratio: float | None = None
    host_memory_bytes: int | None = None
    hub: HubOption | None = None
    nats_port: int = NATS_PORT_KEPT

    @classmethod
    def default(cls, node_dir: Path | None, emulated_gpus: int = 0) -> "NodeOptions":
        """A node in `node_dir`, else in the user's own folder, with every other setting at its default."""
        directory = node_dir if node_dir is not None else NodeDirectory.default().path
        return cls(directory.absolute(), emulated_gpus)

    def arguments(self) -> tuple[str, ...]:
        """The arguments of `nvshare up` that stand for these options."""
        arguments = ["--node-dir", str(self.directory)]
        if self.emulated_gpus:
            arguments += ["--emulate", str(self.emulated_gpus)]
        settings = {
            "--gpu": ",".join(map(str, self.gpus)) or None,
            "--gpu-memory": self.gpu_memory_bytes,
            "--mode": self.mode,
            "--time-sharing": self.time_sharing,
            "--quantum": self.quantum,
            "--max-wait": self.max_wait_seconds,
            "--overcommit": self.overcommit_ratio,
            "--host-memory": self.host_memory_bytes,
            "--nats-port": self.nats_port or None,
        }
        for option, value in settings.items():
            if value is not None:
                arguments += [option, str(value)]
        if self.hub is not None:
            arguments += self.hub.arguments()
        return tuple(arguments)
