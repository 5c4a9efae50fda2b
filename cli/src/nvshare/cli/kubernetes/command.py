"""`nvshare bench … --kubernetes`: the same programs in pods, and a table of what each had."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from nvshare.bus.api_access import Access, AccessError, find_access
from nvshare.bus.version import VERSION
from nvshare.cli.arguments import USAGE
from nvshare.cli.bench.residents import idle
from nvshare.cli.bench.result import Result, Row
from nvshare.cli.bench.scenario import Steps
from nvshare.cli.bench.workload import LARGE, SMALL, Bounds, Workload, numbered
from nvshare.cli.errors import CommandError
from nvshare.cli.kubernetes.api import PodApi
from nvshare.cli.kubernetes.bundle import bundled_command
from nvshare.cli.kubernetes.login import login_by_program
from nvshare.cli.kubernetes.options import ClusterOptions
from nvshare.cli.kubernetes.pods import PodPlan
from nvshare.cli.kubernetes.run import PATIENCE_SECONDS, Patience, Pods, Work, run_pods

EMULATED_IMAGE = f"nvshare/workload:{VERSION}"
_PYTHON = "python3"
_IDLE_SMALL = "idle-small"

WORKLOADS: Mapping[str, tuple[Workload, str]] = {
    "small": (SMALL, "z = x + y on 14000² float32: 3 GB."),
    "large": (LARGE, "The same on 28000²: 12 GB."),
    _IDLE_SMALL: (SMALL, "small, at work for a tenth of the time."),
}


def find_workload(name: str) -> Workload:
    """Raises CommandError when there is none for a cluster."""
    if name not in WORKLOADS:
        raise CommandError(
            f"no scenario {name!r} for a cluster; with --kubernetes there are {', '.join(WORKLOADS)}", USAGE
        )
    return WORKLOADS[name][0]


def cluster_access(options: ClusterOptions, environment: Mapping[str, str], home: Path) -> Access:
    """The way to the API server, as kubectl would look for it. Raises CommandError."""
    kubeconfig = options.kubeconfig
    if kubeconfig is None and environment.get("KUBECONFIG"):
        kubeconfig = Path(environment["KUBECONFIG"].split(os.pathsep)[0])
    if kubeconfig is None and "KUBERNETES_SERVICE_HOST" not in environment and (home / ".kube" / "config").exists():
        kubeconfig = home / ".kube" / "config"
    try:
        return find_access(options.api_server, kubeconfig, environment, login=login_by_program)
    except AccessError as error:
        hint = "give --kubeconfig, or run `kubectl proxy` and give its address with --api-server"
        raise CommandError(f"{error}; {hint}") from error


def works_of(name: str, options: ClusterOptions) -> tuple[Work, ...]:
    """The programs of one run, each with a number."""
    programs = numbered(replace(find_workload(name), name=name), options.pods)
    if name == _IDLE_SMALL:
        programs = [idle(program, seed) for seed, program in enumerate(programs, 1)]
    bounds = Bounds(seconds=options.seconds).arguments()
    return tuple(
        Work(program.name, tuple(bundled_command(_PYTHON, [*program.arguments(emulated=options.emulated), *bounds])))
        for program in programs
    )


async def run_in_cluster(name: str, options: ClusterOptions, steps: Steps) -> list[Result]:
    """The run with shares, and the one with the baseline where that is asked for. Raises CommandError."""
    access = cluster_access(options, os.environ, Path.home())
    async with PodApi(access, options.namespace or access.namespace) as api:
        return await compare(name, options, api, steps)


async def compare(
    name: str, options: ClusterOptions, api: Pods, steps: Steps, patience: Patience | None = None
) -> list[Result]:
    """As `run_in_cluster`, by an API server that is there already."""
    if not options.image and not options.emulated:
        raise CommandError("name an image that has Python and PyTorch with --image, or add --emulate", USAGE)
    patience = patience or Patience(seconds=options.seconds + PATIENCE_SECONDS)
    works = works_of(name, options)
    results: list[Result] = []
    for resource in filter(None, (options.resource, options.baseline)):
        plan = PodPlan(
            run=secrets.token_hex(4),
            resource=resource,
            image=options.image or EMULATED_IMAGE,
            deadline_seconds=round(patience.seconds + options.pods * options.seconds),
            runtime_class=options.runtime_class,
            annotations=options.annotations,
        )
        date = datetime.now(UTC).isoformat(timespec="seconds")
        rows = await run_pods(api, plan, works, steps, patience)
        results.append(_result(f"{name}, {resource}", date, options, rows, results))
    return results


def _result(scenario: str, date: str, options: ClusterOptions, rows: tuple[Row, ...], before: list[Result]) -> Result:
    places = {row.gpu for row in rows if row.gpu}
    summary = {"total_iterations_per_second": _total(rows)}
    if before and summary["total_iterations_per_second"]:
        summary["total_of_shares_over_this"] = _total(before[0].rows) / summary["total_iterations_per_second"]
    hardware = f"{options.pods} pods on {len(places)} GPUs"
    return Result(scenario, date, hardware, options.command, rows, summary)


def _total(rows: Sequence[Row]) -> float:
    return sum(row.iterations_per_second or 0.0 for row in rows)
