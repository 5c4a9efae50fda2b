"""Looks at kubelet's folder, at the node's, and asks the node that runs. Never raises for what it finds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import time
from dataclasses import replace
from pathlib import Path

from structlog.testing import capture_logs

from nvshare.bus.connection import Bus
from nvshare.bus.credentials import CredentialError
from nvshare.bus.hub import Hub
from nvshare.bus.node_client import NodeError
from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.doctor.facts import AllocationFacts, FolderFacts, KubeletFacts, NodeFacts
from nvshare.cli.errors import CommandError
from nvshare.cli.node_folder import LONGEST_SOCKET
from nvshare.cli.node_query import fetch_status

_CHECKPOINT = "kubelet_internal_checkpoint"
_CONNECT_SECONDS = 1.0
_HUB_SECONDS = 3.0
_NATS_CONFIGURATION = "nats-server.conf"
_LEAF = "leafnodes"  # stands in it where the node has a hub
_PLUGIN = "device-plugin"


def gather_kubelet(folder: Path) -> KubeletFacts:
    """Kubelet's sockets, and what it has registered."""
    plugins = folder / "device-plugins"
    if not folder.is_dir():
        return KubeletFacts(str(folder))
    try:
        names = sorted(path.name for path in plugins.iterdir() if stat.S_ISSOCK(path.stat().st_mode))
    except FileNotFoundError:
        return KubeletFacts(str(folder), present=True)
    except OSError:
        return KubeletFacts(str(folder), present=True, readable=False)
    return KubeletFacts(
        str(folder),
        present=True,
        plugins_writable=os.access(plugins, os.W_OK),
        answers=_answers(plugins / "kubelet.sock") if "kubelet.sock" in names else None,
        pod_resources=(folder / "pod-resources" / "kubelet.sock").exists(),
        sockets=tuple(name for name in names if name != "kubelet.sock"),
        devices=_registered(plugins / _CHECKPOINT),
    )


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_CONNECT_SECONDS)
        try:
            connection.connect(str(path))
        except PermissionError:
            return True  # it is there; who may talk to it is another question
        except OSError:
            return False
        return True


def _registered(checkpoint: Path) -> dict[str, tuple[str, ...]] | None:
    """The devices of each resource, as kubelet wrote them down."""
    try:
        devices = json.loads(checkpoint.read_text())["Data"]["RegisteredDevices"]
        return {str(resource): tuple(map(str, ids or ())) for resource, ids in (devices or {}).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def gather_folder(directory: NodeDirectory) -> FolderFacts:
    """The node's folder, whether a node runs in it or not."""
    socket_path_bytes = len(os.fsencode(directory.path / LONGEST_SOCKET))
    try:
        status = directory.path.stat()
        noexec = bool(os.statvfs(directory.path).f_flag & os.ST_NOEXEC)
    except OSError:
        return FolderFacts(str(directory.path), socket_path_bytes=socket_path_bytes)
    return FolderFacts(
        str(directory.path),
        present=True,
        owner=status.st_uid,
        mode=stat.S_IMODE(status.st_mode),
        noexec=noexec,
        socket_path_bytes=socket_path_bytes,
        library_build=_library_build(directory.path / "lib" / "current"),
    )


def _library_build(link: Path) -> str | None:
    """Of the library that new containers get: the link's target is called `<version>-<build>`."""
    try:
        return link.readlink().name.partition("-")[2]
    except OSError:
        return None


async def gather_running(directory: NodeDirectory) -> NodeFacts:
    """What the node that runs says about itself."""
    description: dict[str, object] = {}
    with contextlib.suppress(OSError, ValueError):
        description = directory.read_description()
    hub, hub_problem = await ask_hub(directory)
    node = NodeFacts(
        str(directory.path),
        hub=hub,
        hub_problem=hub_problem,
        emulated=bool(description.get("emulated")),
        build=str(description.get("build") or ""),
        allocations=tuple(_allocations(directory)),
    )
    try:
        return replace(node, status=await fetch_status(directory))
    except (NodeError, CommandError) as error:
        return replace(node, refusal=str(error))


async def ask_hub(directory: NodeDirectory) -> tuple[bool | None, str]:
    """Whether the hub that this node is a leaf of answers through the node's bus; None: there is none, or it cannot be
    asked, and why.
    """
    try:
        if _LEAF not in (directory.nats / _NATS_CONFIGURATION).read_text():
            return None, ""
        found = directory.read_description()
        credential = directory.service_credentials(_PLUGIN).read_text()
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError) as error:
        return None, f"whether it answers, only the node's user can ask: {error}"
    with capture_logs():  # what the bus logs is for services
        try:
            async with asyncio.timeout(_HUB_SECONDS):
                bus = await Bus.connect(url=str(found.get("nats_url")), jwt=credential, name=_PLUGIN)
                try:
                    async with Hub(bus) as hub:
                        return hub.reachable, ""
                finally:
                    await bus.close()
        except TimeoutError:
            return False, ""
        except CredentialError as error:
            return None, f"whether it answers cannot be asked: {error}"


def _allocations(directory: NodeDirectory) -> list[AllocationFacts]:
    """Those of the device plugin."""
    found = []
    for description in sorted(directory.allocations.glob("*/allocation.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            document = json.loads(description.read_text())
            if document["source"] == _PLUGIN:
                pod = document.get("pod") or {}
                name = "/".join(filter(None, (pod.get("namespace"), pod.get("name"))))
                age_seconds = time.time() - description.stat().st_mtime
                found.append(AllocationFacts(str(document["id"]), name, age_seconds))
    return found
