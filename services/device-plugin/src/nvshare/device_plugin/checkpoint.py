"""Kubelet's own record of what it gave to whom, as far as it helps. Pure.

It is kubelet's internal file: nothing depends on it. It tells what PodResources does not: the pod's UID, the init
containers, and which answer of Allocate a container was started with.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import PurePosixPath

from google.protobuf.message import DecodeError

from nvshare.device_plugin.injection import CLIENT_FOLDER
from nvshare.device_plugin.shares import Share, ShareError, parse_share
from nvshare.kubelet.device_plugin_pb2 import ContainerAllocateResponse

FILE_NAME = "kubelet_internal_checkpoint"


@dataclass(frozen=True, slots=True)
class Entry:
    """One container. `allocation`: the name of the folder that is mounted into it."""

    pod_uid: str
    container: str
    shares: frozenset[Share]
    allocation: str


def parse_checkpoint(text: str, resource: str) -> tuple[Entry, ...]:
    """The containers that have `resource`, as far as the text can be read."""
    try:
        entries = json.loads(text)["Data"]["PodDeviceEntries"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return ()
    if not isinstance(entries, list):
        return ()
    parsed = [_entry(one) for one in entries if isinstance(one, dict) and one.get("ResourceName") == resource]
    return tuple(entry for entry in parsed if entry is not None)


def _entry(document: dict[str, object]) -> Entry | None:
    devices = document.get("DeviceIDs")
    groups = devices.values() if isinstance(devices, dict) else [devices]  # by NUMA node, or all in one list
    try:
        shares = frozenset(parse_share(str(one)) for group in groups if isinstance(group, list) for one in group)
        answer = ContainerAllocateResponse.FromString(base64.b64decode(str(document.get("AllocResp") or "")))
    except (ShareError, DecodeError, ValueError):
        return None
    folders = [mount.host_path for mount in answer.mounts if mount.container_path == CLIENT_FOLDER]
    allocation = PurePosixPath(folders[0]).name if folders else ""
    return Entry(str(document.get("PodUID") or ""), str(document.get("ContainerName") or ""), shares, allocation)
