"""Which resources the server has, and which of them a path names. Pure."""

from dataclasses import dataclass

from nvshare.fake_api_server.statuses import METHOD_NOT_ALLOWED, NOT_FOUND, ApiError


@dataclass(frozen=True)
class Resource:
    """One kind of object of the core group, version v1."""

    plural: str
    kind: str
    namespaced: bool
    subresources: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    """What a field selector may name, beside metadata.name and metadata.namespace."""


PODS = Resource(
    "pods",
    "Pod",
    namespaced=True,
    subresources=("status", "binding", "log"),
    fields=("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "status.phase", "status.podIP"),
)
NODES = Resource("nodes", "Node", namespaced=False, subresources=("status",), fields=("spec.unschedulable",))
NAMESPACES = Resource("namespaces", "Namespace", namespaced=False, subresources=("status",), fields=("status.phase",))
EVENTS = Resource(
    "events",
    "Event",
    namespaced=True,
    fields=(
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.uid",
        "reason",
        "source",
        "type",
    ),
)
CONFIG_MAPS = Resource("configmaps", "ConfigMap", namespaced=True)

RESOURCES = {resource.plural: resource for resource in (PODS, NODES, NAMESPACES, EVENTS, CONFIG_MAPS)}


@dataclass(frozen=True)
class Target:
    """What a request is about. An empty name: all of them; an empty namespace: of all namespaces, or of none."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def parse_path(path: str) -> Target:
    """The target of a path such as `/api/v1/namespaces/default/pods/web/status`. Raises ApiError."""
    parts = path.strip("/").split("/")
    match parts[2:] if parts[:2] == ["api", "v1"] else []:
        case ["namespaces", namespace, plural, *rest] if plural in RESOURCES and RESOURCES[plural].namespaced:
            return _target(RESOURCES[plural], namespace, rest)
        case [plural, *rest] if plural in RESOURCES and (not RESOURCES[plural].namespaced or not rest):
            return _target(RESOURCES[plural], "", rest)
    raise ApiError(NOT_FOUND, "the server could not find the requested resource")


def _target(resource: Resource, namespace: str, rest: list[str]) -> Target:
    match rest:
        case []:
            return Target(resource, namespace)
        case [name]:
            return Target(resource, namespace, name)
        case [name, subresource] if subresource in resource.subresources:
            return Target(resource, namespace, name, subresource)
    raise ApiError(NOT_FOUND, "the server could not find the requested resource")


def verb_of(method: str, target: Target, watch: bool) -> str:
    """The verb as Kubernetes's access rules call it: get, list, watch, create, update, patch, delete,
    deletecollection. Raises ApiError.
    """
    if method == "GET" and not target.name:
        return "watch" if watch else "list"
    by_method = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
    verb = by_method.get(method, "")
    if verb == "delete" and not target.name:
        return "deletecollection"
    addressed = bool(target.name)
    if not verb or (verb == "create") == (addressed and target.subresource != "binding"):
        raise ApiError(METHOD_NOT_ALLOWED, "the server does not allow this method on the requested resource")
    return verb
