"""Pods, as far as their quotas go. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nvshare.quota_watcher.annotations import PREFIX

_ENDED = ("Succeeded", "Failed")


class MalformedPodError(ValueError):
    """An object that is no pod."""


@dataclass(frozen=True)
class Pod:
    """One pod at one `version` (resourceVersion: opaque, only good for being compared with itself)."""

    uid: str
    version: str
    namespace: str
    name: str
    node: str
    created_unix_ns: int
    ended: bool
    shares: bool
    """Whether a container of it asks for shares of GPUs."""
    containers: tuple[str, ...]
    annotations: Mapping[str, str]
    """Only those of nvshare."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def parse_pod(document: Any) -> Pod:
    """Reads a pod of the API. Raises MalformedPodError."""
    try:
        metadata, spec = document["metadata"], document["spec"]
        containers = [*spec.get("initContainers", ()), *spec["containers"]]
        created = datetime.fromisoformat(metadata["creationTimestamp"])
        return Pod(
            uid=_text(metadata["uid"]),
            version=_text(metadata["resourceVersion"]),
            namespace=_text(metadata["namespace"]),
            name=_text(metadata["name"]),
            node=spec.get("nodeName") or "",
            created_unix_ns=int(created.timestamp()) * 10**9,
            ended=(document.get("status") or {}).get("phase") in _ENDED,
            shares=any(_asks(container) for container in containers),
            containers=tuple(_text(container["name"]) for container in containers),
            annotations={
                key: str(value) for key, value in (metadata.get("annotations") or {}).items() if key.startswith(PREFIX)
            },
        )
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise MalformedPodError(f"not a pod: {type(error).__name__} {error}") from None


def _asks(container: Mapping[str, Any]) -> bool:
    resources = container.get("resources") or {}
    names = {*(resources.get("limits") or {}), *(resources.get("requests") or {})}
    return any(name.startswith(PREFIX) for name in names)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise TypeError(f"{str(value)[:40]!r} is not a text of one line")
    return value
