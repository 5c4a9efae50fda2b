"""The gRPC methods of kubelet's interfaces, for who serves them and who calls them."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from nvshare.kubelet import device_plugin_pb2 as plugin
from nvshare.kubelet import pod_resources_pb2 as resources

RequestT = TypeVar("RequestT", bound=Message)
ReplyT = TypeVar("ReplyT", bound=Message)

API_VERSION = "v1beta1"
"""Of the device plugin contract; kubelet refuses any other."""

HEALTHY = "Healthy"
UNHEALTHY = "Unhealthy"


@dataclass(frozen=True, slots=True)
class Method(Generic[RequestT, ReplyT]):
    """One method: `service` and `name` make its path on the wire; `streams`: the reply is a stream of `reply`."""

    service: str
    name: str
    request: type[RequestT]
    reply: type[ReplyT]
    streams: bool = False

    @property
    def path(self) -> str:
        """As gRPC names it."""
        return f"/{self.service}/{self.name}"


REGISTRATION = "v1beta1.Registration"
DEVICE_PLUGIN = "v1beta1.DevicePlugin"
POD_RESOURCES = "v1.PodResourcesLister"

REGISTER = Method(REGISTRATION, "Register", plugin.RegisterRequest, plugin.Empty)

GET_OPTIONS = Method(DEVICE_PLUGIN, "GetDevicePluginOptions", plugin.Empty, plugin.DevicePluginOptions)
LIST_AND_WATCH = Method(DEVICE_PLUGIN, "ListAndWatch", plugin.Empty, plugin.ListAndWatchResponse, streams=True)
GET_PREFERRED = Method(
    DEVICE_PLUGIN, "GetPreferredAllocation", plugin.PreferredAllocationRequest, plugin.PreferredAllocationResponse
)
ALLOCATE = Method(DEVICE_PLUGIN, "Allocate", plugin.AllocateRequest, plugin.AllocateResponse)
PRE_START = Method(
    DEVICE_PLUGIN, "PreStartContainer", plugin.PreStartContainerRequest, plugin.PreStartContainerResponse
)

LIST_POD_RESOURCES = Method(
    POD_RESOURCES, "List", resources.ListPodResourcesRequest, resources.ListPodResourcesResponse
)
GET_ALLOCATABLE = Method(
    POD_RESOURCES,
    "GetAllocatableResources",
    resources.AllocatableResourcesRequest,
    resources.AllocatableResourcesResponse,
)
GET_POD_RESOURCES = Method(POD_RESOURCES, "Get", resources.GetPodResourcesRequest, resources.GetPodResourcesResponse)
