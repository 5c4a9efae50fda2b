"""What a runner is told of a container to start: the pod's words and the plugins' answers put together. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nvshare.fake_kubelet.pods import Container, Pod, PodError, Variable
from nvshare.fake_kubelet.run_options import DeviceNode, Mount, RunOptions

_REFERENCE = re.compile(r"\$(\$|\((?P<name>[-._A-Za-z][-._A-Za-z0-9]*)\))")
_KEYED_FIELD = re.compile(r"metadata\.(?P<which>labels|annotations)\['(?P<key>[^']+)'\]")


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of a container. `command` and `args` are empty where the image's own are meant."""

    pod: Pod
    container: Container
    attempt: int
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    devices: tuple[DeviceNode, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    cdi_devices: tuple[str, ...] = ()


def launch(
    pod: Pod,
    container: Container,
    options: RunOptions,
    *,
    attempt: int = 0,
    node_address: str = "",
    volume_path: Callable[[str], str] = lambda volume: "",
) -> Launch:
    """`volume_path` is where the pod's own volumes are. Raises PodError for what refers to nothing.

    The pod's own variables win over those of the plugins, and cannot refer to them, as with kubelet.
    """
    own: dict[str, str] = {}
    for variable in container.environment:
        own[variable.name] = _value(variable, pod, container, own, node_address)
    mounts = {mount.container_path: mount for mount in options.mounts}
    for volume in container.volumes:
        base = volume.host_path or volume_path(volume.volume)
        path = f"{base}/{volume.sub_path}" if volume.sub_path else base
        mounts[volume.container_path] = Mount(volume.container_path, path, volume.read_only)
    return Launch(
        pod=pod,
        container=container,
        attempt=attempt,
        command=tuple(expand(word, own) for word in container.command),
        args=tuple(expand(word, own) for word in container.args),
        environment={"HOSTNAME": pod.name, **options.environment, **own},
        mounts=tuple(mounts.values()),
        devices=options.devices,
        annotations=options.annotations,
        cdi_devices=options.cdi_devices,
    )


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the variable's value, if there is one; `$$` becomes `$`."""

    def value(match: re.Match[str]) -> str:
        name = match["name"]
        return "$" if name is None else variables.get(name, match[0])

    return _REFERENCE.sub(value, text)


def _value(variable: Variable, pod: Pod, container: Container, earlier: Mapping[str, str], node_address: str) -> str:
    if variable.field_path:
        return _field(variable.field_path, pod, node_address)
    if variable.resource:
        amount = container.limits.get(variable.resource.removeprefix("limits."))
        if amount is None:
            raise PodError(f"variable {variable.name!r}: the container has no {variable.resource}")
        return str(amount)
    return expand(variable.value, earlier)


def _field(path: str, pod: Pod, node_address: str) -> str:
    plain = {
        "metadata.name": pod.name,
        "metadata.namespace": pod.namespace,
        "metadata.uid": pod.uid,
        "spec.nodeName": pod.node,
        "spec.serviceAccountName": pod.service_account,
        "status.hostIP": node_address,
        "status.podIP": node_address,
    }
    if path in plain:
        return plain[path]
    match = _KEYED_FIELD.fullmatch(path)
    if match is None:
        raise PodError(f"there is no field {path!r} of a pod for the environment")
    values = pod.labels if match["which"] == "labels" else pod.annotations
    return values.get(match["key"], "")
