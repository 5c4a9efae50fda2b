"""Kubelet's checkpoint of devices (`kubelet_internal_checkpoint`): the codec, which reads and writes no file. Pure.

The members are kubelet's. The checksum is FNV-1a of the data as this codec writes it, while kubelet's depends on how Go
prints the data: neither reads the other's file.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nvshare.fake_kubelet.accounting import Holding


class CheckpointError(ValueError):
    """A text that is no checkpoint; the message is one line for people."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Who has what; the IDs of each plugin's healthy devices; the boot in which it was written."""

    holdings: tuple[Holding, ...]
    registered: Mapping[str, tuple[str, ...]]
    boot_id: str = ""


def encode(holdings: Iterable[Holding], registered: Mapping[str, Iterable[str]], boot_id: str) -> str:
    """The file's text."""
    data = {
        "PodDeviceEntries": [
            {
                "PodUID": held.pod_uid,
                "ContainerName": held.container,
                "ResourceName": held.resource,
                "DeviceIDs": {str(node): list(ids) for node, ids in held.devices.items()},
                "AllocResp": base64.b64encode(held.response).decode(),
            }
            for held in holdings
        ],
        "RegisteredDevices": {resource: sorted(ids) for resource, ids in registered.items()},
    }
    return json.dumps({"Data": data, "Checksum": _checksum(data), "BootID": boot_id})


def decode(text: str) -> Checkpoint:
    """What `encode` wrote. Raises CheckpointError on anything else."""
    try:
        document = json.loads(text)
        data = document["Data"]
        if document["Checksum"] != _checksum(data):
            raise CheckpointError("checkpoint is corrupted: its checksum is wrong")
        holdings = tuple(
            Holding(
                pod_uid=str(entry["PodUID"]),
                container=str(entry["ContainerName"]),
                resource=str(entry["ResourceName"]),
                devices={int(node): tuple(ids) for node, ids in entry["DeviceIDs"].items()},
                response=base64.b64decode(entry["AllocResp"], validate=True),
            )
            for entry in data["PodDeviceEntries"]
        )
        registered = {str(resource): tuple(ids) for resource, ids in data["RegisteredDevices"].items()}
        return Checkpoint(holdings, registered, str(document.get("BootID", "")))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, binascii.Error) as error:
        raise CheckpointError(f"not a checkpoint of devices: {error!r}") from error


def _checksum(data: Any) -> int:
    """FNV-1a, 32 bits, of canonical JSON."""
    value = 0x811C9DC5
    for byte in json.dumps(data, sort_keys=True, separators=(",", ":")).encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value
