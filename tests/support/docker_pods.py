"""Pods as the chart renders them, as containers of Docker: with their users, rights, mounts, variables and probes.

What Kubernetes would do beside is done here: secrets as files, the name of a Service, the node's name.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Object = dict[str, Any]
GROUP = 65532
"""The `fsGroup` of the chart's pods, which may read secrets."""


@dataclass
class DockerNode:
    """Runs pods under names that begin with `prefix`, which is also the network of those that have not the host's.
    `services`: addresses by name.
    """

    name: str
    prefix: str
    folder: Path
    secrets: Mapping[str, Mapping[str, str]]
    services: dict[str, str] = field(default_factory=dict)
    pods: dict[str, Object] = field(default_factory=dict)

    def start(self, name: str, spec: Object) -> None:
        """Runs the init containers of a pod to their end, and starts the others."""
        self.pods[name] = spec
        for container in spec.get("initContainers", []):
            docker("run", "--rm", *self._options(name, spec, container), container["image"], *words(container))
        for container in spec["containers"]:
            options = ["--detach", f"--name={self.container(name, container)}", "--restart=unless-stopped"]
            docker("run", *options, *self._options(name, spec, container), container["image"], *words(container))

    def end(self, name: str) -> None:
        """Ends a pod as kubelet does: all containers get SIGTERM, and time."""
        spec = self.pods.pop(name)
        containers = [self.container(name, one) for one in spec["containers"]]
        docker("stop", f"--time={spec.get('terminationGracePeriodSeconds', 30)}", *containers)
        docker("rm", "--force", *containers)
        for path in self.folder.glob(f"empty-{name}-*"):
            shutil.rmtree(path)

    def end_all(self) -> None:
        for name, spec in self.pods.items():
            docker("rm", "--force", *(self.container(name, one) for one in spec["containers"]))
        self.pods.clear()

    def container(self, pod: str, container: Object) -> str:
        return f"{self.prefix}-{pod}-{container['name']}"

    def address(self, pod: str) -> str:
        """The pod's IP address."""
        (container,) = self.pods[pod]["containers"]
        form = "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return docker("inspect", form, self.container(pod, container)).strip()

    def not_ready(self, pod: str) -> str:
        """Why one of the pod's containers is not ready; empty: all are."""
        for container in self.pods[pod]["containers"]:
            if (probe := container.get("readinessProbe")) and (problem := self._probed(pod, container, probe)):
                return f"{container['name']}: {problem}"
        return ""

    def logs(self) -> str:
        """What all containers said last, for a test that failed."""
        names = [self.container(name, one) for name, spec in self.pods.items() for one in spec["containers"]]
        said = [subprocess.run(["docker", "logs", "--tail=15", name], capture_output=True, text=True) for name in names]
        return "\n".join(f"== {name}\n{one.stdout}{one.stderr}" for name, one in zip(names, said, strict=True))

    def _probed(self, pod: str, container: Object, probe: Object) -> str:
        if "exec" in probe:
            run = ["docker", "exec", self.container(pod, container), *probe["exec"]["command"]]
            done = subprocess.run(run, capture_output=True, text=True)
            return done.stdout + done.stderr if done.returncode else ""
        where = probe["httpGet"]
        (port,) = (one["containerPort"] for one in container["ports"] if one["name"] == where["port"])
        try:
            with urllib.request.urlopen(f"http://{self.address(pod)}:{port}{where['path']}", timeout=5):
                return ""
        except OSError as error:
            return str(error)

    def _options(self, name: str, spec: Object, container: Object) -> Iterator[str]:
        context = container["securityContext"]
        yield f"--user={context['runAsUser']}:{context.get('runAsGroup', 0)}"
        yield from (f"--cap-drop={one}" for one in context["capabilities"]["drop"])
        yield from (f"--cap-add={one}" for one in context["capabilities"].get("add", []))
        if context["readOnlyRootFilesystem"]:
            yield "--read-only"
        if not context["allowPrivilegeEscalation"]:
            yield "--security-opt=no-new-privileges"
        if spec.get("hostPID"):
            yield "--pid=host"
        yield "--network=host" if spec.get("hostNetwork") else f"--network={self.prefix}"
        yield from (f"--add-host={service}:{address}" for service, address in self.services.items())
        for variable in container.get("env", []):
            yield f"--env={variable['name']}={self._value(variable)}"
        volumes = {one["name"]: one for one in spec.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            yield from self._mounted(name, volumes[mount["name"]], mount)
        if "command" in container:
            yield f"--entrypoint={container['command'][0]}"

    def _value(self, variable: Object) -> str:
        source = variable.get("valueFrom")
        if source is None:
            return str(variable["value"])
        if "secretKeyRef" in source:
            return self.secrets[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
        assert source["fieldRef"]["fieldPath"] == "spec.nodeName"
        return self.name

    def _mounted(self, pod: str, volume: Object, mount: Object) -> Iterator[str]:
        if "emptyDir" in volume:
            place = self._empty_folder(pod, volume["name"])
        elif "secret" in volume:
            place = self._secret_files(pod, volume["secret"])
        else:
            place = Path(volume["hostPath"]["path"])
            if volume["hostPath"].get("type") == "DirectoryOrCreate":
                place.mkdir(exist_ok=True)
        yield f"--volume={place}:{mount['mountPath']}{':ro' * bool(mount.get('readOnly'))}"

    def _empty_folder(self, pod: str, volume: str) -> Path:
        """That of one life of a pod; as from kubelet, everybody in it may write there."""
        path = self.folder / f"empty-{pod}-{volume}"
        path.mkdir(exist_ok=True)
        path.chmod(0o777)
        return path

    def _secret_files(self, pod: str, secret: Object) -> Path:
        folder = self.folder / f"secret-{pod}-{secret['secretName']}"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        for item in secret["items"]:
            path = folder / item["path"]
            path.write_text(self.secrets[secret["secretName"]][item["key"]])
            os.chown(path, 0, GROUP)
            path.chmod(secret.get("defaultMode", 0o644))
        return folder


def words(container: Object) -> list[str]:
    """What stands behind the image: the rest of the command, and the arguments."""
    return [*container.get("command", [])[1:], *container.get("args", [])]


def docker(*arguments: str) -> str:
    """What Docker prints; its error fails the test."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout


def secrets_of(objects: list[Object]) -> dict[str, dict[str, str]]:
    """The texts of all secrets among `objects`, by name and key."""
    found = {}
    for one in objects:
        if one["kind"] == "Secret":
            encoded = {key: base64.b64decode(text).decode() for key, text in one.get("data", {}).items()}
            found[one["metadata"]["name"]] = {**encoded, **one.get("stringData", {})}
    return found


def asked(method: str, url: str, body: object = None) -> Any:
    """The answer of an API server, as JSON where it is JSON. Raises OSError."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read().decode()
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return text
