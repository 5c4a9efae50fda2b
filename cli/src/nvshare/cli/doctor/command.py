"""`nvshare doctor`: gathers the facts, has them judged, and shows what came of it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.doctor.check import Check, Verdict, exit_status
from nvshare.cli.doctor.cluster import cluster_checks
from nvshare.cli.doctor.facts import Facts
from nvshare.cli.doctor.machine import machine_checks
from nvshare.cli.doctor.node import node_checks
from nvshare.cli.node_query import find_node
from nvshare.cli.terminal import console

KUBELET = Path("/var/lib/kubelet")
CLUSTER_FOLDER = Path("/var/lib/nvshare")
"""Of a node of a cluster, as the chart has it."""

_STYLES = {Verdict.OK: "green", Verdict.UNKNOWN: "dim", Verdict.WARNING: "yellow", Verdict.FAULT: "bold red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    kubelet: Annotated[Path, typer.Option(metavar="D", help="Kubelet's folder.")] = KUBELET,
    node_dir: Annotated[
        Path | None,
        typer.Option(
            "--node-dir", metavar="D", help="The node's folder. Default: the one that runs, or this user's own."
        ),
    ] = None,
) -> None:
    """Say whether this machine is fit for nvshare, and whether all is well with the node that runs on it.

    One line for each check, and what to do where something is wrong. Changes nothing, and needs no rights; root sees
    more. Returns 1 when something is at fault.

    Examples:

    - `nvshare doctor` before an install, and after it
    - `nvshare doctor --json`
    """
    checks = judge(asyncio.run(gather(kubelet, node_dir)))
    if as_json:
        typer.echo(json.dumps([check.document() for check in checks], indent=2))
    else:
        for check in checks:
            console().print(check_line(check), soft_wrap=True)
        console().print(summary(checks))
    raise typer.Exit(exit_status(checks))


async def gather(kubelet: Path, node_dir: Path | None) -> Facts:
    """All that can be found out."""
    # Loaded where it is needed: every command loads this module.
    from nvshare.cli.doctor.gather_host import gather_driver, gather_host, gather_toolkit
    from nvshare.cli.doctor.gather_node import gather_folder, gather_kubelet, gather_running

    in_cluster = node_dir is None and kubelet.is_dir() and "NVSHARE_NODE_DIR" not in os.environ
    running = find_node(node_dir) or (find_node(CLUSTER_FOLDER) if in_cluster else None)
    directory = running or NodeDirectory.default()
    if running is None and (node_dir is not None or in_cluster):
        directory = NodeDirectory((node_dir or CLUSTER_FOLDER).absolute())
    return Facts(
        user=os.geteuid(),
        host=gather_host(),
        driver=gather_driver(),
        toolkit=gather_toolkit(),
        kubelet=gather_kubelet(kubelet),
        folder=gather_folder(directory),
        node=None if running is None else await gather_running(running),
    )


def judge(facts: Facts) -> list[Check]:
    """All checks, in the order in which one would look."""
    return [*machine_checks(facts), *cluster_checks(facts), *node_checks(facts)]


def check_line(check: Check) -> Text:
    """One check for people."""
    line = Text.assemble((f"{check.verdict:8}", _STYLES[check.verdict]), f"{check.name}: {check.text}")
    return line.append(f" → {check.advice}") if check.advice else line


def summary(checks: Iterable[Check]) -> Text:
    """How many of each, but those that are well."""
    verdicts = [check.verdict for check in checks]
    counts = [
        f"{number} {verdict.value}{'s' if number > 1 and verdict is not Verdict.UNKNOWN else ''}"
        for verdict in (Verdict.FAULT, Verdict.WARNING, Verdict.UNKNOWN)
        if (number := verdicts.count(verdict))
    ]
    return Text(", ".join(counts) if counts else "all is well")
