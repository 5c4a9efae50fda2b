"""The status that kubelet writes into a pod. Pure: times come in, as the API writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nvshare.fake_kubelet.pods import Container, Kind, Pod
from nvshare.fake_kubelet.runner import SIGNAL_EXIT_CODE

PENDING, RUNNING, SUCCEEDED, FAILED = "Pending", "Running", "Succeeded", "Failed"


@dataclass(frozen=True, slots=True)
class Waiting:
    reason: str = "ContainerCreating"
    message: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    at: str
    id: str


@dataclass(frozen=True, slots=True)
class Ended:
    exit_code: int
    started: str
    finished: str
    id: str


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """A container's state now, how it ended the last time, and how often it started again."""

    state: Waiting | Started | Ended = Waiting()
    last: Ended | None = None
    restarts: int = 0

    def now(self, state: Waiting | Started | Ended) -> ContainerRecord:
        """With another state; an end is kept as the last one."""
        last = self.state if isinstance(self.state, Ended) else self.last
        again = isinstance(state, Started) and last is not None
        return replace(self, state=state, last=last, restarts=self.restarts + 1 if again else self.restarts)


@dataclass(frozen=True, slots=True)
class PodRecord:
    """All that the status says. `finished`: no container will start again. `failure`: reason and message."""

    pod: Pod
    containers: Mapping[str, ContainerRecord]
    started: str
    finished: bool = False
    failure: tuple[str, str] | None = None
    foreign_conditions: tuple[Mapping[str, Any], ...] = field(default=())

    def of(self, kind: Kind) -> list[ContainerRecord]:
        return [self.containers[one.name] for one in self.pod.containers if one.kind is kind]


def phase(record: PodRecord) -> str:
    """Pending, Running, Succeeded or Failed."""
    if record.failure is not None:
        return FAILED
    apps = record.of(Kind.APP)
    if record.finished:
        good = all(isinstance(one.state, Ended) and one.state.exit_code == 0 for one in apps)
        return SUCCEEDED if good else FAILED
    if not _initialized(record) or any(isinstance(one.state, Waiting) and one.last is None for one in apps):
        return PENDING
    return RUNNING


def status(record: PodRecord, now: str, node_address: str) -> dict[str, Any]:
    """The API's object. Conditions of others are taken over."""
    initialized = _initialized(record)
    ready = all(isinstance(one.state, Started) for one in [*record.of(Kind.APP), *record.of(Kind.SIDECAR)])
    own = {"Initialized": initialized, "ContainersReady": ready, "Ready": ready and record.failure is None}
    conditions = [dict(one) for one in record.foreign_conditions if one.get("type") not in own]
    conditions += [{"type": kind, "status": str(value), "lastTransitionTime": now} for kind, value in own.items()]
    document: dict[str, Any] = {
        "phase": phase(record),
        "conditions": conditions,
        "hostIP": node_address,
        "podIP": node_address,
        "podIPs": [{"ip": node_address}],
        "startTime": record.started,
        "qosClass": "BestEffort",
    }
    if record.failure is not None:
        document |= {"reason": record.failure[0], "message": record.failure[1]}
    apps = [one for one in record.pod.containers if one.kind is Kind.APP]
    first = [one for one in record.pod.containers if one.kind is not Kind.APP]
    document["containerStatuses"] = list(_statuses(apps, record))
    if first:
        document["initContainerStatuses"] = list(_statuses(first, record))
    return document


def _initialized(record: PodRecord) -> bool:
    done = all(isinstance(one.state, Ended) and one.state.exit_code == 0 for one in record.of(Kind.INIT))
    return done and all(one.last or not isinstance(one.state, Waiting) for one in record.of(Kind.SIDECAR))


def _statuses(containers: Iterable[Container], record: PodRecord) -> Iterable[dict[str, Any]]:
    for container in containers:
        one = record.containers[container.name]
        running = isinstance(one.state, Started)
        identity = "" if isinstance(one.state, Waiting) else one.state.id
        yield {
            "name": container.name,
            "image": container.image,
            "imageID": "",
            "containerID": identity or (one.last.id if one.last else ""),
            "ready": running,
            "started": running,
            "restartCount": one.restarts,
            "state": _state(one.state),
            "lastState": _state(one.last) if one.last else {},
        }


def _state(state: Waiting | Started | Ended) -> dict[str, Any]:
    if isinstance(state, Waiting):
        return {"waiting": {"reason": state.reason, **({"message": state.message} if state.message else {})}}
    if isinstance(state, Started):
        return {"running": {"startedAt": state.at}}
    terminated = {
        "exitCode": state.exit_code,
        "reason": "Completed" if state.exit_code == 0 else "Error",
        "startedAt": state.started,
        "finishedAt": state.finished,
        "containerID": state.id,
    }
    if state.exit_code > SIGNAL_EXIT_CODE:
        terminated["signal"] = state.exit_code - SIGNAL_EXIT_CODE
    return {"terminated": terminated}
