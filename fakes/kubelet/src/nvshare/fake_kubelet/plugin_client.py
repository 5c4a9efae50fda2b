"""Kubelet as a caller of one device plugin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import grpc
import grpc.aio

from nvshare.fake_kubelet.accounting import Device
from nvshare.kubelet import device_plugin_pb2 as messages
from nvshare.kubelet.methods import (
    ALLOCATE,
    GET_OPTIONS,
    GET_PREFERRED,
    HEALTHY,
    LIST_AND_WATCH,
    PRE_START,
    Method,
    ReplyT,
    RequestT,
)


class PluginError(Exception):
    """A plugin that does not answer as it should; the message is worded as kubelet's."""


class PluginClient:
    """Speaks to the plugin on `socket`."""

    def __init__(self, resource: str, socket: Path) -> None:
        self.resource = resource
        self.socket = socket
        # A pool of its own: gRPC else answers for a new plugin on an old path with what it knows of the old one.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}", options=options)

    async def options(self, timeout_seconds: float) -> messages.DevicePluginOptions:
        """Connects, and asks for the plugin's options. Raises PluginError."""
        return await self._call(GET_OPTIONS, messages.Empty(), timeout_seconds, wait_for_ready=True)

    async def watch(self, on_devices: Callable[[Sequence[Device]], None]) -> None:
        """Hands over each list of devices, until the stream ends."""
        watch: grpc.aio.UnaryStreamMultiCallable[messages.Empty, messages.ListAndWatchResponse] = (
            self._channel.unary_stream(
                LIST_AND_WATCH.path,
                request_serializer=_serialize,
                response_deserializer=LIST_AND_WATCH.reply.FromString,
            )
        )
        try:
            async for reply in watch(messages.Empty()):
                on_devices([_device(device) for device in reply.devices])
        except grpc.aio.AioRpcError:
            return

    async def preferred(self, available: Iterable[str], must_include: Iterable[str], size: int) -> tuple[str, ...]:
        """Raises PluginError."""
        request = messages.PreferredAllocationRequest()
        request.container_requests.add(
            available_deviceIDs=available, must_include_deviceIDs=must_include, allocation_size=size
        )
        try:
            reply = await self._call(GET_PREFERRED, request)
        except PluginError as error:
            raise PluginError(f"device plugin GetPreferredAllocation rpc failed with err: {error}") from error
        return tuple(reply.container_responses[0].deviceIDs) if reply.container_responses else ()

    async def allocate(self, ids: Iterable[str]) -> messages.ContainerAllocateResponse:
        """Raises PluginError."""
        request = messages.AllocateRequest()
        request.container_requests.add(devices_ids=ids)
        reply = await self._call(ALLOCATE, request)
        if not reply.container_responses:
            raise PluginError("no containers return in allocation response")
        return reply.container_responses[0]

    async def pre_start(self, ids: Iterable[str], timeout_seconds: float) -> None:
        """Raises PluginError."""
        try:
            await self._call(PRE_START, messages.PreStartContainerRequest(devices_ids=ids), timeout_seconds)
        except PluginError as error:
            raise PluginError(f"device plugin PreStartContainer rpc failed with err: {error}") from error

    async def close(self) -> None:
        """Ends the stream, too."""
        await self._channel.close()

    async def _call(
        self,
        method: Method[RequestT, ReplyT],
        request: RequestT,
        timeout_seconds: float | None = None,
        wait_for_ready: bool = False,
    ) -> ReplyT:
        call: grpc.aio.UnaryUnaryMultiCallable[RequestT, ReplyT] = self._channel.unary_unary(
            method.path, request_serializer=_serialize, response_deserializer=method.reply.FromString
        )
        try:
            reply: ReplyT = await call(request, timeout=timeout_seconds, wait_for_ready=wait_for_ready)
        except grpc.aio.AioRpcError as error:
            code = "".join(word.capitalize() for word in error.code().name.split("_"))
            raise PluginError(f"rpc error: code = {code} desc = {error.details()}") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # gRPC words the end of the channel, by kubelet's stop, as a cancellation of the caller.
            raise PluginError("rpc error: code = Canceled desc = grpc: the client connection is closing") from None
        return reply


def _serialize(message: RequestT) -> bytes:
    return message.SerializeToString()


def _device(device: messages.Device) -> Device:
    nodes = tuple(node.ID for node in device.topology.nodes)
    return Device(device.ID, device.health == HEALTHY, nodes)
