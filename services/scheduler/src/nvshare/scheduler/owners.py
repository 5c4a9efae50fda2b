"""Whose a process on the card is, as far as its host tells. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nvshare.bus.quantities import format_bytes
from nvshare.scheduler.model import Allocation, Owner

_POD = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})", re.ASCII)
_CONTAINER = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", re.ASCII)
_SHOWN_CHARACTERS = 12  # of a container's ID, as docker and crictl show them
_LONGEST_COMMAND = 15  # the kernel keeps no more


def parse_owner(command: str, cgroup: str) -> Owner:
    """From the texts of /proc/<pid>/comm and /proc/<pid>/cgroup: kubelet puts the pod's UID into the path, with either
    of its cgroup drivers, and every runtime the container's ID."""
    shown = "".join(character for character in command.strip() if character.isprintable())
    pods, containers = _POD.findall(cgroup), _CONTAINER.findall(cgroup)
    return Owner(
        command=shown[:_LONGEST_COMMAND],
        pod_uid=pods[0].replace("_", "-") if pods else "",
        container_id=containers[-1] if containers else "",
    )


def unmanaged_words(pid: int, size_bytes: int, owner: Owner, allocations: Iterable[Allocation]) -> str:
    """One sentence about a process that uses the card without nvshare. A pod has a name where nvshare gave it a share;
    of others only the UID is known."""
    parts = [f"process {pid}" + (f" ({owner.command})" if owner.command else "")]
    if owner.pod_uid:
        known = [one.pod for one in allocations if one.pod and one.pod_uid == owner.pod_uid]
        parts.append(f"of pod {known[0] if known else owner.pod_uid}")
    if owner.container_id:
        parts.append(f"in container {owner.container_id[:_SHOWN_CHARACTERS]}")
    return f"{' '.join(parts)} has {format_bytes(size_bytes)} on the card without nvshare"
