"""A benchmark in a cluster: makes the pods, waits for them, reads what they found, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from nvshare.cli.bench.result import Row
from nvshare.cli.bench.scenario import Steps
from nvshare.cli.errors import CommandError
from nvshare.cli.kubernetes.api import ApiError, Object
from nvshare.cli.kubernetes.pods import PodPlan, PodState, pod_state
from nvshare.cli.kubernetes.rows import pod_row

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 300.0  # beyond what a pod computes: images come, and pods wait for each other
CLEAN_UP_SECONDS = 20.0
_GRACE_SECONDS = 5
_RETRY_SECONDS = 0.2


class Pods(Protocol):
    """What is needed of the API server; see PodApi."""

    async def create(self, pod: Object) -> None: ...
    async def select(self, label: str) -> list[Object]: ...
    async def log(self, name: str) -> str: ...
    async def delete(self, name: str, grace_seconds: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Work:
    """One pod's: its name in the table, and its command line."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Patience:
    """`seconds` without a change of any pod end the wait; `poll_seconds` between two looks."""

    seconds: float = PATIENCE_SECONDS
    poll_seconds: float = POLL_SECONDS


async def run_pods(
    api: Pods, plan: PodPlan, works: Sequence[Work], steps: Steps, patience: Patience = Patience()
) -> tuple[Row, ...]:
    """Runs all at once; a row for each, also for those that fail or never start. Raises CommandError when the API
    server refuses. However it ends, cancelled too, the pods are deleted.
    """
    names = {f"nvshare-bench-{plan.run}-{number}": work for number, work in enumerate(works, 1)}
    made: list[str] = []
    try:
        for name, work in names.items():
            made.append(name)  # before the answer: what was not answered may be there all the same
            await api.create(plan.manifest(name, work.command))
        steps.step(f"{len(names)} pods were made, each with one {plan.resource}")
        states = await _wait(api, plan, names, steps, patience)
        return tuple([await _row(api, work.name, states[name]) for name, work in names.items()])
    except ApiError as error:
        raise CommandError(f"pods cannot be made or watched: {error}") from error
    finally:
        await asyncio.shield(_clean_up(api, plan, made))


async def _wait(
    api: Pods, plan: PodPlan, names: dict[str, Work], steps: Steps, patience: Patience
) -> dict[str, PodState]:
    """Until all have ended, or nothing happens any more. A pod that somebody deleted has failed."""
    states = {name: PodState(name) for name in names}
    changed = time.monotonic()
    while not all(state.ended for state in states.values()) and time.monotonic() < changed + patience.seconds:
        try:
            found = {state.name: state for state in map(pod_state, await api.select(plan.selector))}
        except ApiError as error:
            if not error.passing:
                raise
            await asyncio.sleep(patience.poll_seconds)
            continue
        for name, before in states.items():
            state = found.get(name, PodState(name, "Failed", before.node, "it was deleted"))
            if state != before and not before.ended:
                states[name], changed = state, time.monotonic()
                steps.step(f"{names[name].name} {state}")
        await asyncio.sleep(patience.poll_seconds)
    return states


async def _row(api: Pods, name: str, state: PodState) -> Row:
    log = ""
    if state.node:
        try:
            log = await api.log(state.name)
        except ApiError as error:
            log = f"its log cannot be read: {error}"
    return pod_row(name, state, log)


async def _clean_up(api: Pods, plan: PodPlan, names: Sequence[str]) -> None:
    """Deletes the pods, and tries again for a while. Raises CommandError for what is left."""
    left = list(names)
    deadline = time.monotonic() + CLEAN_UP_SECONDS
    error: ApiError | None = None
    while left and (error is None or error.passing) and time.monotonic() < deadline:
        for name in list(left):
            try:
                await api.delete(name, _GRACE_SECONDS)
                left.remove(name)
            except ApiError as failure:
                error = failure
        if left:
            await asyncio.sleep(_RETRY_SECONDS)
    if left:
        raise CommandError(
            f"{len(left)} pods are left ({error}): `kubectl delete pods -l {plan.selector}` removes them"
        )
