"""A node of a cluster: follows the API server for the pods of its node, runs them, and says how they are."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import ClientError

from nvshare.fake_kubelet.api_client import ApiClient, ApiError, Object
from nvshare.fake_kubelet.log_server import serve_logs
from nvshare.fake_kubelet.node import Node
from nvshare.fake_kubelet.node_object import node_object, node_status, without
from nvshare.fake_kubelet.pod_worker import PodWorker, timestamp
from nvshare.fake_kubelet.pods import PodError, parse_pod
from nvshare.fake_kubelet.statuses import FAILED, SUCCEEDED, status

log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5
_HEARTBEAT_SECONDS = 10.0
_NOT_FOUND, _CONFLICT = 404, 409


class Agent:
    """Joins `node` to the cluster behind `api`, under `name`. `labels` are further ones of the node's object."""

    def __init__(self, node: Node, name: str, api: ApiClient, labels: Mapping[str, str] | None = None) -> None:
        self._node = node
        self._name = name
        self._api = api
        self._labels = dict(labels or {})
        self._objects: dict[str, Object] = {}
        self._untold: set[str] = set()
        self._news = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._told_resources: frozenset[str] = frozenset()
        node.on_change.append(self._on_change)

    async def run(self) -> None:
        """Until it is cancelled."""
        query = {"fieldSelector": f"spec.nodeName={self._name}"}
        server, port = await serve_logs(self._node, self._node.address)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_node(port))
                tasks.create_task(self._keep_pods())
                tasks.create_task(self._api.follow("/api/v1/pods", query, self._on_list, self._on_event))
        finally:
            for task in self._tasks.values():
                task.cancel()
            await server.cleanup()

    # What the API server says

    def _on_list(self, items: list[Object]) -> None:
        present = {item["metadata"]["uid"] for item in items}
        for uid in self._objects.keys() - present:
            self._forget(uid)
        for item in items:
            self._on_event("MODIFIED", item)

    def _on_event(self, kind: str, item: Object) -> None:
        metadata = item["metadata"]
        uid = metadata["uid"]
        if kind == "DELETED":
            self._forget(uid)
            return
        self._objects[uid] = item
        over = item.get("status", {}).get("phase") in (SUCCEEDED, FAILED)
        if metadata.get("deletionTimestamp") is not None:
            grace_seconds = float(metadata.get("deletionGracePeriodSeconds") or 0)
            self._persist(f"end {uid} in {grace_seconds}", lambda: self._end(uid, grace_seconds))
        elif uid not in self._node.workers and not over:
            self._begin(item)

    def _begin(self, item: Object) -> None:
        try:
            self._node.run(parse_pod(item))
        except PodError as error:
            refusal = {"status": {"phase": FAILED, "reason": "InvalidPod", "message": str(error)}}
            log.error("pod %s: %s", item["metadata"]["name"], error)
            self._persist(f"refuse {item['metadata']['uid']}", lambda: self._patch(item, refusal))

    async def _end(self, uid: str, grace_seconds: float) -> None:
        """Ends the pod, says how it ended, and deletes it for good."""
        worker, item = self._node.workers.get(uid), self._objects.get(uid)
        if worker is not None:
            await worker.delete(grace_seconds)
            await self._tell(uid)
        if item is not None:
            options = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
            await self._api.call("DELETE", _path(item), options)

    def _forget(self, uid: str) -> None:
        """The object is gone: the pod ends without grace where it still runs."""
        self._objects.pop(uid, None)
        self._untold.discard(uid)
        if uid in self._node.workers:
            self._persist(f"forget {uid}", lambda: self._node.delete(uid, 0))

    def _persist(self, what: str, work: Callable[[], Awaitable[object]]) -> None:
        """Does `work` in the background until it succeeds, or until what it is for is gone. Once at a time."""

        async def persist() -> None:
            while True:
                try:
                    await work()
                    return
                except ApiError as error:
                    if error.code in (_NOT_FOUND, _CONFLICT):
                        return
                    log.warning("%s, trying again: %s", what, error)
                except (ClientError, TimeoutError) as error:
                    log.warning("%s, trying again: %r", what, error)
                await asyncio.sleep(_RETRY_SECONDS)

        if what not in self._tasks:
            self._tasks[what] = asyncio.create_task(persist())
            self._tasks[what].add_done_callback(lambda task: self._tasks.pop(what, None))

    # What it says to the API server

    def _on_change(self, worker: PodWorker) -> None:
        self._untold.add(worker.pod.uid)
        self._news.set()

    async def _keep_pods(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            untold, self._untold = self._untold, set()
            failed = False
            for uid in untold:
                try:
                    await self._tell(uid)
                except (ClientError, ApiError, TimeoutError) as error:
                    log.warning("status of pod %s, trying again: %r", uid, error)
                    self._untold.add(uid)
                    self._news.set()
                    failed = True
            if failed:
                await asyncio.sleep(_RETRY_SECONDS)

    async def _tell(self, uid: str) -> None:
        item, worker = self._objects.get(uid), self._node.workers.get(uid)
        if item is None or worker is None:
            return
        foreign = tuple(item.get("status", {}).get("conditions") or ())
        record = dataclasses.replace(worker.record, foreign_conditions=foreign)
        patch = {"metadata": {"uid": uid}, "status": status(record, timestamp(), self._node.address)}
        try:
            await self._patch(item, patch)
        except ApiError as error:
            if error.code not in (_NOT_FOUND, _CONFLICT):  # it, or the pod of that name, is another one by now
                raise

    async def _patch(self, item: Object, patch: Object) -> None:
        await self._api.call("PATCH", f"{_path(item)}/status", patch)

    async def _keep_node(self, port: int) -> None:
        """Makes the node's object, and keeps its status: at each change of capacity, and as a heartbeat."""
        kubelet = self._node.kubelet
        while True:
            told = kubelet.capacities()
            document = node_status(told, self._node.address, port, self._name, timestamp())
            try:
                await self._put_node(document, gone=self._told_resources - told.keys())
            except (ClientError, ApiError, TimeoutError) as error:
                log.warning("status of node %s, trying again: %r", self._name, error)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._told_resources = frozenset(told)
            try:
                await kubelet.until(lambda told=told: kubelet.capacities() != told, _HEARTBEAT_SECONDS)  # type: ignore[misc]
            except TimeoutError:
                continue

    async def _put_node(self, document: Object, gone: frozenset[str]) -> None:
        try:
            await self._api.call("PATCH", f"/api/v1/nodes/{self._name}/status", {"status": without(document, gone)})
        except ApiError as error:
            if error.code != _NOT_FOUND:
                raise
            await self._api.call("POST", "/api/v1/nodes", node_object(self._name, self._labels, document))


def _path(item: Object) -> str:
    metadata = item["metadata"]
    return f"/api/v1/namespaces/{metadata.get('namespace', 'default')}/pods/{metadata['name']}"
