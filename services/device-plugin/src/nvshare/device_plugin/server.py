"""The device plugin's side of kubelet's contract: one gRPC server on a socket of its own.

Each server has a name that nobody had before: kubelet tells plugins of one resource apart by it, so that a new plugin
can serve before the old one ends, and none is refused because kubelet still thinks of an earlier one.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc
import structlog

from nvshare.device_plugin.listing import ListedShare
from nvshare.kubelet import device_plugin_pb2 as plugin
from nvshare.kubelet.methods import (
    ALLOCATE,
    DEVICE_PLUGIN,
    GET_OPTIONS,
    GET_PREFERRED,
    HEALTHY,
    LIST_AND_WATCH,
    PRE_START,
    UNHEALTHY,
    Method,
    ReplyT,
    RequestT,
)

_PREFIX = "nvshare-"
_GRACE_SECONDS = 1.0

_log = structlog.get_logger()

OPTIONS = plugin.DevicePluginOptions(pre_start_required=True, get_preferred_allocation_available=True)


class ServeError(Exception):
    """Nothing listens; the message is one line for people."""


class RefusedError(Exception):
    """A call that cannot be carried out; kubelet shows the message to the pod's owner."""


class Shares(Protocol):
    """What the server asks: the plugin's own decisions."""

    def preferred(self, available: Sequence[str], must_include: Sequence[str], size: int) -> Sequence[str]:
        """Device IDs; never an error."""

    def allocate(self, device_ids: Sequence[str]) -> plugin.ContainerAllocateResponse:
        """The answer for one container. Raises RefusedError."""

    async def pre_start(self, device_ids: Sequence[str]) -> None:
        """The container with these devices is about to start. Raises RefusedError: kubelet tries again."""


class Devices:
    """What kubelet is told, and who waits for it to change."""

    def __init__(self) -> None:
        self.listed: tuple[ListedShare, ...] = ()
        self._version = 0
        self._news = asyncio.Condition()

    async def tell(self, listed: tuple[ListedShare, ...], again: bool = False) -> None:
        """Sends `listed` to whoever listens, if it is new; with `again` in any case."""
        if listed == self.listed and not again:
            return
        async with self._news:
            self.listed = listed
            self._version += 1
            self._news.notify_all()

    async def wake(self) -> None:
        """Lets whoever listens look whether it is over."""
        async with self._news:
            self._news.notify_all()

    async def messages(self, is_over: Callable[[], bool]) -> AsyncIterator[plugin.ListAndWatchResponse]:
        """The list now and at each change, until it is over."""
        seen = -1
        while True:
            async with self._news:
                while self._version == seen and not is_over():
                    await self._news.wait()
                seen, listed = self._version, self.listed
            if is_over():
                return
            yield plugin.ListAndWatchResponse(devices=[_device(one) for one in listed])


class PluginServer:
    """One server in kubelet's folder; `streams` counts the ListAndWatch calls that are open."""

    def __init__(self, folder: Path, shares: Shares, devices: Devices) -> None:
        self.path = folder / f"{_PREFIX}{secrets.token_hex(6)}.sock"
        self.streams = 0
        self._shares = shares
        self._devices = devices
        self._server = grpc.aio.server()
        self._inode = 0
        self._ending = False

    @property
    def is_there(self) -> bool:
        """Whether its socket is where kubelet looks for it."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    async def start(self) -> None:
        """Serves from now on. Raises ServeError."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            GET_OPTIONS.name: _unary(GET_OPTIONS, self._options),
            GET_PREFERRED.name: _unary(GET_PREFERRED, self._preferred),
            ALLOCATE.name: _unary(ALLOCATE, self._allocate),
            PRE_START.name: _unary(PRE_START, self._pre_start),
            LIST_AND_WATCH.name: grpc.unary_stream_rpc_method_handler(
                self._list_and_watch,
                request_deserializer=LIST_AND_WATCH.request.FromString,
                response_serializer=lambda message: message.SerializeToString(),
            ),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(DEVICE_PLUGIN, handlers),))
        try:
            self._server.add_insecure_port(f"unix:{self.path}")
            await self._server.start()
            self._inode = self.path.stat().st_ino
        except (RuntimeError, OSError) as error:
            raise ServeError(f"cannot listen on {self.path}: {error}") from None

    async def stop(self) -> None:
        """Ends; kubelet notices by its stream. Calls that are being answered are answered first: one that fails in
        Allocate costs a pod.
        """
        self._ending = True
        await self._devices.wake()
        await self._server.stop(_GRACE_SECONDS)
        self.path.unlink(missing_ok=True)

    async def _options(self, request: plugin.Empty) -> plugin.DevicePluginOptions:
        return OPTIONS

    async def _preferred(self, request: plugin.PreferredAllocationRequest) -> plugin.PreferredAllocationResponse:
        return plugin.PreferredAllocationResponse(
            container_responses=[
                plugin.ContainerPreferredAllocationResponse(
                    deviceIDs=self._shares.preferred(
                        one.available_deviceIDs, one.must_include_deviceIDs, one.allocation_size
                    )
                )
                for one in request.container_requests
            ]
        )

    async def _allocate(self, request: plugin.AllocateRequest) -> plugin.AllocateResponse:
        answers = [self._shares.allocate(one.devices_ids) for one in request.container_requests]
        return plugin.AllocateResponse(container_responses=answers)

    async def _pre_start(self, request: plugin.PreStartContainerRequest) -> plugin.PreStartContainerResponse:
        await self._shares.pre_start(request.devices_ids)
        return plugin.PreStartContainerResponse()

    async def _list_and_watch(
        self, request: plugin.Empty, context: grpc.aio.ServicerContext[plugin.Empty, plugin.ListAndWatchResponse]
    ) -> AsyncIterator[plugin.ListAndWatchResponse]:
        self.streams += 1
        try:
            async for message in self._devices.messages(lambda: self._ending):
                yield message
        finally:
            self.streams -= 1


def remove_dead_sockets(folder: Path) -> None:
    """Removes the sockets that plugins before this one left when they were killed."""
    for path in folder.glob(f"{_PREFIX}*.sock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)


def _unary(
    method: Method[RequestT, ReplyT], answer: Callable[[RequestT], Awaitable[ReplyT]]
) -> grpc.RpcMethodHandler[RequestT, ReplyT]:
    async def handle(request: RequestT, context: grpc.aio.ServicerContext[RequestT, ReplyT]) -> ReplyT:
        try:
            return await answer(request)
        except RefusedError as error:
            _log.warning("refused", method=method.name, reason=str(error))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
            raise

    return grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=method.request.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )


def _device(one: ListedShare) -> plugin.Device:
    topology = None if one.numa is None else plugin.TopologyInfo(nodes=[plugin.NUMANode(ID=one.numa)])
    return plugin.Device(ID=one.share.id, health=HEALTHY if one.healthy else UNHEALTHY, topology=topology)
