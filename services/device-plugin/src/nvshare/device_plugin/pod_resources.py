"""Kubelet's PodResources: who has which shares now."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path

import grpc
import structlog

from nvshare.device_plugin.joining import Held
from nvshare.device_plugin.shares import Share, ShareError, parse_share
from nvshare.kubelet import pod_resources_pb2 as resources
from nvshare.kubelet.methods import GET_ALLOCATABLE, LIST_POD_RESOURCES, Method, ReplyT, RequestT

_TIMEOUT_SECONDS = 2.0
# Kubelet's socket comes and goes with it: a channel that waited long before it tries again would miss that.
_CHANNEL_OPTIONS = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))

_log = structlog.get_logger()


class PodResources:
    """A client of the interface at `socket`, for one resource. Asks at most once each `spacing_seconds`: half of
    what kubelet allows to all together.
    """

    def __init__(self, socket: Path, resource: str, spacing_seconds: float = 0.02) -> None:
        self._resource = resource
        self._spacing_seconds = spacing_seconds
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}", options=_CHANNEL_OPTIONS)
        self._asking = asyncio.Lock()
        self._next_s = 0.0
        self._away = False

    async def held(self) -> tuple[Held, ...] | None:
        """The containers that have shares. None: kubelet does not say, which is not the same as none."""
        answer = await self._ask(LIST_POD_RESOURCES, resources.ListPodResourcesRequest())
        return None if answer is None else held_of(answer, self._resource)

    async def allocatable(self) -> frozenset[Share] | None:
        """The healthy shares that kubelet knows. None: it does not say."""
        answer = await self._ask(GET_ALLOCATABLE, resources.AllocatableResourcesRequest())
        return None if answer is None else _shares(answer.devices, self._resource)

    async def close(self) -> None:
        """Ends the connection."""
        await self._channel.close()

    async def _ask(self, method: Method[RequestT, ReplyT], request: RequestT) -> ReplyT | None:
        call: grpc.aio.UnaryUnaryMultiCallable[RequestT, ReplyT] = self._channel.unary_unary(
            method.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=method.reply.FromString,
        )
        async with self._asking:
            loop = asyncio.get_running_loop()
            await asyncio.sleep(max(0.0, self._next_s - loop.time()))
            self._next_s = loop.time() + self._spacing_seconds
            try:
                answer: ReplyT = await call(request, timeout=_TIMEOUT_SECONDS, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                if not self._away:
                    self._away = True
                    _log.warning("PodResources does not answer", code=error.code().name, details=error.details())
                return None
        if self._away:
            self._away = False
            _log.info("PodResources answers")
        return answer


def held_of(answer: resources.ListPodResourcesResponse, resource: str) -> tuple[Held, ...]:
    """The containers in `answer` that have devices of `resource`, whatever the number of entries that it comes in."""
    found = []
    for pod in answer.pod_resources:
        for container in pod.containers:
            shares = _shares(container.devices, resource)
            if shares:
                found.append(Held(pod.namespace, pod.name, container.name, shares))
    return tuple(found)


def _shares(entries: Iterable[resources.ContainerDevices], resource: str) -> frozenset[Share]:
    shares: set[Share] = set()
    for entry in entries:
        if entry.resource_name == resource:
            for device in entry.device_ids:
                with contextlib.suppress(ShareError):
                    shares.add(parse_share(device))
    return frozenset(shares)
