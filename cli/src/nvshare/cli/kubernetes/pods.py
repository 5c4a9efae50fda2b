"""The pods of a benchmark: what they are, and what the API server's words about them mean. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LABEL = "nvshare.com/bench"
CONTAINER = "work"
LONGEST_WORDS = 160
"""Of an explanation in the table."""


@dataclass(frozen=True, slots=True)
class PodPlan:
    """What all pods of a run have in common. `resource`: what each asks one of; `run`: names the run in a label."""

    run: str
    resource: str
    image: str
    deadline_seconds: int
    runtime_class: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def selector(self) -> str:
        """Selects the run's pods."""
        return f"{LABEL}={self.run}"

    def manifest(self, name: str, command: Sequence[str]) -> dict[str, Any]:
        """One pod. It ends by itself if nobody ends it: whoever made it may have been killed."""
        container = {
            "name": CONTAINER,
            "image": self.image,
            "command": list(command),
            "resources": {"limits": {self.resource: "1"}},
        }
        spec: dict[str, Any] = {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": self.deadline_seconds,
            "terminationGracePeriodSeconds": 5,
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "containers": [container],
        }
        if self.runtime_class:
            spec["runtimeClassName"] = self.runtime_class
        metadata = {"name": name, "labels": {LABEL: self.run}, "annotations": dict(self.annotations)}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@dataclass(frozen=True, slots=True)
class PodState:
    """How a pod is. `phase` as Kubernetes says it; `why`: what keeps it from running, or made it fail."""

    name: str
    phase: str = "Pending"
    node: str = ""
    why: str = ""

    @property
    def ended(self) -> bool:
        return self.phase in ("Succeeded", "Failed")

    def __str__(self) -> str:
        words = "ran to its end" if self.phase == "Succeeded" else self.phase.lower()
        return f"{words} on {self.node}" if self.node else f"{words}{self._because()}"

    def _because(self) -> str:
        return f": {self.why}" if self.why else ""


def pod_state(pod: Mapping[str, Any]) -> PodState:
    """The state of an object of the API server; whatever it lacks is empty."""
    status = pod.get("status") or {}
    return PodState(
        name=str(pod["metadata"]["name"]),
        phase=str(status.get("phase") or "Pending"),
        node=str((pod.get("spec") or {}).get("nodeName") or ""),
        why=_why(status)[:LONGEST_WORDS],
    )


def _why(status: Mapping[str, Any]) -> str:
    containers = [container.get("state") or {} for container in status.get("containerStatuses") or ()]
    for state in containers:
        ended, waiting = state.get("terminated"), state.get("waiting")
        if ended and ended.get("exitCode"):
            return _words(ended) or f"exit status {ended['exitCode']}"
        if waiting and waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return _words(waiting)
    if status.get("reason"):
        return _words(status)
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return _words(condition)
    return ""


def _words(said: Mapping[str, Any]) -> str:
    reason, message = str(said.get("reason") or ""), str(said.get("message") or "")
    if "exitCode" in said and reason == "Error":  # says nothing more than the status
        reason = f"exit status {said['exitCode']}"
    return ": ".join(filter(None, (reason, " ".join(message.split()))))
