"""The `nvshare` command: its sub-commands, their options, and how errors leave it (one line, a non-zero status)."""

import asyncio
import contextlib
import json
import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from nvshare.bus.node_client import NodeError
from nvshare.bus.runtime import die_with_parent
from nvshare.bus.version import BUILD, PROTOCOL, VERSION
from nvshare.cli.arguments import (
    USAGE,
    emulated_gpus,
    gpu_indices,
    host_memory_kind,
    max_wait_seconds,
    mode_name,
    overcommit_ratio,
    parse_quantum,
    size_bytes,
    time_sharing_name,
    with_emulate_number,
)
from nvshare.cli.bench.command import bench, demo
from nvshare.cli.doctor.command import doctor
from nvshare.cli.errors import CommandError
from nvshare.cli.hub import hub as run_a_hub
from nvshare.cli.hub_options import HubCa, HubCredentials, HubUrl, NatsPort, hub_option, nats_port_number
from nvshare.cli.job import limit_fits
from nvshare.cli.link import link
from nvshare.cli.mode import change_sharing
from nvshare.cli.node_folder import NodeRunsError
from nvshare.cli.node_launch import READY, RUNNING, launch_node
from nvshare.cli.node_options import NodeOptions
from nvshare.cli.node_query import fetch_status, require_node, select_gpu
from nvshare.cli.quota import Quota, change_words, find_allocation, set_quota, wanted_quota
from nvshare.cli.run import JobOptions, run_job
from nvshare.cli.status import render_status, sharing_words, status_document
from nvshare.cli.terminal import console
from nvshare.cli.up import run_node

INTERRUPTED = 130  # 128 + SIGINT, as shells answer

NodeDir = Annotated[
    Path | None,
    typer.Option("--node-dir", metavar="D", help="The node's folder. Default: the one that runs, or this user's own."),
]

Memory = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Most memory on each GPU, such as 4Gi; none: no limit.")
]
Cores = Annotated[
    str | None,
    typer.Option(metavar="PERCENT", help="Most of each GPU's time, 1 to 100; none: no limit."),
]
Weight = Annotated[
    str | None, typer.Option(metavar="W", help="Share where all want the GPU, 1 to 1000. Default of a program: 100.")
]
WantedPriority = Annotated[
    str | None,
    typer.Option(
        "--priority", metavar="P", help="best-effort, normal or latency-critical. Default of a program: normal."
    ),
]

app = typer.Typer(
    help="Share NVIDIA GPUs among unmodified programs.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def print_version(wanted: bool) -> None:
    """Print version and build, and end, where `--version` was given."""
    if wanted:
        typer.echo(f"nvshare {VERSION} ({BUILD}), protocol {PROTOCOL}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print version and build.")
    ] = False,
) -> None:
    """Share NVIDIA GPUs among unmodified programs."""


@app.command()
def up(
    emulate: Annotated[int | None, typer.Option(metavar="N", help="Share N emulated GPUs, no real ones.")] = None,
    gpu: Annotated[str | None, typer.Option(metavar="I[,J]", help="Share these GPUs. Default: all.")] = None,
    gpu_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of a GPU that is shared, such as 16GiB. Default: all.")
    ] = None,
    mode: Annotated[str | None, typer.Option(metavar="M", help="auto (default), serial, concurrent or off.")] = None,
    time_sharing: Annotated[
        str | None,
        typer.Option(
            metavar="W",
            help="How programs on a GPU share its time: auto (default), slices or slots; "
            "with driver weights and priorities have no effect.",
        ),
    ] = None,
    quantum: Annotated[
        str | None,
        typer.Option(metavar="auto|S", help="Seconds of a turn; auto: from the measured time of a swap."),
    ] = None,
    max_wait: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds that nobody should wait for longer.")
    ] = None,
    overcommit: Annotated[
        float | None, typer.Option(metavar="RATIO", help="Most that a GPU promises, over its memory. Default: no cap.")
    ] = None,
    host_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Most host memory for what is moved off the GPUs."),
    ] = None,
    hub: HubUrl = None,
    hub_credentials: HubCredentials = None,
    hub_ca: HubCa = None,
    nats_port: NatsPort = None,
    node_dir: NodeDir = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when the node serves; it runs on.")] = False,
    ready_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
    background: Annotated[bool, typer.Option("--background", hidden=True)] = False,
) -> None:
    """Run one node in the foreground: NATS server, relay, scheduler. Ctrl-C ends all.

    Examples:

    - `nvshare up` shares this machine's GPUs.
    - `nvshare up --gpu 0,1` shares the first two, and leaves the others alone.
    - `nvshare up --emulate 2 --gpu-memory 16GiB` shares two emulated GPUs; no real one is needed.
    - `nvshare up --mode serial --quantum 5` lets one program at a time run, for 5 seconds each.
    - `nvshare up --quantum auto --max-wait 20 --overcommit 3 --host-memory 64GiB` moves memory out of the way for up to
      three times what fits, with turns that keep the loss small and nobody waiting for longer than 20 seconds.
    - `nvshare up --hub nats-leaf://hub.example:7422 --hub-credentials leaf`: a node of those that `nvshare hub` joins.
    """
    defaults = NodeOptions.default(node_dir)
    node_options = NodeOptions(
        directory=defaults.directory,
        emulated_gpus=emulated_gpus(emulate),
        gpus=gpu_indices(gpu, emulated_gpus(emulate)),
        gpu_memory_bytes=size_bytes("--gpu-memory", gpu_memory),
        mode=mode_name(mode),
        time_sharing=time_sharing_name(time_sharing),
        quantum=parse_quantum(quantum),
        max_wait_seconds=max_wait_seconds(max_wait),
        overcommit_ratio=overcommit_ratio(overcommit),
        host_memory_bytes=size_bytes("--host-memory", host_memory),
        hub=hub_option(hub, hub_credentials, hub_ca),
        nats_port=nats_port_number(nats_port),
    )
    if detach:
        if not launch_node(node_options, detach=True).started:
            raise CommandError(f"a node already runs in {node_options.directory}; use it, or end it first")
        typer.echo(f"a node runs in {node_options.directory}")
        return
    if parent is not None:
        die_with_parent()
        if os.getppid() != parent:  # it died before it was watched
            return
    if background and os.fork():
        os._exit(0)  # the node goes on as nobody's child
    if ready_fd is not None:
        _run_launched_node(node_options, ready_fd)
        return
    asyncio.run(run_node(node_options, typer.echo, lambda: typer.echo("ready for `nvshare run`; Ctrl-C ends the node")))


def _run_launched_node(node_options: NodeOptions, ready_fd: int) -> None:
    """Run a node that another process started, and tell it through the pipe how the start went."""
    os.set_inheritable(ready_fd, False)

    def tell(text: str) -> None:
        os.write(ready_fd, f"{text}\n".encode())

    def log(text: str) -> None:
        typer.echo(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {text}")

    try:
        asyncio.run(run_node(node_options, log, lambda: tell(READY)))
    except BrokenPipeError as error:
        raise CommandError("whoever started this node ended before it served") from error
    except CommandError as error:
        with contextlib.suppress(BrokenPipeError):
            tell(RUNNING if isinstance(error, NodeRunsError) else str(error))
        raise


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    command: Annotated[list[str], typer.Argument(metavar="CMD", help="The program and its arguments.")],
    gpu: Annotated[
        str | None, typer.Option(metavar="I[,J]", help="GPUs by index or UUID. Default: the least shared.")
    ] = None,
    memory: Memory = None,
    cores: Cores = None,
    weight: Weight = None,
    priority: WantedPriority = None,
    burst: Annotated[
        bool, typer.Option("--burst", help="--cores does not hold while nobody else wants the GPU.")
    ] = False,
    name: Annotated[str | None, typer.Option(metavar="N", help="Name in status. Default: the program's.")] = None,
    emulate: Annotated[
        int | None, typer.Option(metavar="[N]", help="If no node runs, start one with N (default 1) emulated GPUs.")
    ] = None,
    managed: Annotated[
        bool, typer.Option("--managed", help="For one program that alone needs more memory than the GPU has.")
    ] = False,
    host_memory: Annotated[
        str | None,
        typer.Option(
            metavar="own|arena|auto",
            help="What is moved off the GPU goes to the program's own host memory, or to the node's arena.",
        ),
    ] = None,
    node_dir: NodeDir = None,
) -> None:
    """Run any program under a share of the node's GPUs; starts a node if none runs.

    Returns the program's exit status. A node that was started stays for the next program.

    Examples:

    - `nvshare run -- python train.py`
    - `nvshare run --gpu 0,1 --memory 8Gi --name training -- python train.py`
    - `nvshare run --cores 30 -- python serve.py`: 30 % of the GPU's time; with `--burst` more if nobody else wants it.
    - `nvshare run --weight 200 -- python train.py`: twice the share of others that keep the GPU busy, too.
    - `nvshare run --priority best-effort -- python batch.py`: what the others leave.
    - `nvshare run --host-memory own -- python train.py`: its memory counts as its own, also while it is off the GPU.
    - `nvshare run --managed -- python huge.py`: alone larger than the GPU; the driver pages its memory.
    - `nvshare run --emulate -- ./program` on a machine without a GPU.
    """
    quota = wanted_quota(memory, cores, weight, priority, burst)
    if burst and not quota.core_limit_percent:
        raise CommandError("--burst is about the limit of --cores: give one", USAGE)
    job = JobOptions(
        node_dir=node_dir,
        gpus=gpu,
        quota=quota,
        name=name,
        emulated_gpus=emulated_gpus(emulate),
        managed=managed,
        host_memory=host_memory_kind(host_memory),
    )
    raise typer.Exit(asyncio.run(run_job(command, job)))


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with the field names of the contract.")] = False,
    node_dir: NodeDir = None,
) -> None:
    """Show what the node shares, with whom, and who waits for what.

    Examples:

    - `nvshare status`
    - `nvshare status --json`
    """
    reply = asyncio.run(fetch_status(require_node(node_dir)))
    if as_json:
        typer.echo(json.dumps(status_document(reply), indent=2))
    else:
        console().print(render_status(reply))


@app.command()
def mode(
    gpu: Annotated[str, typer.Argument(metavar="GPU", help="Index or UUID.")],
    wanted: Annotated[str, typer.Argument(metavar="MODE", help="auto, serial, concurrent or off.")],
    quantum: Annotated[str | None, typer.Option(metavar="auto|S", help="Seconds of a turn.")] = None,
    node_dir: NodeDir = None,
) -> None:
    """Change how a GPU is shared, while programs run on it. Needs root, the node's user or its admin group.

    Examples:

    - `nvshare mode 0 serial --quantum 5`: one program at a time, for 5 seconds each.
    - `nvshare mode 0 off`: not managed at all.
    """
    mode_name(wanted)
    wanted_quantum = parse_quantum(quantum)
    node = require_node(node_dir)
    target = select_gpu(list(asyncio.run(fetch_status(node)).gpus), gpu)
    reply = asyncio.run(change_sharing(node, target.uuid, mode=wanted, quantum=wanted_quantum))
    typer.echo(f"GPU {target.index}: {sharing_words(reply)}")


@app.command("quantum")
def set_quantum(
    gpu: Annotated[str, typer.Argument(metavar="GPU", help="Index or UUID.")],
    quantum: Annotated[
        str, typer.Argument(metavar="auto|SECONDS", help="Seconds of a turn; auto: from the measured time of a swap.")
    ],
    max_wait: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds that nobody should wait for longer, in auto.")
    ] = None,
    node_dir: NodeDir = None,
) -> None:
    """Change how long a program's memory stays on a GPU before it makes room for the next one that waits.

    `auto` is 40 times the measured time of a swap. Turns are shorter where somebody would wait for longer than the
    longest wait, but not under 5 times a swap for that. Needs root, the node's user or its admin group.

    Examples:

    - `nvshare quantum 0 auto`
    - `nvshare quantum 0 auto --max-wait 15`: shorter turns where many programs wait.
    - `nvshare quantum 0 10`: turns of 10 seconds.
    - `nvshare quantum 0 120 --max-wait 600`: long turns, and long waits.
    """
    wanted = parse_quantum(quantum, named="quantum")
    longest_wait = max_wait_seconds(max_wait)
    node = require_node(node_dir)
    target = select_gpu(list(asyncio.run(fetch_status(node)).gpus), gpu)
    reply = asyncio.run(change_sharing(node, target.uuid, quantum=wanted, max_wait_seconds=longest_wait))
    typer.echo(f"GPU {target.index}: {sharing_words(reply)}")


quota_app = typer.Typer(help="What an allocation may have, changed while its programs run.", no_args_is_help=True)
app.add_typer(quota_app, name="quota")


@quota_app.command("set")
def quota_set(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or ID of an allocation; see `nvshare status`.")],
    memory: Memory = None,
    cores: Cores = None,
    weight: Weight = None,
    priority: WantedPriority = None,
    burst: Annotated[
        bool | None, typer.Option("--burst/--no-burst", help="Whether --cores holds while nobody else wants the GPU.")
    ] = None,
    node_dir: NodeDir = None,
) -> None:
    """Change what an allocation may have, while its programs run; what no option names stays as it is.

    Memory in use stays; beyond the limit new memory is refused. Needs the user whose allocation it is, root, the node's
    user or its admin group.

    Examples:

    - `nvshare quota set training --memory 8Gi`
    - `nvshare quota set training --memory none --cores none`
    - `nvshare quota set training --cores 30 --burst`
    - `nvshare quota set training --weight 200 --priority best-effort`
    """
    quota = wanted_quota(memory, cores, weight, priority, burst)
    if quota == Quota():
        raise CommandError("nothing to change: give --memory, --cores, --weight, --priority or --burst", USAGE)
    node = require_node(node_dir)
    current = asyncio.run(fetch_status(node))
    allocation_id = find_allocation(current, name)
    allocation = next(one for one in current.allocations if one.id == allocation_id)
    limit_fits(current.gpus, allocation.gpus, quota.memory_limit_bytes or 0)
    typer.echo(f"{name}: {change_words(quota, asyncio.run(set_quota(node, allocation_id, quota)))}")


app.command("link")(link)
app.command("hub")(run_a_hub)
app.command()(bench)
app.command()(demo)
app.command()(doctor)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status. An error is one line on stderr."""
    try:
        given = with_emulate_number(sys.argv[1:] if arguments is None else arguments)
        result = app(given, prog_name="nvshare", standalone_mode=False, obj=shlex.join(["nvshare", *given]))
    except typer.TyperException as error:
        return _fail(error.format_message(), USAGE)
    except CommandError as error:
        return _fail(str(error), error.exit_code)
    except NodeError as error:
        return _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return result if isinstance(result, int) else 0


def _fail(text: str, exit_code: int) -> int:
    if text:  # without any argument the help is the answer
        print(f"nvshare: {' '.join(text.split())}", file=sys.stderr)
    return exit_code
