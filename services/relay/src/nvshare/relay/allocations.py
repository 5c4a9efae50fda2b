"""What an allocation is: the text of its allocation.json, and what a user may ask for.

Pure. The file is written by the relay for `nvshare run` and by the device plugin for a container; it is read with
suspicion all the same, because a folder may be half made, or made by another version.
"""

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from nvshare.bus.compute import (
    DEFAULT_WEIGHT,
    GREATEST_CORE_PERCENT,
    GREATEST_WEIGHT,
    NORMAL,
    PRIORITIES,
    priority_word,
)
from nvshare.bus.subjects import valid_token
from nvshare.v1.control_pb2 import AllocateRequest, QuotaRequest
from nvshare.v1.node_pb2 import Allocation as AllocationMessage

ANY_UID = -1
"""An allocation's uid when whoever reaches its socket may connect (a container's)."""

QUOTA_OF_USER = "user"
"""Source of a quota that somebody gave an allocation by `nvshare quota set`."""

SOURCE_RUN = "run"
"""Source of the allocations that users ask the relay for."""

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,39}", re.ASCII)
_GPU = re.compile(r"(?:GPU|MIG)-[0-9a-f-]{36}", re.ASCII)  # as NVML prints them
_MAX_GPUS = 64
_MAX_REQUESTED_GPUS = 16
_MAX_NAME_CHARACTERS = 64
_MAX_GROUP_CHARACTERS = 128  # namespace and name, of 63 each
_MAX_POD_CHARACTERS = 253  # of a name in Kubernetes
_MAX_NUMBER = 2**63 - 1


class AllocationError(ValueError):
    """A description or a request that cannot be honoured; the message is one line for people."""


@dataclass(frozen=True, slots=True)
class Pod:
    """Whose container it is, in Kubernetes; `uid` and `container` may be empty."""

    namespace: str
    name: str
    uid: str = ""
    container: str = ""


@dataclass(frozen=True, slots=True)
class Allocation:
    """One container's share, or one `nvshare run`; the fields are those of allocation.json (docs/protocol.md)."""

    id: str
    gpus: tuple[str, ...]
    name: str
    uid: int
    memory_limit_bytes: int
    core_limit_percent: int
    source: str
    weight: int = DEFAULT_WEIGHT
    priority: str = NORMAL
    core_burst: bool = False
    pod: Pod | None = None
    group: str = ""
    quota_source: str = ""
    quota_since_unix_ns: int = 0

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise AllocationError("its id is not 1 to 40 characters of a-z 0-9 -")
        if not 1 <= len(self.gpus) <= _MAX_GPUS or not all(valid_token(gpu) for gpu in self.gpus):
            raise AllocationError("it names no GPU, too many, or something that is no GPU's UUID")
        if len(set(self.gpus)) != len(self.gpus):
            raise AllocationError("it names a GPU twice")
        if len(self.name) > _MAX_NAME_CHARACTERS or not (self.name.isprintable() or not self.name):
            raise AllocationError(f"its name is longer than {_MAX_NAME_CHARACTERS} characters or not printable")
        if self.uid != ANY_UID and not 0 <= self.uid < 2**32:
            raise AllocationError("its uid is no uid")
        if not 0 <= self.memory_limit_bytes <= _MAX_NUMBER:
            raise AllocationError("its memory limit is no number of bytes")
        if not 0 <= self.core_limit_percent <= GREATEST_CORE_PERCENT:
            raise AllocationError(f"its core limit is not 1 to {GREATEST_CORE_PERCENT} percent, or 0 for none")
        if not 1 <= self.weight <= GREATEST_WEIGHT:
            raise AllocationError(f"its weight is not 1 to {GREATEST_WEIGHT}")
        if self.priority not in PRIORITIES:
            raise AllocationError(f"its priority is none of {', '.join(PRIORITIES)}")
        if len(self.group) > _MAX_GROUP_CHARACTERS or not (self.group.isprintable() or not self.group):
            raise AllocationError(f"its group is longer than {_MAX_GROUP_CHARACTERS} characters or not printable")
        if not valid_token(self.source):
            raise AllocationError("its source is no token")
        if self.quota_source and not valid_token(self.quota_source):
            raise AllocationError("the source of its quota is no token")
        if not 0 <= self.quota_since_unix_ns <= _MAX_NUMBER:
            raise AllocationError("the time of its quota is no time")

    def to_json(self) -> str:
        """Text of allocation.json."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def to_message(self) -> AllocationMessage:
        """As it stands in RelayState."""
        return AllocationMessage(**{**asdict(self), "priority": PRIORITIES[self.priority]})


def parse_allocation(text: str, folder_name: str) -> Allocation:
    """Reads allocation.json of the folder `folder_name`. Members that this version does not know are ignored, those
    that an earlier one did not write have their defaults.

    Raises AllocationError.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise AllocationError("it is no JSON") from None
    if not isinstance(document, dict):
        raise AllocationError("it is no JSON object")
    gpus = document.get("gpus")
    if not isinstance(gpus, list) or not all(isinstance(gpu, str) for gpu in gpus):
        raise AllocationError("`gpus` is no list of texts")
    allocation = Allocation(
        id=_text(document, "id"),
        gpus=tuple(gpus),
        name=_text(document, "name"),
        uid=_number(document, "uid"),
        memory_limit_bytes=_number(document, "memory_limit_bytes"),
        core_limit_percent=_number(document, "core_limit_percent"),
        source=_text(document, "source"),
        weight=_number({"weight": DEFAULT_WEIGHT, **document}, "weight"),
        priority=_text({"priority": NORMAL, **document}, "priority"),
        core_burst=_truth({"core_burst": False, **document}, "core_burst"),
        pod=_pod(document.get("pod")),
        group=_text({"group": "", **document}, "group"),
        quota_source=_text({"quota_source": "", **document}, "quota_source"),
        quota_since_unix_ns=_number({"quota_since_unix_ns": 0, **document}, "quota_since_unix_ns"),
    )
    if allocation.id != folder_name:
        raise AllocationError("its id is not the name of its folder")
    return allocation


def requested_allocation(request: AllocateRequest, allocation_id: str, uid: int) -> Allocation:
    """The allocation that a user's request describes. Raises AllocationError."""
    if len(request.gpus) > _MAX_REQUESTED_GPUS or not all(_GPU.fullmatch(gpu) for gpu in request.gpus):
        raise AllocationError("it names no GPU, too many, or something that is no GPU's UUID")
    return Allocation(
        id=allocation_id,
        gpus=tuple(request.gpus),
        name=request.name,
        uid=uid,
        memory_limit_bytes=request.memory_limit_bytes,
        core_limit_percent=request.core_limit_percent,
        source=SOURCE_RUN,
        weight=request.weight or DEFAULT_WEIGHT,
        priority=priority_word(request.priority),
        core_burst=request.core_burst,
    )


def changed_allocation(allocation: Allocation, request: QuotaRequest) -> Allocation:
    """`allocation` with the quotas that a user's request names; the others stay. Raises AllocationError."""
    changes: dict[str, Any] = {}
    if not request.keep_memory_limit:
        changes["memory_limit_bytes"] = request.memory_limit_bytes
    if request.HasField("core_limit_percent"):
        changes["core_limit_percent"] = request.core_limit_percent
    if request.HasField("weight"):
        changes["weight"] = request.weight or DEFAULT_WEIGHT
    if request.HasField("priority"):
        changes["priority"] = priority_word(request.priority)
    if request.HasField("core_burst"):
        changes["core_burst"] = request.core_burst
    return replace(allocation, **changes)


def _pod(value: object) -> Pod | None:
    """For people and for other services: nothing is decided by it, so what cannot be read is left out."""
    if not isinstance(value, dict):
        return None
    texts = [value.get(member, "") for member in ("namespace", "name", "uid", "container")]
    if not all(isinstance(text, str) and len(text) <= _MAX_POD_CHARACTERS for text in texts):
        return None
    return Pod(*texts)


def _text(document: dict[str, object], member: str) -> str:
    value = document.get(member)
    if not isinstance(value, str):
        raise AllocationError(f"`{member}` is no text")
    return value


def _truth(document: dict[str, object], member: str) -> bool:
    value = document.get(member)
    if not isinstance(value, bool):
        raise AllocationError(f"`{member}` is neither true nor false")
    return value


def _number(document: dict[str, object], member: str) -> int:
    value = document.get(member)
    if not isinstance(value, int) or isinstance(value, bool):
        raise AllocationError(f"`{member}` is no whole number")
    return value
