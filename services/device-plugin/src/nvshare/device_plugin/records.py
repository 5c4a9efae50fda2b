"""What the plugin knows of an allocation, as the text of its allocation.json. Pure.

The file is the plugin's memory, too: after any restart it is all that is left. The relay reads the members that it
knows (docs/protocol.md) and ignores the others.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, replace

from nvshare.bus.compute import DEFAULT_WEIGHT, GREATEST_CORE_PERCENT, GREATEST_WEIGHT, NORMAL, PRIORITIES
from nvshare.device_plugin.quotas import Quota
from nvshare.device_plugin.shares import Share, ShareError, gpus_of, parse_share
from nvshare.v1 import node_pb2

SOURCE = "device-plugin"
DEFAULT = "default"
POD = "pod"
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,39}", re.ASCII)
_MAX_NAME_CHARACTERS = 64
_ANY_UID = -1


class RecordError(ValueError):
    """A text that describes no allocation of this plugin; the message is one line for people."""


@dataclass(frozen=True, slots=True)
class Pod:
    """Whose container it is. `uid` and `container` are empty as long as they are not known: PodResources tells
    neither the UID nor the init containers.
    """

    namespace: str
    name: str
    uid: str = ""
    container: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.namespace, self.name, self.container)))


@dataclass(frozen=True, slots=True)
class Record:
    """One allocation: the shares that one container got, once. `made_unix_ns` orders them, and so does
    `started_unix_ns`, when kubelet said first that the container is about to start (0: not yet).
    """

    id: str
    shares: tuple[Share, ...]
    made_unix_ns: int
    started_unix_ns: int = 0
    pod: Pod | None = None
    quota: Quota = field(default_factory=Quota)
    quota_source: str = DEFAULT
    quota_since_unix_ns: int = 0
    opted_out: bool = False

    @property
    def gpus(self) -> tuple[str, ...]:
        return gpus_of(self.shares)

    def with_quota(self, quota: Quota, source: str, now_unix_ns: int) -> Record:
        """The same with another quota; `source`: DEFAULT or POD."""
        if (quota, source) == (self.quota, self.quota_source):
            return self
        return replace(self, quota=quota, quota_source=source, quota_since_unix_ns=now_unix_ns)

    def to_json(self) -> str:
        """Text of allocation.json."""
        pod = None if self.pod is None else asdict(self.pod)
        document = {
            "id": self.id,
            "gpus": list(self.gpus),
            "name": _name(self.pod),
            "uid": _ANY_UID,
            "source": SOURCE,
            **asdict(self.quota),
            **({} if pod is None else {"pod": pod}),
            "devices": [share.id for share in self.shares],
            "made_unix_ns": self.made_unix_ns,
            "started_unix_ns": self.started_unix_ns,
            "quota_source": self.quota_source,
            "quota_since_unix_ns": self.quota_since_unix_ns,
            "opted_out": self.opted_out,
        }
        return json.dumps(document, indent=2) + "\n"

    def to_message(self) -> node_pb2.Allocation:
        """As it stands in the bucket of allocations."""
        quota = self.quota
        return node_pb2.Allocation(
            id=self.id,
            gpus=self.gpus,
            name=_name(self.pod),
            uid=_ANY_UID,
            memory_limit_bytes=quota.memory_limit_bytes,
            core_limit_percent=quota.core_limit_percent,
            source=SOURCE,
            weight=quota.weight,
            priority=node_pb2.Priority.Name(PRIORITIES[quota.priority]),
            core_burst=quota.core_burst,
            pod=pod_message(self.pod),
            group=quota.group,
            quota_source=self.quota_source,
            quota_since_unix_ns=self.quota_since_unix_ns,
        )


def pod_message(pod: Pod | None) -> node_pb2.Pod | None:
    """As it stands in messages."""
    return None if pod is None else node_pb2.Pod(**asdict(pod))


def parse_record(text: str, folder_name: str) -> Record:
    """Reads allocation.json of the folder `folder_name`. Raises RecordError, also for an allocation of others."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise RecordError("it is no JSON") from None
    if not isinstance(document, dict):
        raise RecordError("it is no JSON object")
    try:
        record = _record(document)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"it has a member that is missing or of another kind: {error}") from None
    if record.id != folder_name or not _ID.fullmatch(record.id):
        raise RecordError("its id is not the name of its folder")
    return record


def is_foreign(text: str) -> bool:
    """Whether it describes an allocation that somebody else made: that of an `nvshare run`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("source") not in (SOURCE, None)


def _record(document: dict[str, object]) -> Record:
    if document["source"] != SOURCE:
        raise ValueError("its source is another")
    devices = document["devices"]
    if not isinstance(devices, list) or not devices:
        raise ValueError("it has no devices")
    try:
        shares = tuple(parse_share(str(device)) for device in devices)
    except ShareError as error:
        raise ValueError(str(error)) from None
    pod = document.get("pod")
    return Record(
        id=_text(document, "id"),
        shares=shares,
        made_unix_ns=_number(document, "made_unix_ns"),
        started_unix_ns=_number(document, "started_unix_ns"),
        pod=_pod(pod) if isinstance(pod, dict) else None,
        quota=_quota(document),
        quota_source=_text(document, "quota_source"),
        quota_since_unix_ns=_number(document, "quota_since_unix_ns"),
        opted_out=document.get("opted_out") is True,
    )


def _quota(document: dict[str, object]) -> Quota:
    """The quota; a member out of its bounds is as one that was never set."""
    core, weight, priority = _number(document, "core_limit_percent"), _number(document, "weight"), document["priority"]
    return Quota(
        memory_limit_bytes=max(0, _number(document, "memory_limit_bytes")),
        core_limit_percent=core if 0 <= core <= GREATEST_CORE_PERCENT else 0,
        weight=weight if 1 <= weight <= GREATEST_WEIGHT else DEFAULT_WEIGHT,
        priority=priority if isinstance(priority, str) and priority in PRIORITIES else NORMAL,
        core_burst=document["core_burst"] is True,
        group=str(document.get("group", "")),
    )


def _pod(document: dict[str, object]) -> Pod:
    return Pod(
        _text(document, "namespace"), _text(document, "name"), _text(document, "uid"), _text(document, "container")
    )


def _name(pod: Pod | None) -> str:
    """For people: as much as there is room for, its end first, which tells pods of one Deployment apart."""
    return "" if pod is None else str(pod)[-_MAX_NAME_CHARACTERS:]


def _text(document: dict[str, object], member: str) -> str:
    value = document[member]
    if not isinstance(value, str):
        raise TypeError(f"`{member}` is no text")
    return value


def _number(document: dict[str, object], member: str) -> int:
    value = document[member]
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"`{member}` is no whole number")
    return value
