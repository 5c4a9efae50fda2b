"""`nvshare bench` and `nvshare demo`.

The scenarios, and what they run on, are loaded where one is named: every `nvshare run` loads this module.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nvshare.cli.arguments import (
    USAGE,
    emulated_gpus,
    gpu_indices,
    mode_name,
    parse_quantum,
    size_bytes,
    time_sharing_name,
)
from nvshare.cli.bench.kinds_of_work import KINDS_OF_WORK, PLAIN
from nvshare.cli.bench.options import GIB, BenchOptions
from nvshare.cli.bench.result import Result, result_document
from nvshare.cli.bench.rhythms import RHYTHMS
from nvshare.cli.errors import CommandError
from nvshare.cli.kubernetes.options import RESOURCE, SECONDS, ClusterOptions, parse_annotations

if TYPE_CHECKING:
    from nvshare.cli.bench.scenario import Scenario

FAILED = 1
T = TypeVar("T")


class ShownSteps:
    """Steps as a progress bar on stderr; as lines where stderr is no terminal."""

    def __init__(self, scenario: str, progress: Progress) -> None:
        self._scenario = scenario
        self._progress = progress
        self._task = progress.add_task(scenario, total=None)
        self._begun = 0
        self._text = ""

    def expect(self, count: int) -> None:
        """So many steps will come."""
        self._progress.update(self._task, total=count)

    def step(self, text: str) -> None:
        """The next step begins, so the one before is done."""
        self._progress.update(self._task, completed=self._begun, description=f"{self._scenario}: {text}")
        self._begun += 1
        if not self._progress.console.is_terminal and text != self._text:
            print(f"{self._scenario}: {text}", file=sys.stderr)
        self._text = text

    def done(self) -> None:
        """All steps are done."""
        self._progress.update(self._task, completed=self._begun, description=self._scenario)


def bench(
    context: typer.Context,
    scenarios: Annotated[list[str] | None, typer.Argument(metavar="SCENARIO", help="See --list.")] = None,
    emulate: Annotated[
        int | None, typer.Option(metavar="[1]", help="Run on an emulated GPU instead of the real one.")
    ] = None,
    gpu: Annotated[str | None, typer.Option(metavar="I[,J]", help="Run on these real GPUs. Default: all.")] = None,
    seconds: Annotated[float | None, typer.Option(metavar="S", help="Bound of each run of a program.")] = None,
    pairs: Annotated[int, typer.Option(metavar="N", min=1, help="How often a comparison is made.")] = 3,
    clients: Annotated[int, typer.Option(metavar="N", min=2, help="Clients of grant-latency.")] = 2,
    samples: Annotated[int, typer.Option(metavar="N", min=1, help="Calls of grant-latency.")] = 1000,
    gpu_memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory of the GPU that is shared.")] = "16GiB",
    mode: Annotated[str | None, typer.Option(metavar="M", help="The node's mode. Default: the scenario's own.")] = None,
    time_sharing: Annotated[str | None, typer.Option(metavar="W", help="As in `nvshare up`.")] = None,
    quantum: Annotated[str | None, typer.Option(metavar="auto|S", help="Seconds of a turn.")] = None,
    cores: Annotated[
        str | None, typer.Option(metavar="P[,P]", help="Percentages of quota-solo; one of launch-overhead.")
    ] = None,
    work: Annotated[
        str,
        typer.Option(
            metavar="KIND[,KIND]",
            help=f"Work of quota-solo, quota-pairs, and of the busy one in priority: {', '.join(KINDS_OF_WORK)}.",
        ),
    ] = PLAIN,
    bursts: Annotated[
        str,
        typer.Option(metavar="B[,B]", help=f"Bursts of priority, busy-plus-bursty: {', '.join(RHYTHMS)}."),
    ] = "light,heavy",
    mps: Annotated[bool, typer.Option("--mps", help="Compare with NVIDIA MPS, too; on a real GPU.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the results here, one or a list.")
    ] = None,
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="Run it in pods of a cluster.")] = False,
    pods: Annotated[int, typer.Option(metavar="N", min=1, help="How many, with --kubernetes.")] = 2,
    baseline: Annotated[
        str, typer.Option(metavar="RESOURCE", help="Then as many pods with this one, such as nvidia.com/gpu.")
    ] = "",
    resource: Annotated[str, typer.Option(metavar="RESOURCE", help="What each pod asks one of.")] = RESOURCE,
    image: Annotated[str, typer.Option(metavar="I", help="Image of the pods, with Python and PyTorch.")] = "",
    annotation: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of the pods, such as gpu-core-limit=30.")
    ] = None,
    runtime_class: Annotated[str, typer.Option(metavar="C", help="Runtime class of the pods.")] = "",
    namespace: Annotated[str, typer.Option(metavar="N", help="Default: that of the context.")] = "",
    kubeconfig: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: as kubectl's.")] = None,
    api_server: Annotated[str, typer.Option(metavar="URL", help="A plain address, as of `kubectl proxy`.")] = "",
    list_scenarios: Annotated[bool, typer.Option("--list", help="List the scenarios.")] = False,
) -> None:
    """Measure what sharing costs. Each scenario starts a node of its own and ends in a table.

    Examples:

    - `nvshare bench --list`
    - `nvshare bench solo-small pair-small --emulate`
    - `nvshare bench grant-latency --emulate --clients 32 --json latency.json`
    - `nvshare bench small --kubernetes --pods 4 --image pytorch/pytorch --baseline nvidia.com/gpu`
    """
    from nvshare.cli.bench.runner import find_scenario

    if list_scenarios:
        _list_scenarios()
        return
    if not scenarios:
        raise CommandError("name a scenario; `nvshare bench --list` shows them", USAGE)
    if seconds is not None and not 0 < seconds <= 86_400:
        raise CommandError(f"--seconds {seconds:g}: give seconds, more than 0 and at most a day", USAGE)
    if kubernetes:
        cluster = ClusterOptions(
            pods=pods,
            resource=resource,
            baseline=baseline,
            image=image,
            runtime_class=runtime_class,
            annotations=parse_annotations(annotation or ()),
            namespace=namespace,
            kubeconfig=kubeconfig,
            api_server=api_server,
            emulated=emulated_gpus(emulate) > 0,
            seconds=seconds or SECONDS,
            command=str(context.obj),
        )
        _finish(_run_and_show_in_cluster(scenarios, cluster), json_file)
        return
    if gpu is not None and emulate:
        raise CommandError("--gpu chooses among real GPUs; an emulated node has as many as the scenario needs", USAGE)
    found = [find_scenario(name) for name in scenarios]
    if mps:
        _check_mps(found, emulated=emulated_gpus(emulate) > 0)
    options = BenchOptions(
        emulated=emulated_gpus(emulate) > 0,
        gpus=gpu_indices(gpu, 0),
        seconds=seconds,
        pairs=pairs,
        clients=clients,
        samples=samples,
        gpu_memory_bytes=size_bytes("--gpu-memory", gpu_memory) or 16 * GIB,
        mode=mode_name(mode),
        time_sharing=time_sharing_name(time_sharing),
        quantum=parse_quantum(quantum),
        cores=_percentages(cores),
        work=_names("--work", work, KINDS_OF_WORK),
        bursts=_names("--bursts", bursts, RHYTHMS),
        mps=mps,
        command=str(context.obj),
    )
    _finish([_run_and_show(name, options) for name in scenarios], json_file)


def _list_scenarios() -> None:
    from nvshare.cli.bench.runner import SCENARIOS
    from nvshare.cli.kubernetes.command import WORKLOADS

    for scenario in SCENARIOS.values():
        typer.echo(f"{scenario.name:20} {scenario.text}")
    for name, (_, text) in WORKLOADS.items():
        typer.echo(f"{name:20} With --kubernetes: {text}")


def _finish(results: list[Result], json_file: Path | None) -> None:
    """Writes the results down, and ends with a failure where one was."""
    if json_file is not None:
        _write_json(json_file, results)
    if not all(result.ok for result in results):
        raise typer.Exit(FAILED)


def _check_mps(scenarios: Sequence[Scenario], *, emulated: bool) -> None:
    """Raises CommandError where --mps cannot be followed."""
    from nvshare.cli.bench.mps import control_program
    from nvshare.cli.bench.runner import SCENARIOS

    without = [scenario.name for scenario in scenarios if not scenario.mps]
    if without:
        known = ", ".join(scenario.name for scenario in SCENARIOS.values() if scenario.mps)
        raise CommandError(f"--mps: {without[0]} does not compare with NVIDIA MPS; {known} do", USAGE)
    if emulated:
        raise CommandError(
            "--mps: emulated GPUs have no NVIDIA MPS; leave --emulate out, on a machine with a GPU", USAGE
        )
    control_program()


def _percentages(text: str | None) -> tuple[int, ...]:
    """Of --cores. Raises CommandError."""
    parts = text.split(",") if text else []
    if not all(part.strip().isdecimal() and 1 <= int(part) <= 100 for part in parts):
        raise CommandError(f"--cores {text}: give percentages from 1 to 100, such as 10,25,50", USAGE)
    return tuple(int(part) for part in parts)


def _names(option: str, text: str, known: Collection[str]) -> tuple[str, ...]:
    """Of an option that takes several. Raises CommandError where one is not known."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(name in known for name in names):
        raise CommandError(f"{option} {text}: give one or more of {','.join(known)}", USAGE)
    return names


def demo() -> None:
    """Share one emulated GPU of 16 GiB among three programs of 7 GiB each; ends in a table. Takes about half a minute.

    Example:

    - `nvshare demo`
    """
    result = _run_and_show("demo", BenchOptions(emulated=True, command="nvshare demo"))
    if not result.ok:
        raise typer.Exit(FAILED)


def _run_and_show(name: str, options: BenchOptions) -> Result:
    from nvshare.cli.bench.runner import find_scenario, run_scenario

    result = _run(name, lambda steps: run_scenario(name, options, steps))
    _console().print(find_scenario(name).table(result))
    return result


def _run_and_show_in_cluster(names: Sequence[str], options: ClusterOptions) -> list[Result]:
    from nvshare.cli.bench.table import result_table
    from nvshare.cli.kubernetes.command import find_workload, run_in_cluster

    for name in names:
        find_workload(name)
    results = []
    for name in names:
        found = _run(name, partial(run_in_cluster, name, options))
        for result in found:
            _console().print(result_table(result))
        results += found
    return results


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=160)


def _run(name: str, start: Callable[[ShownSteps], Coroutine[Any, Any, T]]) -> T:
    """Run what `start` makes, and show its steps."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    errors = Console(stderr=True)
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        steps = ShownSteps(name, progress)
        result = asyncio.run(_run_until_terminated(start(steps)))
        steps.done()
    return result


async def _run_until_terminated(work: Coroutine[Any, Any, T]) -> T:
    """Run a scenario; SIGTERM ends it as Ctrl-C does, with its programs and its node. Raises KeyboardInterrupt then."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _write_json(path: Path, results: list[Result]) -> None:
    documents = [result_document(result) for result in results]
    try:
        path.write_text(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2) + "\n")
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from error
