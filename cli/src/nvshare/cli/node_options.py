"""How a node is to be run, and the command line that says so."""

from dataclasses import dataclass
from pathlib import Path

from nvshare.bus.node_directory import NodeDirectory

MODES = ("auto", "serial", "concurrent", "off")


@dataclass(frozen=True)
class NodeOptions:
    """`None` leaves a setting at its default. `emulated_gpus` 0 is a node of real cards.

    `gpu_memory_bytes` is an emulated card's size, and on a real card the logical capacity that nvshare shares out.
    """

    directory: Path
    emulated_gpus: int = 0
    gpu_memory_bytes: int | None = None
    mode: str | None = None
    quantum_seconds: float | None = None

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
        if self.gpu_memory_bytes is not None:
            arguments += ["--gpu-memory", str(self.gpu_memory_bytes)]
        if self.mode is not None:
            arguments += ["--mode", self.mode]
        if self.quantum_seconds is not None:
            arguments += ["--quantum", str(self.quantum_seconds)]
        return tuple(arguments)
