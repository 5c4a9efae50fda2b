"""A kubelet in a folder of its own, and a device plugin that does what a test tells it to."""

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from nvshare.fake_kubelet.kubelet import Kubelet
from nvshare.fake_kubelet.options import Options
from nvshare.fake_kubelet.pods import Container, Kind, Pod
from nvshare.kubelet import device_plugin_pb2 as messages
from nvshare.kubelet import pod_resources_pb2 as resources
from nvshare.kubelet.methods import (
    ALLOCATE,
    DEVICE_PLUGIN,
    GET_ALLOCATABLE,
    GET_OPTIONS,
    GET_POD_RESOURCES,
    GET_PREFERRED,
    HEALTHY,
    LIST_AND_WATCH,
    LIST_POD_RESOURCES,
    PRE_START,
    REGISTER,
    UNHEALTHY,
    Method,
)

RESOURCE = "example.com/device"
_numbers = itertools.count()


def pod_of(*sizes: int, name: str = "", resource: str = RESOURCE) -> Pod:
    """A pod with a container for each of `sizes`, named `main`, `main-1`, …, that asks for so many devices."""
    number = next(_numbers)
    names = ["main", *(f"main-{index}" for index in range(1, len(sizes)))]
    containers = tuple(Container(one, {resource: size}) for one, size in zip(names, sizes, strict=True))
    return Pod(name or f"pod-{number}", f"uid-{number}", containers)


def with_init(pod: Pod, size: int, kind: Kind = Kind.INIT) -> Pod:
    """`pod` with a first container, named `first`."""
    first = Container("first", {RESOURCE: size}, kind)
    return Pod(pod.name, pod.uid, (first, *pod.containers))


class TinyPlugin:
    """A device plugin on a socket of its own, which keeps what it is asked."""

    def __init__(self, kubelet: Kubelet, socket: str = "tiny.sock", resource: str = RESOURCE) -> None:
        self.kubelet = kubelet
        self.socket = socket
        self.resource = resource
        self.devices: list[messages.Device] = []
        self.preferred: Callable[[messages.ContainerPreferredAllocationRequest], Iterable[str]] | None = None
        self.pre_start = False
        self.failing: set[str] = set()
        self.asked: list[tuple[str, Any]] = []
        self._news = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    def list_devices(self, *ids: str, unhealthy: Iterable[str] = (), nodes: dict[str, int] | None = None) -> None:
        """The devices from now on."""
        self.devices = []
        for one in (*ids, *unhealthy):
            device = messages.Device(ID=one, health=HEALTHY if one in ids else UNHEALTHY)
            if nodes is not None and one in nodes:
                device.topology.nodes.add(ID=nodes[one])
            self.devices.append(device)
        self._news.set()

    def requests(self, method: str) -> list[Any]:
        """What it was asked by `method`, in order."""
        return [request for name, request in self.asked if name == method]

    async def serve(self) -> None:
        await self.stop()  # a gRPC server that ends later would delete the new one's socket
        path = self.kubelet.plugin_directory / self.socket
        path.unlink(missing_ok=True)
        answers: dict[Method[Any, Any], Callable[[Any], Any]] = {
            GET_OPTIONS: self._options,
            GET_PREFERRED: self._prefer,
            ALLOCATE: self._allocate,
            PRE_START: lambda request: messages.PreStartContainerResponse(),
        }
        handlers = {method.name: self._handler(method, answer) for method, answer in answers.items()}
        handlers[LIST_AND_WATCH.name] = grpc.unary_stream_rpc_method_handler(
            self._watch,
            request_deserializer=LIST_AND_WATCH.request.FromString,
            response_serializer=LIST_AND_WATCH.reply.SerializeToString,
        )
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(DEVICE_PLUGIN, handlers),))
        self._server.add_insecure_port(f"unix:{path}")
        await self._server.start()

    async def register(self, version: str = "v1beta1", resource: str | None = None) -> None:
        """Raises grpc.aio.AioRpcError where kubelet refuses."""
        request = messages.RegisterRequest(
            version=version, endpoint=self.socket, resource_name=self.resource if resource is None else resource
        )
        await call(self.kubelet.registration_socket, REGISTER, request)

    async def start(self) -> None:
        """Serves, registers, and is seen with all healthy devices."""
        await self.serve()
        await self.register()
        healthy = sum(device.health == HEALTHY for device in self.devices)
        await self.kubelet.until_allocatable(self.resource, healthy)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None

    def _handler(self, method: Method[Any, Any], answer: Callable[[Any], Any]) -> Any:
        async def handle(request: Any, context: Any) -> Any:
            self.asked.append((method.name, request))
            if method.name in self.failing:
                await context.abort(grpc.StatusCode.INTERNAL, f"{method.name} fails")
            return answer(request)

        return grpc.unary_unary_rpc_method_handler(
            handle, request_deserializer=method.request.FromString, response_serializer=method.reply.SerializeToString
        )

    def _options(self, request: Any) -> messages.DevicePluginOptions:
        return messages.DevicePluginOptions(
            pre_start_required=self.pre_start, get_preferred_allocation_available=self.preferred is not None
        )

    async def _watch(self, request: Any, context: Any) -> AsyncIterator[messages.ListAndWatchResponse]:
        while True:
            self._news.clear()
            yield messages.ListAndWatchResponse(devices=self.devices)
            await self._news.wait()

    def _prefer(self, request: messages.PreferredAllocationRequest) -> messages.PreferredAllocationResponse:
        assert self.preferred is not None
        response = messages.PreferredAllocationResponse()
        response.container_responses.add(deviceIDs=self.preferred(request.container_requests[0]))
        return response

    def _allocate(self, request: messages.AllocateRequest) -> messages.AllocateResponse:
        response = messages.AllocateResponse()
        response.container_responses.add(envs={"DEVICES": ",".join(request.container_requests[0].devices_ids)})
        return response


async def call(socket: Path, method: Method[Any, Any], request: Any) -> Any:
    """One call on `socket`."""
    async with grpc.aio.insecure_channel(f"unix:{socket}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        return await channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.reply.FromString,
        )(request, wait_for_ready=True, timeout=5.0)


class PodResources:
    """What kubelet's PodResources says."""

    def __init__(self, kubelet: Kubelet) -> None:
        self._socket = kubelet.pod_resources_socket

    async def list(self) -> resources.ListPodResourcesResponse:
        answer = await call(self._socket, LIST_POD_RESOURCES, resources.ListPodResourcesRequest())
        assert isinstance(answer, resources.ListPodResourcesResponse)
        return answer

    async def get(self, pod: Pod) -> resources.PodResources:
        request = resources.GetPodResourcesRequest(pod_name=pod.name, pod_namespace=pod.namespace)
        answer = await call(self._socket, GET_POD_RESOURCES, request)
        assert isinstance(answer, resources.GetPodResourcesResponse)
        return answer.pod_resources

    async def allocatable(self) -> resources.AllocatableResourcesResponse:
        answer = await call(self._socket, GET_ALLOCATABLE, resources.AllocatableResourcesRequest())
        assert isinstance(answer, resources.AllocatableResourcesResponse)
        return answer


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path: a unix socket's has at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="kubelet-") as path:
        yield Path(path)


@pytest.fixture
async def start_kubelet(directory: Path) -> AsyncIterator[Callable[[Options], Awaitable[Kubelet]]]:
    """Starts a kubelet with these options."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(options: Options) -> Kubelet:
            return await stack.enter_async_context(Kubelet(directory, options))

        yield start


@pytest.fixture
async def kubelet(start_kubelet: Callable[[Options], Awaitable[Kubelet]]) -> Kubelet:
    return await start_kubelet(Options())


@pytest.fixture
async def make_plugin() -> AsyncIterator[Callable[..., TinyPlugin]]:
    """Makes plugins, and stops them after the test."""
    plugins: list[TinyPlugin] = []

    def make(*arguments: Any, **named: Any) -> TinyPlugin:
        plugins.append(TinyPlugin(*arguments, **named))
        return plugins[-1]

    yield make
    for plugin in plugins:
        await plugin.stop()


@pytest.fixture
async def plugin(kubelet: Kubelet, make_plugin: Callable[..., TinyPlugin]) -> TinyPlugin:
    """With four devices, a to d."""
    plugin = make_plugin(kubelet)
    plugin.list_devices("a", "b", "c", "d")
    return plugin
