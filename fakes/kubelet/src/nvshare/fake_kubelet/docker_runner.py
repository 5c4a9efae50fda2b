"""Containers by the docker command: real mounts, real images."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from nvshare.fake_kubelet.launches import Launch
from nvshare.fake_kubelet.runner import StartError

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")
_NO_EXIT_CODE = 137


def docker_arguments(
    launch: Launch, *, extra: Sequence[str] = (), host: Callable[[str], str] = lambda path: path
) -> list[str]:
    """The arguments of `docker` for this start; nothing is pulled. `host` maps paths as they are here to what they are
    where docker's server is. Pure.
    """
    pod, container = launch.pod, launch.container
    labels = {
        **launch.annotations,
        "io.kubernetes.container.name": container.name,
        "io.kubernetes.pod.name": pod.name,
        "io.kubernetes.pod.namespace": pod.namespace,
        "io.kubernetes.pod.uid": pod.uid,
    }
    arguments = ["run", "--detach", "--pull=never", f"--name={container_name(launch)}"]
    arguments += [f"--label={key}={value}" for key, value in labels.items()]
    arguments += [f"--env={key}={value}" for key, value in launch.environment.items()]
    for mount in launch.mounts:
        arguments += ["-v", f"{host(mount.host_path)}:{mount.container_path}:{'ro' if mount.read_only else 'rw'}"]
    arguments += [f"--device={node.host_path}:{node.container_path}:{node.permissions}" for node in launch.devices]
    arguments += [f"--device={name}" for name in launch.cdi_devices]
    if container.working_directory:
        arguments.append(f"--workdir={container.working_directory}")
    entry, *rest = launch.command or ("",)
    if entry:
        arguments.append(f"--entrypoint={entry}")
    return [*arguments, *extra, container.image, *rest, *launch.args]


def container_name(launch: Launch) -> str:
    """As kubelet once named docker's containers."""
    pod = launch.pod
    name = f"k8s_{launch.container.name}_{pod.name}_{pod.namespace}_{pod.uid}_{launch.attempt}"
    return _NOT_IN_NAMES.sub("-", name)


class DockerRunner:
    """Starts containers by `program`. `extra` are further arguments of `docker run`, as `--network=…`."""

    def __init__(
        self,
        *,
        program: str = "docker",
        extra: Sequence[str] = (),
        host: Callable[[str], str] = lambda path: path,
    ) -> None:
        self._program = program
        self._extra = tuple(extra)
        self._host = host

    async def start(self, launch: Launch, log: Path) -> RunningContainer:
        """Raises StartError."""
        if not launch.container.image:
            raise StartError("no image", "InvalidImageName")
        try:
            name = await self._docker(*docker_arguments(launch, extra=self._extra, host=self._host))
        except OSError as error:
            raise StartError(f"cannot run {self._program}: {error}") from error
        except StartError:
            with contextlib.suppress(StartError):  # made, but not started, it would hold its name
                await self._docker("rm", "--force", container_name(launch))
            raise
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            follow = await asyncio.create_subprocess_exec(
                self._program, "logs", "--follow", name, stdout=output, stderr=output
            )
        return RunningContainer(name, self._docker, follow)

    async def _docker(self, *arguments: str) -> str:
        """What it prints. Raises StartError."""
        process = await asyncio.create_subprocess_exec(
            self._program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        printed, complaint = await process.communicate()
        if process.returncode != 0:
            text = complaint.decode(errors="replace").strip()
            missing = "No such image" in text or "Unable to find image" in text
            raise StartError(text, "ErrImageNeverPull" if missing else "RunContainerError")
        return printed.decode().strip()


class RunningContainer:
    """A container of docker's."""

    def __init__(self, name: str, docker: Callable[..., Awaitable[str]], follow: asyncio.subprocess.Process) -> None:
        self.name = name
        self._docker = docker
        self._follow = follow
        self._exit: asyncio.Task[int] = asyncio.create_task(self._reap())

    @property
    def id(self) -> str:
        return f"docker://{self.name}"

    async def wait(self) -> int:
        return await asyncio.shield(self._exit)

    async def stop(self, grace_seconds: float) -> None:
        with contextlib.suppress(StartError):  # it has ended by itself
            await self._docker("stop", f"--time={math.ceil(grace_seconds)}", self.name)
        await self.wait()

    async def remove(self) -> None:
        with contextlib.suppress(StartError):
            await self._docker("rm", "--force", self.name)

    async def _reap(self) -> int:
        try:
            code = int(await self._docker("wait", self.name))
        except StartError:
            code = _NO_EXIT_CODE  # somebody else has removed it
        await self._follow.wait()
        return code
