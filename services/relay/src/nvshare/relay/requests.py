"""The verbs that the relay serves: `allocate`, `quota` and `release`, and the end of allocations that nobody needs.

An allocation of `nvshare run` ends when it was released, or when the process that asked for it is gone and no process
joined for a minute; in both cases only when no process in it lives. A container's allocation is the device plugin's to
remove.
"""

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import TypeVar

import structlog
from google.protobuf.message import Message

from nvshare.bus import subjects
from nvshare.bus.connection import Bus
from nvshare.bus.subjects import SubjectError, UserAddress
from nvshare.relay.allocations import (
    QUOTA_OF_USER,
    SOURCE_RUN,
    Allocation,
    AllocationError,
    changed_allocation,
    requested_allocation,
)
from nvshare.relay.folders import AllocationFolders
from nvshare.relay.limits import allocation_refusal
from nvshare.relay.peers import Process
from nvshare.relay.registry import Registry, process_lives
from nvshare.v1.control_pb2 import (
    AllocateReply,
    AllocateRequest,
    QuotaReply,
    QuotaRequest,
    ReleaseReply,
    ReleaseRequest,
)

RequestT = TypeVar("RequestT", AllocateRequest, QuotaRequest, ReleaseRequest)

_IDLE_SECONDS = 60.0
_MAX_REQUESTERS_PER_USER = 64

_log = structlog.get_logger()


class Requests:
    """Serves the verbs of the relay's node. `is_admin(uid)` says whether that user is connected as an admin."""

    def __init__(self, folders: AllocationFolders, registry: Registry, is_admin: Callable[[int], bool]) -> None:
        self._folders = folders
        self._registry = registry
        self._is_admin = is_admin
        self._requesters: dict[int, dict[str, Process]] = {}  # by uid and reply token
        self._released: set[str] = set()
        self._idle_since_s: dict[str, float] = {}

    async def serve(self, bus: Bus, node: str, publish_state: Callable[[], Awaitable[None]]) -> None:
        """Answers requests from now on. `publish_state` (which does nothing when nothing has changed) comes before an
        answer: who gets it is known by then.
        """

        async def serve_verb(
            verb: str, request_type: type[RequestT], serve: Callable[[int, RequestT], Awaitable[Message]]
        ) -> None:
            async def handle(subject: str, request: RequestT) -> None:
                user = _requester(subject, request.reply_token)
                if user is not None:
                    answer = await serve(user.uid, request)
                    await publish_state()
                    await bus.publish(subjects.reply(node, user.uid, request.reply_token), answer)

            await bus.subscribe(subjects.user_any(node, verb), request_type, handle)

        await serve_verb("quota", QuotaRequest, self.quota)
        await serve_verb("allocate", AllocateRequest, self.allocate)
        await serve_verb("release", ReleaseRequest, self.release)

    def asked_by(self, uid: int, reply_token: str, process: Process) -> None:
        """`process` is sending the request `reply_token` of `uid`."""
        own = self._requesters.setdefault(uid, {})
        if len(own) >= _MAX_REQUESTERS_PER_USER:  # requests that never arrived
            del own[next(iter(own))]
        own[reply_token] = process

    async def allocate(self, uid: int, request: AllocateRequest) -> AllocateReply:
        """Makes an allocation for `uid`."""
        owner = self._asker(uid, request.reply_token)
        refusal = allocation_refusal(uid, self._folders)
        if refusal:
            return AllocateReply(error=refusal)
        try:
            allocation = requested_allocation(request, f"run-{secrets.token_hex(6)}", uid)
            socket_path = await self._folders.create(allocation)
        except AllocationError as error:
            return AllocateReply(error=f"no allocation: {error}")
        if owner is not None:
            self._registry.owned(allocation.id, owner)
        _log.info("allocated", allocation=allocation.id, uid=uid, name=allocation.name)
        return AllocateReply(id=allocation.id, socket=str(socket_path))

    async def release(self, uid: int, request: ReleaseRequest) -> ReleaseReply:
        """Ends an allocation of `uid`, or of anybody for an admin: at once, or when its last process has ended."""
        allocation = self._folders.get(request.id)
        refusal = self._refusal(uid, request.id, allocation)
        if allocation is None or refusal:
            return ReleaseReply(error=refusal)
        self._released.add(allocation.id)
        if not self._registry.peers.of_allocation(allocation.id):
            self._remove(allocation.id)
        return ReleaseReply(id=allocation.id)

    async def quota(self, uid: int, request: QuotaRequest) -> QuotaReply:
        """Changes the quotas of an allocation of `uid`, or of anybody for an admin."""
        allocation = self._folders.get(request.id)
        refusal = self._refusal(uid, request.id, allocation)
        if allocation is None or refusal:
            return QuotaReply(error=refusal)
        try:
            changed = changed_allocation(allocation, request)
            if changed != allocation:
                changed = replace(changed, quota_source=QUOTA_OF_USER, quota_since_unix_ns=time.time_ns())
            await self._folders.change(changed)
        except AllocationError as error:
            return QuotaReply(error=f"the quota stays as it is: {error}")
        if changed != allocation:
            _log.info("quota changed", uid=uid, now=asdict(changed), before=asdict(allocation))
        return QuotaReply(
            id=allocation.id,
            memory_limit_bytes=changed.memory_limit_bytes,
            previous_memory_limit_bytes=allocation.memory_limit_bytes,
            allocation=changed.to_message(),
            previous=allocation.to_message(),
        )

    def _asker(self, uid: int, reply_token: str) -> Process | None:
        """Which process sent a request; None: it is not known. Forgets it."""
        own = self._requesters.get(uid, {})
        process = own.pop(reply_token, None)
        if not own:
            self._requesters.pop(uid, None)
        return process

    def _refusal(self, uid: int, allocation_id: str, allocation: Allocation | None) -> str:
        """Why `uid` may not touch an allocation; empty: it may."""
        if allocation is None:
            return f"there is no allocation {allocation_id[:40]!r}"
        if allocation.source != SOURCE_RUN:
            return f"{allocation.id} is a container's: it ends with its pod, and its quota is the pod's"
        if allocation.uid != uid and not self._is_admin(uid):
            return f"{allocation.id} is another user's"
        return ""

    def sweep(self, now_s: float) -> None:
        """Removes the allocations that nobody needs any more. `now_s` is any clock that does not go back."""
        for allocation in [one for one in self._folders if one.source == SOURCE_RUN]:
            if self._registry.peers.of_allocation(allocation.id):
                self._idle_since_s.pop(allocation.id, None)
                continue
            idle_since_s = self._idle_since_s.setdefault(allocation.id, now_s)
            owner = self._registry.owners.get(allocation.id)
            abandoned = now_s - idle_since_s >= _IDLE_SECONDS and (owner is None or not process_lives(owner))
            if abandoned or allocation.id in self._released:
                self._remove(allocation.id)

    def _remove(self, allocation_id: str) -> None:
        _log.info("allocation ended", allocation=allocation_id)
        self._folders.remove(allocation_id)
        self._registry.removed(allocation_id)
        self._released.discard(allocation_id)
        self._idle_since_s.pop(allocation_id, None)


def _requester(subject: str, reply_token: str) -> UserAddress | None:
    """Who asks; None when there is no address to answer to."""
    if not subjects.valid_reply_token(reply_token):
        _log.warning("a request without a usable reply token; ignored", subject=subject)
        return None
    try:
        return subjects.parse_user(subject)
    except SubjectError as error:
        _log.warning("a request from nobody; ignored", error=str(error))
        return None
