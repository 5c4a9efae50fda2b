"""How a benchmark is to be run."""

from dataclasses import dataclass

from nvshare.cli.node_options import Quantum

GIB = 2**30


@dataclass(frozen=True)
class BenchOptions:
    """`seconds` bounds each run of a program (None: the scenario's own default).

    `gpus` are the real GPUs to run on, by index (empty: all). `pairs` is how often a comparison is made.
    `gpu_memory_bytes` is the card's size on an emulated GPU and the logical capacity on a real one. `mode` is the
    node's, `time_sharing` how it shares a GPU's time, None for both the scenario's own. `cores` are the percentages of
    quota-solo (empty: its own) and the one of launch-overhead (empty: none), `work` the kinds of work of programs that
    keep the card busy (kinds_of_work.py), `bursts` how those beside them work (rhythms.py). `mps` compares with NVIDIA
    MPS, too (mps.py). `command` is the command line for the record.
    """

    emulated: bool = False
    gpus: tuple[int, ...] = ()
    seconds: float | None = None
    pairs: int = 3
    clients: int = 2
    samples: int = 1000
    gpu_memory_bytes: int = 16 * GIB
    mode: str | None = None
    time_sharing: str | None = None
    quantum: Quantum | None = None
    cores: tuple[int, ...] = ()
    work: tuple[str, ...] = ("plain",)
    bursts: tuple[str, ...] = ("light", "heavy")
    mps: bool = False
    command: str = ""
