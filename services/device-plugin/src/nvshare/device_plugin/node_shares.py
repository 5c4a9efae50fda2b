"""What the plugin answers kubelet, and what it does about the containers of the node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from nvshare.device_plugin.allocator import Request, preferred_shares
from nvshare.device_plugin.book import Book
from nvshare.device_plugin.checkpoint import Entry, parse_checkpoint
from nvshare.device_plugin.folders import Folders
from nvshare.device_plugin.injection import Injections
from nvshare.device_plugin.joining import Held, in_force, join
from nvshare.device_plugin.known_quotas import KnownQuotas
from nvshare.device_plugin.notices import Notices
from nvshare.device_plugin.pod_resources import PodResources
from nvshare.device_plugin.quota_decision import (
    APPLIED,
    DEFAULTED,
    REFUSED,
    applied_text,
    decide_quota,
    default_text,
    holding_of,
    refused_text,
)
from nvshare.device_plugin.records import DEFAULT, Record
from nvshare.device_plugin.relay_view import RelayView
from nvshare.device_plugin.server import Devices, RefusedError
from nvshare.device_plugin.shares import Share, ShareError, parse_share
from nvshare.kubelet.device_plugin_pb2 import ContainerAllocateResponse

_LOOKS = 10  # at PodResources, before a start whose pod is not known

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Waits:
    """How long a start waits: for the pod's quota, where it can be asked for, and for the scheduler to be told."""

    quota_seconds: float = 8.0
    relay_seconds: float = 2.0


class NodeShares:
    """The shares of one node. `changed` is called when something should be reconciled soon; `versions` says which
    nvshare this is.
    """

    def __init__(
        self,
        book: Book,
        folders: Folders,
        injections: Injections,
        pod_resources: PodResources,
        checkpoint: tuple[Path, str],
        quotas: KnownQuotas,
        relay: RelayView,
        notices: Notices,
        changed: Callable[[], None],
        versions: Callable[[], str],
        waits: Waits | None = None,
    ) -> None:
        self.devices = Devices()
        self._book = book
        self._folders = folders
        self._injections = injections
        self._pod_resources = pod_resources
        self._checkpoint = checkpoint
        self._quotas = quotas
        self._relay = relay
        self._notices = notices
        self._changed = changed
        self._versions = versions
        self._waits = waits or Waits()
        self._refused: dict[str, int] = {}  # memory quotas that were refused and said, by allocation

    def preferred(self, available: Sequence[str], must_include: Sequence[str], size: int) -> Sequence[str]:
        """Where a container's shares should be. What cannot be read is not chosen: an error would end the pod."""
        request = Request(_readable(available), _readable(must_include), size)
        listed = [one.share for one in self.devices.listed]
        order = [gpu.uuid for gpu in self._book.gpus() or ()]
        loads = self._book.loads(self._relay.living, request.available - request.must_include)
        chosen = preferred_shares(request, listed, loads, order, self._book.rules.policy)
        return [share.id for share in chosen]

    def allocate(self, device_ids: Sequence[str]) -> ContainerAllocateResponse:
        """Makes an allocation for a container whose pod nobody knows yet."""
        shares = _shares(device_ids)
        try:
            record = self._book.make(shares)
        except OSError as error:
            raise RefusedError(f"the node cannot make a folder for the container: {error}") from None
        _log.info("allocated", allocation=record.id, devices=",".join(one.id for one in record.shares))
        self._changed()
        return self._injections.answer(self._folders.path(record.id), record.gpus)

    async def pre_start(self, device_ids: Sequence[str]) -> None:
        """Before each start: the folder is whole, the pod known, its quota in force."""
        shares = frozenset(_shares(device_ids))
        self._book.reload()
        try:
            starting = self._of(shares) or self._lost(shares)
            if not starting:
                raise RefusedError("the container's nvshare folder is lost: delete the pod, so that it is made again")
            for record in starting:
                self._book.write(record)
            await self._join_before_start(shares)
            await self._settle_before_start(shares)
        except OSError as error:
            raise RefusedError(f"the node cannot write the container's folder: {error}") from None
        self._changed()

    def join(self, held: tuple[Held, ...]) -> None:
        """Writes down whose each allocation is. Raises OSError."""
        for allocation, pod in join(list(self._book.records.values()), held, self._entries()).items():
            record = self._book.records[allocation]
            if record.pod != pod:
                self._book.write(replace(record, pod=pod))
                _log.info("joined", allocation=allocation, pod=str(pod), pod_uid=pod.uid)

    def follow_quotas(self) -> None:
        """Puts in force what the cluster says now. Raises OSError."""
        for record in self._book.counting(self._relay.living):
            self._apply(record)
        self._refused = {one: size for one, size in self._refused.items() if one in self._book.records}

    async def tell_kubelet(self, again: bool = False) -> None:
        """Sends kubelet the list, if it is another one; with `again` in any case. Not while the driver is silent."""
        if self._book.gpus() is not None:
            await self.devices.tell(self._book.listed(self._relay.living), again)

    def _of(self, shares: frozenset[Share]) -> list[Record]:
        """The allocations with exactly these shares, the oldest first: init containers have had them, too."""
        return [one for one in in_force(self._book.records.values()) if frozenset(one.shares) == shares]

    def _lost(self, shares: frozenset[Share]) -> list[Record]:
        """Allocations made anew under the names that kubelet has kept."""
        lost = [one for one in self._entries() if one.shares == shares and one.allocation]
        return [self._book.make(shares, entry.allocation) for entry in lost]

    async def _join_before_start(self, shares: frozenset[Share]) -> None:
        for _ in range(_LOOKS):
            held = await self._pod_resources.held()
            if held is None:
                return
            self.join(held)
            self._book.looked(held)
            if any(record.pod is not None for record in self._of(shares)):
                return

    async def _settle_before_start(self, shares: frozenset[Share]) -> None:
        pod = next((record.pod for record in self._of(shares) if record.pod is not None), None)
        said = None if pod is None else await self._quotas.wait_for(pod, self._waits.quota_seconds)
        now_ns = self._book.now_ns()
        for record in self._of(shares):  # again: it may have changed meanwhile
            started = replace(
                record,
                started_unix_ns=record.started_unix_ns or now_ns,
                opted_out=record.opted_out if said is None else said.opted_out,
            )
            self._book.write(started)
            settled = self._apply(started)
            if said is None and settled.pod is not None and settled.quota_source == DEFAULT:
                self._notices.add(settled.pod, DEFAULTED, default_text(settled), warning=True)
            is_shown = await self._relay.until_shown(settled, self._waits.relay_seconds)
            if not is_shown and self._relay.living is not None:
                _log.warning("the relay does not show the container yet", allocation=settled.id)

    def _apply(self, record: Record) -> Record:
        """Puts in force what is known of the quota of `record` now, and says so. Raises OSError."""
        living = self._relay.living
        said = self._quotas.get(record.pod)
        book = self._book
        holdings = [one for one in book.holdings(living) if one.allocation != record.id]
        decision = decide_quota(
            record, said, book.rules.default, book.terms(), [*holdings, holding_of(record)], book.now_ns()
        )
        settled = decision.record
        if settled != record:
            book.write(settled)
            if settled.pod is not None and (settled.quota != record.quota or settled.quota_source != DEFAULT):
                self._notices.add(settled.pod, APPLIED, applied_text(settled, self._versions()))
        if settled.pod is not None and decision.refusal:
            if self._refused.get(record.id) != decision.wanted_bytes:
                self._notices.add(settled.pod, REFUSED, refused_text(settled, decision.refusal), warning=True)
            self._refused[record.id] = decision.wanted_bytes
        else:
            self._refused.pop(record.id, None)
        return settled

    def _entries(self) -> Sequence[Entry]:
        path, resource = self._checkpoint
        try:
            return parse_checkpoint(path.read_text(), resource)
        except (OSError, UnicodeDecodeError):
            return ()


def _shares(device_ids: Sequence[str]) -> tuple[Share, ...]:
    try:
        shares = tuple(parse_share(one) for one in device_ids)
    except ShareError as error:
        raise RefusedError(str(error)) from None
    if not shares:
        raise RefusedError("a request without devices")
    return shares


def _readable(device_ids: Sequence[str]) -> frozenset[Share]:
    found = set()
    for device_id in device_ids:
        try:
            found.add(parse_share(device_id))
        except ShareError:
            _log.warning("kubelet names a device that is none of ours", device=device_id)
    return frozenset(found)
