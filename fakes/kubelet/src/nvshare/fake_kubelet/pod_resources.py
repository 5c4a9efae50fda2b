"""The PodResources service: which devices the containers of the node have."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio

from nvshare.fake_kubelet.accounting import NO_NODE, Accounts, Holding
from nvshare.fake_kubelet.options import Grouping, Options
from nvshare.fake_kubelet.pods import Kind, Pod
from nvshare.fake_kubelet.rate import TokenBucket
from nvshare.kubelet import pod_resources_pb2 as messages
from nvshare.kubelet.methods import GET_ALLOCATABLE, GET_POD_RESOURCES, LIST_POD_RESOURCES, POD_RESOURCES, Method


class Node(Protocol):
    """What the service asks of kubelet."""

    @property
    def accounts(self) -> Accounts: ...

    def listed_pods(self) -> Sequence[tuple[Pod, Sequence[Holding]]]:
        """The pods to list, each with what its containers have."""

    def release(self) -> None:
        """Frees the devices of pods that have ended."""


async def serve_pod_resources(socket: Path, node: Node, options: Options) -> grpc.aio.Server:
    """Serves on `socket`."""
    bucket = TokenBucket(options.pod_resources_per_second, options.pod_resources_burst)
    grouping = options.grouping

    async def list_all(request: Any, context: Any) -> messages.ListPodResourcesResponse:
        node.release()
        pods = [_pod(pod, holdings, grouping) for pod, holdings in node.listed_pods()]
        return messages.ListPodResourcesResponse(pod_resources=pods)

    async def get_allocatable(request: Any, context: Any) -> messages.AllocatableResourcesResponse:
        devices = [
            entry
            for resource, inventory in node.accounts.resources.items()
            for entry in _entries(
                resource,
                {(one.id, near) for one in inventory.healthy.values() for near in one.nodes or (NO_NODE,)},
                grouping,
            )
        ]
        return messages.AllocatableResourcesResponse(devices=devices)

    async def get(request: messages.GetPodResourcesRequest, context: Any) -> messages.GetPodResourcesResponse:
        for pod, holdings in node.listed_pods():
            if (pod.name, pod.namespace) == (request.pod_name, request.pod_namespace):
                return messages.GetPodResourcesResponse(pod_resources=_pod(pod, holdings, grouping))
        message = f"pod {request.pod_name} in namespace {request.pod_namespace} not found"
        await context.abort(grpc.StatusCode.UNKNOWN, message)
        raise AssertionError("abort raises")

    def limited(method: Method[Any, Any], answer: Callable[[Any, Any], Any]) -> Any:
        async def handle(request: Any, context: Any) -> Any:
            if not bucket.take(time.monotonic()):
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
            return await answer(request, context)

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=method.request.FromString,
            response_serializer=method.reply.SerializeToString,
        )

    methods: dict[Method[Any, Any], Callable[[Any, Any], Any]] = {
        LIST_POD_RESOURCES: list_all,
        GET_ALLOCATABLE: get_allocatable,
        GET_POD_RESOURCES: get,
    }
    handlers = {method.name: limited(method, answer) for method, answer in methods.items()}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(POD_RESOURCES, handlers),))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    return server


def _pod(pod: Pod, holdings: Iterable[Holding], grouping: Grouping) -> messages.PodResources:
    """Containers that run to their end before the others are left out, as kubelet leaves them out."""
    answer = messages.PodResources(name=pod.name, namespace=pod.namespace)
    held = list(holdings)
    for container in pod.containers:
        if container.kind is Kind.INIT:
            continue
        entry = answer.containers.add(name=container.name)
        for holding in held:
            if holding.container == container.name:
                placed = {(device, node) for node, ids in holding.devices.items() for device in ids}
                entry.devices.extend(_entries(holding.resource, placed, grouping))
    return answer


def _entries(
    resource: str, placed: Collection[tuple[str, int]], grouping: Grouping
) -> Iterable[messages.ContainerDevices]:
    """`placed`: each device with each NUMA node of it."""
    if grouping is Grouping.DEVICE:
        groups = [([device], {node}) for device, node in sorted(placed)]
    elif grouping is Grouping.NODE:
        nodes = sorted({node for _, node in placed})
        groups = [(sorted(device for device, near in placed if near == node), {node}) for node in nodes]
    else:
        groups = [(sorted({device for device, _ in placed}), {node for _, node in placed})] if placed else []
    for ids, near in groups:
        entry = messages.ContainerDevices(resource_name=resource, device_ids=ids)
        for node in sorted(near - {NO_NODE}):
            entry.topology.nodes.add(ID=node)
        yield entry
