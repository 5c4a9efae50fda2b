"""Containers by Docker's HTTP interface, for a kubelet that itself runs in a container: its image needs no docker
command.

What this kubelet calls the host's paths are paths in its own container; Docker's server has others for the same
folders. It is asked where the mounts of this container come from.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, UnixConnector

from nvshare.fake_kubelet.launches import Launch
from nvshare.fake_kubelet.path_map import PathMap
from nvshare.fake_kubelet.runner import StartError

SOCKET = Path("/var/run/docker.sock")
_BASE = "http://docker"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")
_OWN_CONTAINER = re.compile(r"/containers/([0-9a-f]{64})/")
_NO_EXIT_CODE = 137
_FRAME_HEADER_BYTES = 8


class EngineError(Exception):
    """Docker refused, or did not answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def creation(
    launch: Launch, *, host: Callable[[str], str], host_pid: bool = False, network: str = ""
) -> dict[str, Any]:
    """The body of the request that makes the container of this start. Pure.

    `host`: what Docker's host calls a path of ours; `host_pid`: as in a pod with `hostPID`.
    """
    pod, container = launch.pod, launch.container
    body: dict[str, Any] = {
        "Image": container.image,
        "Env": [f"{name}={value}" for name, value in launch.environment.items()],
        "Labels": {
            **launch.annotations,
            "io.kubernetes.container.name": container.name,
            "io.kubernetes.pod.name": pod.name,
            "io.kubernetes.pod.namespace": pod.namespace,
            "io.kubernetes.pod.uid": pod.uid,
        },
        "HostConfig": {
            "Binds": [
                f"{host(mount.host_path)}:{mount.container_path}:{'ro' if mount.read_only else 'rw'}"
                for mount in launch.mounts
            ],
            "Devices": [
                {
                    "PathOnHost": node.host_path,
                    "PathInContainer": node.container_path,
                    "CgroupPermissions": node.permissions,
                }
                for node in launch.devices
            ],
            "PidMode": "host" if host_pid else "",
        },
    }
    if launch.cdi_devices:
        request = {"Driver": "cdi", "DeviceIDs": list(launch.cdi_devices)}
        body["HostConfig"]["DeviceRequests"] = [request]
    if launch.command:
        body["Entrypoint"] = list(launch.command)
    if launch.args:
        body["Cmd"] = list(launch.args)
    if container.working_directory:
        body["WorkingDir"] = container.working_directory
    return body


def name_of(launch: Launch) -> str:
    """As kubelet's own Docker runtime named them."""
    pod = launch.pod
    name = f"k8s_{launch.container.name}_{pod.name}_{pod.namespace}_{pod.uid}_{launch.attempt}"
    return _NOT_IN_NAMES.sub("-", name)


class DockerEngineRunner:
    """Starts containers by the Docker server at `socket`; nothing is pulled. Use it with `async with`."""

    def __init__(self, socket: Path = SOCKET, *, host_pid: bool = False) -> None:
        self._engine = Engine(socket)
        self._host_pid = host_pid
        self._host = PathMap()

    async def __aenter__(self) -> DockerEngineRunner:
        """Raises EngineError."""
        own = _OWN_CONTAINER.search(Path("/proc/self/mountinfo").read_text())
        if own is not None:
            with contextlib.suppress(EngineError):  # the container of another server
                described = await self._engine.ask("GET", f"/containers/{own[1]}/json")
                self._host = PathMap(tuple((one["Destination"], one["Source"]) for one in described["Mounts"]))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._engine.close()

    async def start(self, launch: Launch, log: Path) -> RunningContainer:
        """Raises StartError."""
        if not launch.container.image:
            raise StartError("no image", "InvalidImageName")
        body = creation(launch, host=self._host, host_pid=self._host_pid)
        try:
            made = await self._engine.ask("POST", "/containers/create", {"name": name_of(launch)}, body)
            await self._engine.ask("POST", f"/containers/{made['Id']}/start")
        except EngineError as error:
            missing = error.status == 404 and "image" in str(error).lower()
            raise StartError(str(error), "ErrImageNeverPull" if missing else "RunContainerError") from error
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        return RunningContainer(self._engine, made["Id"], log)


class RunningContainer:
    """A container of Docker's."""

    def __init__(self, engine: Engine, name: str, log: Path) -> None:
        self.name = name
        self._engine = engine
        self._follow: asyncio.Task[None] = asyncio.create_task(self._keep_log(log))
        self._exit: asyncio.Task[int] = asyncio.create_task(self._reap())

    @property
    def id(self) -> str:
        return f"docker://{self.name}"

    async def wait(self) -> int:
        return await asyncio.shield(self._exit)

    async def stop(self, grace_seconds: float) -> None:
        with contextlib.suppress(EngineError):  # it has ended by itself
            await self._engine.ask("POST", f"/containers/{self.name}/stop", {"t": str(round(grace_seconds))})
        await self.wait()

    async def remove(self) -> None:
        with contextlib.suppress(EngineError):
            await self._engine.ask("DELETE", f"/containers/{self.name}", {"force": "true"})

    async def _reap(self) -> int:
        try:
            code = int((await self._engine.ask("POST", f"/containers/{self.name}/wait"))["StatusCode"])
        except EngineError:
            code = _NO_EXIT_CODE  # somebody else has removed it
        await self._follow
        return code

    async def _keep_log(self, log: Path) -> None:
        query = {"follow": "true", "stdout": "true", "stderr": "true"}
        with log.open("ab", buffering=0) as output, contextlib.suppress(EngineError):
            async for piece in self._engine.frames(f"/containers/{self.name}/logs", query):
                output.write(piece)


class Engine:
    """Docker's server, asked over its socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._session: ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> Any:
        """The answer's JSON; None where it has none. Raises EngineError."""
        try:
            async with self._opened().request(method, f"{_BASE}{path}", params=query, json=body) as answer:
                text = await answer.text()
        except (ClientError, OSError) as error:
            raise EngineError(0, f"Docker does not answer at {self._socket}: {error}") from error
        if answer.status >= 400:
            raise EngineError(answer.status, _message(text))
        return json.loads(text) if text.strip() else None

    async def frames(self, path: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """What a container without a terminal printed: frames of a stream's number, a length and so many bytes."""
        try:
            async with self._opened().get(f"{_BASE}{path}", params=query) as answer:
                if answer.status >= 400:
                    raise EngineError(answer.status, _message(await answer.text()))
                while header := await answer.content.read(_FRAME_HEADER_BYTES):
                    while len(header) < _FRAME_HEADER_BYTES:
                        header += await answer.content.readexactly(_FRAME_HEADER_BYTES - len(header))
                    yield await answer.content.readexactly(int.from_bytes(header[4:], "big"))
        except (ClientError, OSError, asyncio.IncompleteReadError) as error:
            raise EngineError(0, str(error)) from error

    def _opened(self) -> ClientSession:
        if self._session is None:
            # Waiting for a container's end takes as long as it runs, and there are several of those at once.
            self._session = ClientSession(connector=UnixConnector(str(self._socket), limit=0), timeout=ClientTimeout())
        return self._session


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip() or "Docker refused"
