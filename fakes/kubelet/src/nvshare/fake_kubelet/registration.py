"""The registration service, on `device-plugins/kubelet.sock`: who may register."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio

from nvshare.fake_kubelet.plugin_client import PluginError
from nvshare.kubelet.device_plugin_pb2 import Empty, RegisterRequest
from nvshare.kubelet.methods import API_VERSION, REGISTER, REGISTRATION

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DOMAIN_CHARACTERS = 253
_QUOTA_PREFIX = "requests."  # an extended resource's name must also make one of a quota


def is_extended_resource(name: str) -> bool:
    """Whether kubelet takes `name` for a plugin's resource: `domain/name`, the domain not Kubernetes' own."""
    domain, separator, rest = name.partition("/")
    own = domain == "kubernetes.io" or domain.endswith(".kubernetes.io")
    if not separator or own or name.startswith(_QUOTA_PREFIX):
        return False
    fits = len(_QUOTA_PREFIX + domain) <= _DOMAIN_CHARACTERS
    return fits and _DOMAIN.fullmatch(domain) is not None and _NAME.fullmatch(rest) is not None


async def serve_registration(
    socket: Path, plugins: Path, connect: Callable[[str, Path], Awaitable[None]]
) -> grpc.aio.Server:
    """Serves on `socket`. Who registers is called back by `connect`, on its socket in `plugins`, before the answer."""

    async def register(request: RegisterRequest, context: grpc.aio.ServicerContext[RegisterRequest, Empty]) -> Empty:
        try:
            if request.version != API_VERSION:
                raise PluginError(
                    f"requested API version {request.version!r} is not supported by kubelet. "
                    f"Supported version is {API_VERSION!r}"
                )
            if not is_extended_resource(request.resource_name):
                raise PluginError(f"the ResourceName {request.resource_name!r} is invalid")
            await connect(request.resource_name, plugins / request.endpoint)
        except PluginError as error:
            await context.abort(grpc.StatusCode.UNKNOWN, str(error))
        return Empty()

    handler = grpc.unary_unary_rpc_method_handler(
        register, request_deserializer=REGISTER.request.FromString, response_serializer=Empty.SerializeToString
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(REGISTRATION, {REGISTER.name: handler}),))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    return server
