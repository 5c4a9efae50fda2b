"""Pods as kubelet sees them: what of the API's objects decides about devices and processes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

RESTART_POLICIES = ("Always", "OnFailure", "Never")


class PodError(ValueError):
    """An object that is no pod that can be run here; the message is one line for people."""


class Kind(Enum):
    INIT = "init"
    """Runs to its end before the others start."""
    SIDECAR = "sidecar"
    """An init container that goes on beside the others (`restartPolicy: Always`)."""
    APP = "app"


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of a container's environment: a value, or where it comes from."""

    name: str
    value: str = ""
    field_path: str = ""
    """Downward API: a field of the pod, as `metadata.name`."""
    resource: str = ""
    """Downward API: a limit of the container, as `limits.example.com/device`."""


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """A folder or file of a volume in the container. Without `host_path` the volume is an empty folder of the pod."""

    volume: str
    container_path: str
    host_path: str = ""
    sub_path: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    """`limits` are the extended resources (with a domain) that it asks for."""

    name: str
    limits: Mapping[str, int] = field(default_factory=dict)
    kind: Kind = Kind.APP
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    environment: tuple[Variable, ...] = ()
    volumes: tuple[VolumeMount, ...] = ()
    working_directory: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """`containers` in the order of their starts: init containers and sidecars, then the others."""

    name: str
    uid: str
    containers: tuple[Container, ...]
    namespace: str = "default"
    restart_policy: str = "Always"
    grace_seconds: float = 30.0
    node: str = ""
    service_account: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def container(self, name: str) -> Container:
        """Raises KeyError."""
        for container in self.containers:
            if container.name == name:
                return container
        raise KeyError(name)


def parse_pod(document: Mapping[str, Any]) -> Pod:
    """The pod of an API object. Raises PodError."""
    try:
        metadata, spec = document["metadata"], document["spec"]
        volumes = {volume["name"]: volume for volume in spec.get("volumes") or ()}
        restart_policy = spec.get("restartPolicy", "Always")
        if restart_policy not in RESTART_POLICIES:
            raise PodError(f"restartPolicy {restart_policy!r} is none of {', '.join(RESTART_POLICIES)}")
        first = [
            _container(one, Kind.SIDECAR if one.get("restartPolicy") == "Always" else Kind.INIT, volumes)
            for one in spec.get("initContainers") or ()
        ]
        others = [_container(one, Kind.APP, volumes) for one in spec["containers"]]
        grace = spec.get("terminationGracePeriodSeconds")
        return Pod(
            name=metadata["name"],
            uid=metadata["uid"],
            containers=(*first, *others),
            namespace=metadata.get("namespace", "default"),
            restart_policy=restart_policy,
            grace_seconds=30.0 if grace is None else float(grace),
            node=spec.get("nodeName", ""),
            service_account=spec.get("serviceAccountName", "default"),
            labels=dict(metadata.get("labels") or {}),
            annotations=dict(metadata.get("annotations") or {}),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise error if isinstance(error, PodError) else PodError(f"not a pod: {error!r}") from error


def _container(document: Mapping[str, Any], kind: Kind, volumes: Mapping[str, Any]) -> Container:
    if document.get("envFrom"):
        raise PodError(f"container {document['name']!r}: envFrom is not supported")
    limits = (document.get("resources") or {}).get("limits") or {}
    return Container(
        name=document["name"],
        limits={name: int(amount) for name, amount in limits.items() if "/" in name and int(amount) > 0},
        kind=kind,
        image=document.get("image", ""),
        command=tuple(document.get("command") or ()),
        args=tuple(document.get("args") or ()),
        environment=tuple(_variable(one) for one in document.get("env") or ()),
        volumes=tuple(_volume_mount(one, volumes) for one in document.get("volumeMounts") or ()),
        working_directory=document.get("workingDir", ""),
    )


def _variable(document: Mapping[str, Any]) -> Variable:
    name, source = document["name"], document.get("valueFrom")
    if not source:
        return Variable(name, value=document.get("value", ""))
    if "fieldRef" in source:
        return Variable(name, field_path=source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        return Variable(name, resource=source["resourceFieldRef"]["resource"])
    raise PodError(f"variable {name!r}: only value, fieldRef and resourceFieldRef are supported")


def _volume_mount(document: Mapping[str, Any], volumes: Mapping[str, Any]) -> VolumeMount:
    volume = volumes[document["name"]]
    if "hostPath" not in volume and "emptyDir" not in volume:
        raise PodError(f"volume {document['name']!r}: only hostPath and emptyDir are supported")
    return VolumeMount(
        volume=document["name"],
        container_path=document["mountPath"],
        host_path=(volume.get("hostPath") or {}).get("path", ""),
        sub_path=document.get("subPath", ""),
        read_only=bool(document.get("readOnly", False)),
    )
