"""Follows the pods of the cluster: performs what the state machine of `watching` asks for."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

import structlog

from nvshare.quota_watcher.api import Api, RefusedError, UnreachableError
from nvshare.quota_watcher.listing import Change
from nvshare.quota_watcher.pods import MalformedPodError, Pod, parse_pod
from nvshare.quota_watcher.watching import GONE, List, ListAndWatch, Policy, Wait, Watch

_log = structlog.get_logger()


class Follower:
    """Calls `on_change` for each change of a pod, in order, and `on_complete` when a whole list was read.

    `active_at` is when something came of it last (the event loop's clock, in seconds).
    """

    def __init__(
        self,
        api: Api,
        on_change: Callable[[Change], None],
        on_complete: Callable[[], None],
        policy: Policy | None = None,
    ) -> None:
        self._api = api
        self._on_change = on_change
        self._on_complete = on_complete
        self._machine = ListAndWatch(policy or Policy(), random.Random())
        self._failing = False
        self._malformed: set[str] = set()
        self.active_at = asyncio.get_running_loop().time()
        self.malformed_pods = 0

    @property
    def complete(self) -> bool:
        """Whether all pods are known."""
        return self._machine.listing.complete

    @property
    def failing(self) -> bool:
        """Whether the last request to the API server failed."""
        return self._failing

    def find(self, namespace: str, name: str) -> Pod | None:
        """The latest pod of that name."""
        pods = self._machine.listing.pods.values()
        found = [pod for pod in pods if (pod.namespace, pod.name) == (namespace, name)]
        return max(found, key=lambda pod: pod.created_unix_ns, default=None)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self._touch()
            step = self._machine.next_step()
            try:
                match step:
                    case Wait(seconds):
                        await asyncio.sleep(seconds)
                    case List():
                        await self._list(step)
                    case Watch():
                        await self._watch(step)
            except RefusedError as error:
                if error.code == GONE:
                    _log.info("the API server has forgotten the version; listing all pods again")
                else:
                    self._failed(step, str(error))
                self._machine.refused(error.code, error.retry_after_seconds)
            except UnreachableError as error:
                self._failed(step, str(error))
                self._machine.failed()

    async def _list(self, step: List) -> None:
        page = await self._api.list_pods(step.limit, step.continue_token)
        pods = [pod for item in page.items if (pod := self._listed(item)) is not None]
        self._worked()
        self._tell(self._machine.page(pods, page.version, page.continue_token))
        if self._machine.watching:
            _log.info("pods listed", pods=len(self._machine.listing.pods))
            self._on_complete()

    async def _watch(self, step: Watch) -> None:
        clock = asyncio.get_running_loop().time
        begun = clock()
        async with contextlib.aclosing(self._api.watch_pods(step.version, step.timeout_seconds)) as events:
            async for kind, item in events:
                self._worked()
                if kind == "BOOKMARK":
                    self._machine.bookmark(_version(item))
                    continue
                try:
                    pod = parse_pod(item)
                except MalformedPodError as error:
                    raise UnreachableError(str(error)) from None
                self._tell(self._machine.event(kind, pod))
        self._machine.ended(clock() - begun)

    def _listed(self, item: Any) -> Pod | None:
        """A pod of a list. One that cannot be read stays as it was known: it must not look as if it were gone."""
        try:
            return parse_pod(item)
        except MalformedPodError as error:
            uid = item.get("metadata", {}).get("uid") if isinstance(item, dict) else None
            if not isinstance(uid, str):
                raise UnreachableError(str(error)) from None
            self.malformed_pods += 1
            if uid not in self._malformed:
                self._malformed.add(uid)
                _log.error("a pod cannot be read; it stays as it was", uid=uid, error=str(error))
            return self._machine.listing.pods.get(uid)

    def _tell(self, changes: list[Change]) -> None:
        for change in changes:
            self._on_change(change)

    def _worked(self) -> None:
        self._touch()
        if self._failing:
            self._failing = False
            _log.info("the API server answers again")

    def _failed(self, step: object, error: str) -> None:
        level = "debug" if self._failing else "warning"
        getattr(_log, level)("the API server fails; trying again", request=type(step).__name__.lower(), error=error)
        self._failing = True

    def _touch(self) -> None:
        self.active_at = asyncio.get_running_loop().time()


def _version(item: dict[str, Any]) -> str:
    version = (item.get("metadata") or {}).get("resourceVersion")
    if not isinstance(version, str) or not version:
        raise UnreachableError("a bookmark has no version")
    return version
