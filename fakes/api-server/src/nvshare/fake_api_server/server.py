"""The server: HTTP in front of the store, with faults between the two."""

import asyncio
import json
import random
import ssl
from collections import deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import ClientError, ClientSession, web

from nvshare.fake_api_server.binder import place
from nvshare.fake_api_server.faults import STREAM_ENDS, Action, Fault, Faults, fault_from
from nvshare.fake_api_server.history import Object
from nvshare.fake_api_server.resources import NODES, PODS, RESOURCES, Target, parse_path, verb_of
from nvshare.fake_api_server.statuses import (
    BAD_REQUEST,
    GONE,
    NOT_FOUND,
    UNAUTHORIZED,
    UNAVAILABLE,
    UNSUPPORTED_MEDIA_TYPE,
    ApiError,
    expired,
)
from nvshare.fake_api_server.store import Store
from nvshare.fake_api_server.watches import Watch, WatchRequest

_PATCH_TYPES = ("application/merge-patch+json", "application/strategic-merge-patch+json")
_VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.0", "platform": "linux/amd64"}
_KEPT_REQUESTS = 10_000


@dataclass(frozen=True)
class Request:
    """One that came in, for tests to look at."""

    verb: str
    path: str
    query: dict[str, str]


class FakeApiServer:
    """An API server on a port of this host. `store`, `faults` and the methods may be used while it runs, from the
    thread of its event loop.

    `bookmark_seconds` is the time between the bookmarks of a watch, `expired_as_answer` says whether a watch from a
    version that is forgotten gets 410 as HTTP status or, as API servers mostly do, as an ERROR event; `token` is the
    bearer token that every request must carry, `bind_pods` gives pods a node.
    """

    def __init__(
        self,
        *,
        bookmark_seconds: float = 60.0,
        expired_as_answer: bool = False,
        token: str = "",
        bind_pods: bool = False,
        kept_changes: int = 10_000,
    ) -> None:
        self.store = Store(kept_changes=kept_changes)
        self.faults = Faults()
        self.requests: deque[Request] = deque(maxlen=_KEPT_REQUESTS)
        self.expired_as_answer = expired_as_answer
        self.bookmark_seconds = bookmark_seconds
        self.token = token
        self._watches: set[Watch] = set()
        self._hanging: dict[int, asyncio.Event] = {}
        self._answering = asyncio.Event()
        self._answering.set()
        self._runner: web.AppRunner | None = None
        self._url = ""
        self.store.on_change.append(self._wake_watches)
        if bind_pods:
            self.store.on_change.append(self._bind_pods)
        self._binding = False
        for name in ("default", "kube-system"):
            self.add({"kind": "Namespace", "metadata": {"name": name}})

    @property
    def url(self) -> str:
        """Where it listens; empty before `start`."""
        return self._url

    async def start(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        """Listens; port 0 lets the system choose one, which a later `start` takes again."""
        application = web.Application(client_max_size=8 * 2**20)
        application.router.add_route("*", "/fake/{what:.*}", self._control)
        application.router.add_route("*", "/{path:.*}", self._handle)
        # Handlers are cancelled when their client goes: else a watch would notice only at its next event.
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port or self._port(), ssl_context=tls).start()
        bound_host, bound_port = self._runner.addresses[0][:2]
        self._url = f"{'https' if tls else 'http'}://{bound_host}:{bound_port}"

    async def stop(self) -> None:
        """Closes every connection and stops listening. The objects stay, for another `start`."""
        for watch in self._watches:
            watch.end(Fault(Action.END))
        self.thaw()
        self.clear_faults()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def watches(self) -> int:
        """How many streams run."""
        return len(self._watches)

    # What tests do to it

    def add(self, body: Object) -> Object:
        """Creates an object, in the namespace that it names."""
        return self.store.create_object(body, _now())

    def freeze(self) -> None:
        """From now on nobody is answered, and watches are silent; connections stay open."""
        self._answering.clear()

    def thaw(self) -> None:
        """All that waits since `freeze` goes on."""
        self._answering.set()

    def end_watches(self, action: Action = Action.CUT, *, code: int = 500) -> int:
        """Lets `action` happen to all watches that run now; returns how many those are."""
        for watch in self._watches:
            watch.end(Fault(action, code=code))
        return self.watches

    def remove_fault(self, number: int) -> None:
        """The requests that hang by it have their connections closed."""
        self.faults.remove(number)
        if number in self._hanging:
            self._hanging.pop(number).set()

    def clear_faults(self) -> None:
        self.faults.clear()
        for number in list(self._hanging):
            self.remove_fault(number)

    # Requests

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ApiError as error:
            return web.json_response(error.status(), status=error.code)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        await self._answering.wait()
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            raise ApiError(UNAUTHORIZED, "Unauthorized")
        target: Target | None = None
        verb, path = "get", request.path
        plain = _plain(path)
        if plain is None:
            target = parse_path(path)
            verb = verb_of(request.method, target, _flag(request, "watch"))
        self.requests.append(Request(verb, path, dict(request.query)))
        taken = self.faults.take(verb, path)
        refusal = await self._suffer(request, taken)
        if refusal is not None:
            return refusal
        if target is None:
            return web.json_response(plain) if not isinstance(plain, str) else web.Response(text=plain)
        if verb == "watch":
            return await self._watch(request, target, list(taken.values()))
        if target.subresource == "log":
            return await self._log(target, request)
        return web.json_response(await self._do(verb, target, request), status=201 if verb == "create" else 200)

    async def _suffer(self, request: web.Request, taken: dict[int, Fault]) -> web.Response | None:
        """Lets faults happen to a request. Returns an answer that takes the place of the right one."""
        await asyncio.sleep(sum(fault.seconds for fault in taken.values() if fault.action is Action.DELAY))
        for number, fault in taken.items():
            if fault.action is Action.HANG:
                await self._hanging.setdefault(number, asyncio.Event()).wait()
            if fault.action in (Action.HANG, Action.RESET):
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()  # nobody hears it
            if fault.action is Action.STATUS:
                after = fault.retry_after_seconds
                headers = {} if after is None else {"Retry-After": str(after)}
                refusal = expired("0") if fault.code == GONE else ApiError(fault.code, "by script")
                return web.json_response(refusal.status(), status=fault.code, headers=headers)
        return None

    async def _do(self, verb: str, target: Target, request: web.Request) -> Object:
        match verb:
            case "get":
                return self.store.get(target)
            case "list":
                return self._list(target, request)
            case "create" if target.subresource == "binding":
                body = await _json(request)
                self.store.bind(target, body.get("target", {}).get("name", ""))
                return _success()
            case "create":
                return self.store.create(target, await _json(request), _now())
            case "update":
                return self.store.update(target, await _json(request))
            case "patch":
                if request.content_type not in _PATCH_TYPES:
                    raise ApiError(
                        UNSUPPORTED_MEDIA_TYPE,
                        f"the body of the request was in an unknown format; use one of {_PATCH_TYPES}",
                    )
                return self.store.patch(target, await _json(request))
            case "delete":
                return await self._delete([target], request)
            case _:
                found = self._list(target, request)["items"]
                namespaced = target.resource.namespaced
                names = [(item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in found]
                targets = [Target(target.resource, namespace if namespaced else "", name) for namespace, name in names]
                return await self._delete(targets, request)

    def _list(self, target: Target, request: web.Request) -> dict[str, Any]:
        query = request.query
        exact = query.get("resourceVersionMatch") == "Exact"
        return self.store.page(
            target,
            labels=query.get("labelSelector", ""),
            fields=query.get("fieldSelector", ""),
            limit=_number(request, "limit"),
            continue_token=query.get("continue", ""),
            version=query.get("resourceVersion", "") if exact else "",
        )

    async def _delete(self, targets: list[Target], request: web.Request) -> Object:
        options = await _json(request) if request.can_read_body else {}
        grace = options.get("gracePeriodSeconds")
        if "gracePeriodSeconds" in request.query:
            grace = _number(request, "gracePeriodSeconds")
        uid = (options.get("preconditions") or {}).get("uid", "")
        gone = [self.store.delete(target, _now(), grace_seconds=grace, uid=uid) for target in targets]
        return gone[0] if len(gone) == 1 else _success()

    async def _watch(self, request: web.Request, target: Target, faults: list[Fault]) -> web.StreamResponse:
        query = request.query
        wanted = WatchRequest(
            target,
            query.get("resourceVersion", ""),
            query.get("labelSelector", ""),
            query.get("fieldSelector", ""),
            bookmarks=_flag(request, "allowWatchBookmarks"),
            timeout_seconds=_number(request, "timeoutSeconds") or random.uniform(1800, 3600),
        )
        if target.name:
            raise ApiError(BAD_REQUEST, "watch a list with a field selector on metadata.name instead")
        if wanted.version not in ("", "0"):
            try:
                self.store.events_after(target, wanted.version, lambda _: True)
            except ApiError as error:
                if error.code != GONE or self.expired_as_answer:
                    raise
        watch = Watch(self.store, wanted, faults, self.bookmark_seconds, self._until_answering)
        self._watches.add(watch)
        try:
            return await watch.run(request)
        finally:
            self._watches.discard(watch)

    async def _log(self, target: Target, request: web.Request) -> web.Response:
        """Asks the kubelet of the pod's node, as an API server does, over plain HTTP at the address in its status."""
        pod = self.store.get(target)
        node = self.store.get(Target(NODES, name=pod["spec"].get("nodeName") or ""))["status"]
        port = node.get("daemonEndpoints", {}).get("kubeletEndpoint", {}).get("Port")
        hosts = [one["address"] for one in node.get("addresses", []) if one["type"] == "InternalIP"]
        if not port or not hosts:
            raise ApiError(NOT_FOUND, "the node has not said where its kubelet listens")
        container = request.query.get("container", pod["spec"]["containers"][0]["name"])
        url = f"http://{hosts[0]}:{port}/containerLogs/{target.namespace}/{target.name}/{container}"
        try:
            async with ClientSession() as session, session.get(url, params=request.query) as answer:
                return web.Response(status=answer.status, body=await answer.read(), content_type="text/plain")
        except (ClientError, TimeoutError) as error:
            raise ApiError(UNAVAILABLE, f"the kubelet does not answer: {error}") from None

    # Control by HTTP

    async def _control(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(await self._controlled(request))
        except ApiError as error:
            return web.json_response(error.status(), status=error.code)

    async def _controlled(self, request: web.Request) -> Any:
        match (request.method, *request.match_info["what"].strip("/").split("/")):
            case ("GET", "faults"):
                return self.faults.listing()
            case ("POST", "faults"):
                return {"number": self.faults.add(fault_from(await _json(request)))}
            case ("DELETE", "faults"):
                self.clear_faults()
            case ("DELETE", "faults", number) if number.isdecimal():
                self.remove_fault(int(number))
            case ("POST", "watches", action) if action in STREAM_ENDS:
                return {"watches": self.end_watches(Action(action), code=_number(request, "code") or 500)}
            case ("POST", "compact"):
                self.store.compact()
            case ("POST", "freeze"):
                self.freeze()
            case ("POST", "thaw"):
                self.thaw()
            case ("GET", "requests"):
                return [asdict(one) for one in self.requests]
            case _:
                raise ApiError(NOT_FOUND, "no such control: see the README of fakes/api-server")
        return {}

    # Inside

    async def _until_answering(self) -> None:
        await self._answering.wait()

    def _wake_watches(self) -> None:
        for watch in self._watches:
            watch.wake()

    def _bind_pods(self) -> None:
        if self._binding:  # a binding is a change itself
            return
        self._binding = True
        try:
            for pod in self.store.all(PODS):
                if not pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"]:
                    node = place(pod, self.store.all(NODES), self.store.all(PODS))
                    if node is not None:
                        metadata = pod["metadata"]
                        self.store.bind(Target(PODS, metadata["namespace"], metadata["name"]), node)
        finally:
            self._binding = False

    def _port(self) -> int:
        return int(self._url.rsplit(":", 1)[1]) if self._url else 0


def _plain(path: str) -> object:
    """The answer to a path that needs no store; None: it needs it."""
    match path.strip("/"):
        case "healthz" | "livez" | "readyz":
            return "ok"
        case "version":
            return _VERSION
        case "api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        case "apis":
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": []}
        case "api/v1":
            verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
            listing = [
                {"name": one.plural, "kind": one.kind, "namespaced": one.namespaced, "singularName": "", "verbs": verbs}
                for one in RESOURCES.values()
            ]
            return {"kind": "APIResourceList", "groupVersion": "v1", "resources": listing}
    return None


def _now() -> datetime:
    return datetime.now(UTC)


def _success() -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


def _flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "") in ("1", "true", "True")


def _number(request: web.Request, name: str) -> int:
    text = request.query.get(name, "") or "0"
    if not text.isdecimal():
        raise ApiError(BAD_REQUEST, f"{name} is not a number: {text[:40]!r}")
    return int(text)


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError:
        raise ApiError(BAD_REQUEST, "the body is no JSON") from None
    if not isinstance(body, dict):
        raise ApiError(BAD_REQUEST, "the body is no object")
    return body
