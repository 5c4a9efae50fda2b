"""Which quota a container gets, and what its pod's owner is told. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from nvshare.device_plugin.joining import newest_of_each_share
from nvshare.device_plugin.promises import Holding, Terms, quota_refusal
from nvshare.device_plugin.quotas import Quota, container_quota
from nvshare.device_plugin.records import DEFAULT, POD, Record
from nvshare.v1.kubernetes_pb2 import PodQuota

APPLIED = "QuotaApplied"
REFUSED = "QuotaRefused"
DEFAULTED = "QuotaDefault"


@dataclass(frozen=True, slots=True)
class Decision:
    """The record as it should be. `refusal`: why the memory quota that its pod wants, `wanted_bytes`, is not in it;
    empty: it is.
    """

    record: Record
    refusal: str = ""
    wanted_bytes: int = 0


def holdings_of(records: Collection[Record]) -> list[Holding]:
    """What these allocations have of each GPU; those that run one after the other on the same shares count once."""
    return [holding_of(record) for record in newest_of_each_share(records)]


def holding_of(record: Record) -> Holding:
    """What one allocation has of each GPU."""
    shares: dict[str, int] = {}
    for share in record.shares:
        shares[share.gpu] = shares.get(share.gpu, 0) + 1
    return Holding(record.id, shares, record.quota.memory_limit_bytes)


def decide_quota(
    record: Record,
    said: PodQuota | None,
    default: Quota,
    terms: Mapping[str, Terms],
    holdings: Collection[Holding],
    now_unix_ns: int,
) -> Decision:
    """What `record` should say when its pod's quotas are `said`. None: nobody knows, and what there is stays."""
    if said is None:
        return Decision(record)
    container = "" if record.pod is None else record.pod.container
    wanted = container_quota(said, container, default)
    wanted_bytes = wanted.memory_limit_bytes
    source = POD if _says_anything(said, container) else DEFAULT
    refusal = ""
    if wanted.memory_limit_bytes != record.quota.memory_limit_bytes:
        refusal = quota_refusal(terms, holdings, holding_of(record), wanted.memory_limit_bytes)
        if refusal:
            wanted = replace(wanted, memory_limit_bytes=record.quota.memory_limit_bytes)
    return Decision(record.with_quota(wanted, source, now_unix_ns), refusal, wanted_bytes)


def applied_text(record: Record, versions: str) -> str:
    """One sentence: what is in force now, where it is from, and which nvshare that is."""
    whose = "the node's default" if record.quota_source == DEFAULT else "from its annotations"
    return f"{_who(record)} has {record.quota} on {_gpus(record)}: {whose} ({versions})"


def refused_text(record: Record, refusal: str) -> str:
    """One sentence: why a quota is not in force, and what is."""
    return f"{_who(record)} keeps {record.quota}: {refusal}"


def default_text(record: Record) -> str:
    """One sentence: nobody knew the quota when the container started."""
    return (
        f"{_who(record)} starts with the node's default, {record.quota}, because its quota could not be asked for;"
        " it follows when the cluster's bus is back"
    )


def _says_anything(said: PodQuota, container: str) -> bool:
    empty = Quota(memory_limit_bytes=-1)  # none that a pod can say
    return container_quota(said, container, empty) != empty


def _who(record: Record) -> str:
    return f"container {record.pod.container}" if record.pod is not None and record.pod.container else "a container"


def _gpus(record: Record) -> str:
    return record.gpus[0] if len(record.gpus) == 1 else f"each of {', '.join(record.gpus)}"
