"""Kubelet knows the plugin, or is about to: after any restart of either, in any order.

Kubelet never comes by itself. So this looks, a few times a second, whether kubelet's socket is still the one that the
plugin registered at, whether the plugin's own is still there, and whether kubelet still listens to the list. What is
not so is put right: by a new server under a new name, for an old name may be one that kubelet refuses.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import structlog

from nvshare.device_plugin.server import OPTIONS, PluginServer, ServeError
from nvshare.kubelet import device_plugin_pb2 as plugin
from nvshare.kubelet.methods import API_VERSION, REGISTER

KUBELET_SOCKET = "kubelet.sock"
_CALL_SECONDS = 10.0  # kubelet dials the plugin meanwhile, and waits as long
_FIRST_BACKOFF_SECONDS = 0.1
_MOST_BACKOFF_SECONDS = 2.0
_WATCH_SECONDS = 2.0  # that kubelet has to ask for the list

Identity = tuple[int, int, int]
"""Of kubelet's socket: device, inode, and the time of its making, because inodes are used again at once."""

_log = structlog.get_logger()


class Registration:
    """Of one resource at one kubelet. `make_server` makes a server that is not started yet; `on_registered` is called
    after each registration.
    """

    def __init__(
        self,
        folder: Path,
        resource: str,
        make_server: Callable[[], PluginServer],
        on_registered: Callable[[], Awaitable[None]],
        check_seconds: float = 0.25,
    ) -> None:
        self._folder = folder
        self._resource = resource
        self._make_server = make_server
        self._on_registered = on_registered
        self._check_seconds = check_seconds
        self._server: PluginServer | None = None
        self._kubelet: Identity | None = None
        self._again = False
        self._said = ""
        self._unwatched_s = 0.0
        self.count = 0  # registrations that kubelet accepted

    @property
    def server(self) -> PluginServer | None:
        """The server that kubelet was told of last."""
        return self._server

    def renew(self) -> None:
        """Registers again soon: what kubelet shows is not what it was told."""
        self._again = True

    async def keep(self) -> None:
        """Registers, and again whenever needed, until it is cancelled."""
        backoff = _FIRST_BACKOFF_SECONDS
        try:
            while True:
                if self._is_well():
                    await asyncio.sleep(self._check_seconds)
                    continue
                if await self._register():
                    backoff = _FIRST_BACKOFF_SECONDS
                    await self._on_registered()
                else:
                    await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
                    backoff = min(2 * backoff, _MOST_BACKOFF_SECONDS)
        finally:
            if self._server is not None:
                await self._server.stop()

    def _is_well(self) -> bool:
        server = self._server
        if server is None or self._kubelet is None or self._again:
            return False
        if self._identity() != self._kubelet:
            self._say("kubelet is another one, or away")
            return False
        if not server.is_there:
            self._say("our socket is gone")
            return False
        if not server.streams:  # kubelet lets go of a plugin that it could not reach, and does not come back
            self._unwatched_s += self._check_seconds
            if self._unwatched_s >= _WATCH_SECONDS:
                self._say("kubelet does not listen")
                return False
        else:
            self._unwatched_s = 0.0
        return True

    async def _register(self) -> bool:
        """One attempt, with a new server; the one before ends first."""
        self._again = False
        identity = self._identity()
        if self._server is not None:
            await self._server.stop()
            self._server = None
        self._kubelet = None
        if identity is None:
            self._say("kubelet is not there yet")
            return False
        server = self._make_server()
        try:
            await server.start()
            await self._call_kubelet(server, identity)
        except (ServeError, grpc.aio.AioRpcError) as error:
            reason = (
                f"{error.code().name}: {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else str(error)
            )
            self._say(f"not registered: {reason}")
            await server.stop()
            return False
        except BaseException:
            await server.stop()
            raise
        self._server, self._kubelet, self._said = server, identity, ""
        self._unwatched_s = 0.0
        self.count += 1
        _log.info("registered", resource=self._resource, endpoint=server.path.name)
        return True

    async def _call_kubelet(self, server: PluginServer, identity: Identity) -> None:
        """Raises ServeError when the call has become useless: kubelet dials for ten seconds, also what is gone."""
        request = plugin.RegisterRequest(
            version=API_VERSION, endpoint=server.path.name, resource_name=self._resource, options=OPTIONS
        )
        async with grpc.aio.insecure_channel(f"unix:{self._folder / KUBELET_SOCKET}") as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[plugin.RegisterRequest, plugin.Empty] = channel.unary_unary(
                REGISTER.path,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=REGISTER.reply.FromString,
            )
            answer = asyncio.ensure_future(call(request, timeout=_CALL_SECONDS))
            try:
                while not (await asyncio.wait({answer}, timeout=self._check_seconds))[0]:
                    if self._identity() != identity or not server.is_there:
                        raise ServeError("kubelet is another one by now, or our socket is gone")
                await answer
            finally:
                answer.cancel()

    def _identity(self) -> Identity | None:
        try:
            status = (self._folder / KUBELET_SOCKET).stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns

    def _say(self, reason: str) -> None:
        if reason != self._said:
            self._said = reason
            _log.warning("registers", reason=reason)
