"""A PyTorch workload of several ranks, one on each GPU: `z = x + y`, then z summed over all ranks by NCCL, again and
again. Unmodified PyTorch, as `torchrun` would start it.

Without `--rank` it starts the ranks, each a process, and gives one answer for all of them.
"""

import argparse
import contextlib
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from nvshare.cli.workloads.loop import (
    WARM_UP_ITERATIONS,
    Measurement,
    argument_parser,
    measure,
    print_answer,
    rhythm_of,
    wait_for_start,
    warm_up,
)

# The store of a rank waits for the others, who may have to wait for their turn on the GPU first.
PATIENCE = datetime.timedelta(hours=1)


def run_rank(arguments: argparse.Namespace) -> None:
    """One rank, on the GPU of its number. All ranks do the same number of iterations."""
    import torch
    from torch import distributed

    from nvshare.cli.workloads.pytorch import Sums, checksum_of, wrong_elements

    device = torch.device("cuda", arguments.rank)
    torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl",
        init_method=f"file://{arguments.store}",
        rank=arguments.rank,
        world_size=arguments.gpus,
        timeout=PATIENCE,
    )
    distributed.barrier(device_ids=[arguments.rank])  # makes the communicator
    if arguments.wait_for_memory:
        wait_for_start()
    sums = Sums(arguments.side, device)

    def launch() -> None:
        sums.step()
        distributed.all_reduce(sums.z)

    def synchronize() -> None:
        torch.cuda.synchronize(device)

    began_ns = time.monotonic_ns()
    warm_up(launch, synchronize)
    iterations = arguments.iterations
    if iterations is None:
        seconds_each = (time.monotonic_ns() - began_ns) / 1e9 / WARM_UP_ITERATIONS
        agreed = torch.tensor([max(1, round(arguments.seconds / seconds_each))], device=device)
        distributed.broadcast(agreed, 0)
        iterations = int(agreed.item())
    if arguments.wait_for_start:
        wait_for_start()
    measurement = measure(launch, synchronize, seconds=None, iterations=iterations, rhythm=rhythm_of(arguments))
    checksum = checksum_of(sums.z)
    sums.z /= arguments.gpus  # whole numbers, all of them exact
    print_answer(arguments.name, measurement, checksum, correct=wrong_elements(sums.z) == 0)
    distributed.destroy_process_group()


class Ranks:
    """The processes of all ranks."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def go(self) -> None:
        """Let those go on that wait for their start."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The next event of this name from each. Raises SystemExit when one ends instead."""
        return [self._event(process, name) for process in self._processes]

    def _event(self, process: subprocess.Popen[str], name: str) -> dict[str, Any]:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if isinstance(document, dict) and document.get("event") == name:
                    return document
        raise SystemExit(f"a rank ended with status {process.wait()} before its {name}")


@contextlib.contextmanager
def started_ranks(count: int, arguments: Sequence[str]) -> Iterator[Ranks]:
    """All ranks, with these arguments of the workload; ended with the context."""
    with tempfile.TemporaryDirectory(prefix="nvshare-ranks-") as folder, contextlib.ExitStack() as stack:
        processes = []
        for rank in range(count):
            own = ["--rank", str(rank), "--store", f"{folder}/store"]
            process = subprocess.Popen(
                [sys.executable, "-m", "nvshare.cli.workloads.pytorch_ranks", *arguments, *own],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        yield Ranks(processes)


def together(answers: Sequence[dict[str, Any]]) -> tuple[Measurement, int, bool]:
    """What all ranks did, their checksum, and whether all are correct. The progress is the first one's."""
    measurement = Measurement(
        iterations=min(answer["iterations"] for answer in answers),
        started_ns=min(answer["started_ns"] for answer in answers),
        ended_ns=max(answer["ended_ns"] for answer in answers),
        progress=tuple((time_ns, done) for time_ns, done in answers[0]["progress"]),
    )
    checksum = sum(int(answer["checksum"], 16) for answer in answers) % 2**64
    return measurement, checksum, all(answer["correct"] for answer in answers)


def main() -> None:
    """Run the workload as the command line says."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--side", type=int, required=True, help="rows and columns of each tensor")
    parser.add_argument("--rank", type=int, help="be this one of the ranks")
    parser.add_argument("--store", help="file in which the ranks find each other")
    arguments = parser.parse_args()
    if arguments.rank is not None:
        run_rank(arguments)
        return
    with started_ranks(arguments.gpus, sys.argv[1:]) as ranks:
        if arguments.wait_for_memory or arguments.wait_for_start:
            ranks.events("ready")
            wait_for_start()
            ranks.go()
        measurement, checksum, correct = together(ranks.events("result"))
    print_answer(arguments.name, measurement, checksum, correct=correct)


if __name__ == "__main__":
    main()
