"""The objects of a cluster, and how an API server changes them. No I/O: time comes in as an argument."""

import base64
import binascii
import copy
import json
import random
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

from nvshare.fake_api_server.history import Change, History, Key, Object
from nvshare.fake_api_server.patches import merged
from nvshare.fake_api_server.resources import NAMESPACES, PODS, RESOURCES, Resource, Target
from nvshare.fake_api_server.selectors import predicate
from nvshare.fake_api_server.statuses import BAD_REQUEST, CONFLICT, UNPROCESSABLE, ApiError, not_found

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_KEPT_BY_SERVER = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")
_CHANGEABLE_IN_SPEC = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds")
_DEFAULT_GRACE_SECONDS = 30


class Store:
    """All objects by resource, namespace and name. `on_change` is called after each change.

    `kept_changes` is how far back a watch may begin; `compact` forgets at once.
    """

    def __init__(self, *, kept_changes: int = 10_000) -> None:
        self._history = History(f"{random.getrandbits(32):08x}", kept_changes)
        self._objects: dict[Key, Object] = {}
        self.on_change: list[Callable[[], None]] = []

    @property
    def version(self) -> str:
        """The resourceVersion of the latest change."""
        return self._history.version(self._history.revision)

    def compact(self) -> None:
        """Expires every resourceVersion and continue token but the latest version."""
        self._history.compact()

    # Reading

    def get(self, target: Target) -> Object:
        """Raises ApiError (404)."""
        found = self._objects.get(_key(target))
        if found is None:
            raise not_found(target.resource.plural, target.name)
        return found

    def all(self, resource: Resource) -> list[Object]:
        return [found for key, found in sorted(self._objects.items()) if key[0] == resource.plural]

    def page(
        self,
        target: Target,
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 0,
        continue_token: str = "",
        version: str = "",
    ) -> dict[str, Any]:
        """A list as the API server answers it: the pages of one list are of one revision.

        `version` is given for the list as it was at exactly that version. Raises ApiError: 410 when that, or the token,
        is expired.
        """
        selected = predicate(target.resource, labels, fields)
        revision, start = self._history.revision, ("", "", "")
        if continue_token:
            revision, start = self._unpacked(continue_token)
        elif version:
            revision = self._history.revision_of(version)
        past = self._history.snapshot(self._objects, revision)
        found = [
            (key, item) for key, item in sorted(past.items()) if key > start and _within(key, target) and selected(item)
        ]
        shown = found[:limit] if limit else found
        metadata: dict[str, Any] = {"resourceVersion": self._history.version(revision)}
        if len(shown) < len(found):
            metadata["continue"] = self._packed(revision, shown[-1][0])
            if not labels and not fields:
                metadata["remainingItemCount"] = len(found) - len(shown)
        kind = target.resource.kind + "List"
        return {"kind": kind, "apiVersion": "v1", "metadata": metadata, "items": [item for _, item in shown]}

    def events_after(
        self, target: Target, version: str, selected: Callable[[Object], bool]
    ) -> Iterator[tuple[str, Object]]:
        """Types and objects of a watch's events after `version`. Raises ApiError (410, 400)."""
        changes = self._history.after(self._history.revision_of(version))
        return (
            (event[0], self._stamped(event[1], change.revision))
            for change in changes
            if _within(change.key, target) and (event := change.seen_through(selected)) is not None
        )

    # Changing

    def create(self, target: Target, body: Object, now: datetime) -> Object:
        """Adds an object. Raises ApiError: 409 when the name is taken, 422 for what no object can be."""
        made = copy.deepcopy(dict(body))
        metadata = dict(made.get("metadata") or {})
        namespace = target.namespace if target.resource.namespaced else ""
        if metadata.get("namespace", namespace) != namespace:
            raise ApiError(
                BAD_REQUEST, "the namespace of the provided object does not match the namespace sent on the request"
            )
        if metadata.get("resourceVersion"):
            raise ApiError(BAD_REQUEST, "resourceVersion should not be set on objects to be created")
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + "".join(random.choices(_SUFFIX_LETTERS, k=5))
        if not metadata.get("name"):
            raise ApiError(UNPROCESSABLE, "metadata.name: Required value: name or generateName is required")
        if namespace:
            self._ensure_namespace(namespace, now)
            metadata["namespace"] = namespace
        key = (target.resource.plural, namespace, metadata["name"])
        if key in self._objects:
            raise ApiError(CONFLICT, f'{target.resource.plural} "{metadata["name"]}" already exists', "AlreadyExists")
        metadata.update(uid=str(uuid.uuid4()), creationTimestamp=timestamp(now))
        made.update(kind=target.resource.kind, apiVersion="v1", metadata=metadata)
        _fill_in(target.resource, made, namespace)
        return self._put(key, made)

    def create_object(self, body: Object, now: datetime) -> Object:
        """Adds an object to the namespace that it names, else to `default`."""
        resource = next((one for one in RESOURCES.values() if one.kind == body.get("kind")), None)
        if resource is None:
            raise ApiError(BAD_REQUEST, f"no resource has the kind {body.get('kind')!r}")
        namespace = body.get("metadata", {}).get("namespace", "default") if resource.namespaced else ""
        return self.create(Target(resource, namespace), body, now)

    def update(self, target: Target, body: Object) -> Object:
        """Replaces an object, or its status. Raises ApiError: 409 when somebody else changed it meanwhile."""
        return self._change(target, self.get(target), body)

    def patch(self, target: Target, patch: Object) -> Object:
        """Merges a patch into an object, or into its status. Raises ApiError."""
        current = self.get(target)
        return self._change(target, current, merged(current, patch))

    def bind(self, target: Target, node: str) -> None:
        """Gives a pod its node, as the scheduler's `binding` does. Raises ApiError (404, 409)."""
        pod = self.get(target)
        if pod["spec"].get("nodeName"):
            raise ApiError(CONFLICT, f'pod {target.name} is already assigned to node "{pod["spec"]["nodeName"]}"')
        condition = {"type": "PodScheduled", "status": "True"}
        others = [one for one in pod["status"].get("conditions", []) if one["type"] != "PodScheduled"]
        bound = {"spec": {"nodeName": node}, "status": {"conditions": [*others, condition]}}
        self._put(_key(target), merged(pod, bound))

    def delete(self, target: Target, now: datetime, *, grace_seconds: int | None = None, uid: str = "") -> Object:
        """Removes an object. A pod with a node only gets a deletionTimestamp, unless its grace is 0: its kubelet
        deletes it with a grace of 0 when its containers have ended. Returns its last state. Raises ApiError (404, 409).
        """
        found = self.get(target)
        metadata = found["metadata"]
        if uid and uid != metadata["uid"]:
            raise ApiError(
                CONFLICT, f"the UID in the precondition ({uid}) does not match the UID in record ({metadata['uid']})"
            )
        if target.resource is PODS and found["spec"].get("nodeName"):
            usual = found["spec"].get("terminationGracePeriodSeconds", _DEFAULT_GRACE_SECONDS)
            grace = usual if grace_seconds is None else grace_seconds
            if grace > 0:
                if metadata.get("deletionGracePeriodSeconds", grace + 1) <= grace:
                    return found  # it ends no later for being asked twice
                ending = {
                    "deletionTimestamp": timestamp(now + timedelta(seconds=grace)),
                    "deletionGracePeriodSeconds": grace,
                }
                return self._put(_key(target), merged(found, {"metadata": ending}))
        if target.resource is NAMESPACES:
            for key in [key for key in self._objects if key[1] == target.name]:
                self._remove(key)
        return self._remove(_key(target))

    def _change(self, target: Target, current: Object, wanted: Object) -> Object:
        before, after = current["metadata"], wanted.get("metadata") or {}
        plural, name = target.resource.plural, target.name
        if after.get("resourceVersion", before["resourceVersion"]) != before["resourceVersion"]:
            what = f'Operation cannot be fulfilled on {plural} "{name}"'
            hint = "the object has been modified; please apply your changes to the latest version and try again"
            raise ApiError(CONFLICT, f"{what}: {hint}")
        if after.get("uid", before["uid"]) != before["uid"]:
            raise ApiError(CONFLICT, f'Operation cannot be fulfilled on {plural} "{name}": the UID does not match')
        if after.get("name", name) != name:
            raise ApiError(BAD_REQUEST, "the name of the object does not match the name on the URL")
        changed = copy.deepcopy(dict(wanted))
        kept = {key: before[key] for key in _KEPT_BY_SERVER if key in before}
        free = {key: value for key, value in after.items() if key not in _KEPT_BY_SERVER}
        if target.subresource == "status":
            changed = {**current, "status": changed.get("status", {})}
            free = {key: value for key, value in before.items() if key not in _KEPT_BY_SERVER}
        elif "status" in target.resource.subresources and "status" in current:
            changed["status"] = current["status"]
        changed["metadata"] = {**free, **kept, "resourceVersion": before["resourceVersion"]}
        if target.resource is PODS and _fixed(changed) != _fixed(current):
            free_fields = ", ".join(("images", *_CHANGEABLE_IN_SPEC))
            hint = f"spec: Forbidden: pod updates may not change fields other than {free_fields}"
            raise ApiError(UNPROCESSABLE, f'Pod "{name}" is invalid: {hint}')
        changed.update(kind=target.resource.kind, apiVersion="v1")
        return current if changed == current else self._put(_key(target), changed)

    def _put(self, key: Key, made: dict[str, Any]) -> Object:
        revision = self._history.revision + 1
        stored = self._stamped(made, revision)
        change = Change(revision, key, self._objects.get(key), stored)
        self._objects[key] = stored
        return self._recorded(change, stored)

    def _remove(self, key: Key) -> Object:
        last = self._objects.pop(key)
        revision = self._history.revision + 1
        return self._recorded(Change(revision, key, last, None), self._stamped(last, revision))

    def _stamped(self, stored: Object, revision: int) -> Object:
        """With the version of `revision`: a deletion's event carries that of the deletion, not of the last change."""
        return {**stored, "metadata": {**stored["metadata"], "resourceVersion": self._history.version(revision)}}

    def _recorded(self, change: Change, outcome: Object) -> Object:
        self._history.record(change)
        for notify in self.on_change:
            notify()
        return outcome

    def _ensure_namespace(self, namespace: str, now: datetime) -> None:
        if (NAMESPACES.plural, "", namespace) not in self._objects:
            self.create(Target(NAMESPACES), {"metadata": {"name": namespace}}, now)

    def _packed(self, revision: int, last: Key) -> str:
        text = json.dumps([self._history.version(revision), *last])
        return base64.urlsafe_b64encode(text.encode()).decode()

    def _unpacked(self, token: str) -> tuple[int, Key]:
        try:
            version, plural, namespace, name = json.loads(base64.urlsafe_b64decode(token))
        except (ValueError, binascii.Error):
            raise ApiError(BAD_REQUEST, "continue key is not valid") from None
        revision = self._history.revision_of(version)
        return revision, (plural, namespace, name)


def timestamp(now: datetime) -> str:
    """A time as the API writes it: seconds, in UTC."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def _key(target: Target) -> Key:
    return (target.resource.plural, target.namespace if target.resource.namespaced else "", target.name)


def _within(key: Key, target: Target) -> bool:
    return key[0] == target.resource.plural and target.namespace in ("", key[1])


def _fixed(pod: Object) -> Any:
    """What of a pod's spec may not change."""
    spec = {key: value for key, value in pod.get("spec", {}).items() if key not in _CHANGEABLE_IN_SPEC}
    for group in ("containers", "initContainers"):
        if group in spec:
            spec[group] = [{**container, "image": ""} for container in spec[group]]
    return spec


def _fill_in(resource: Resource, made: dict[str, Any], namespace: str) -> None:
    """What a server adds to a new object, and what it refuses of one. Raises ApiError (422)."""
    if resource is PODS:
        spec = made.get("spec") or {}
        if not spec.get("containers"):
            raise ApiError(UNPROCESSABLE, "spec.containers: Required value")
        made["spec"] = {
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": _DEFAULT_GRACE_SECONDS,
            "schedulerName": "default-scheduler",
            **spec,
        }
        made["status"] = {"phase": "Pending"}
    elif resource is NAMESPACES:
        made["status"] = {"phase": "Active"}
    elif resource.plural == "events":
        about = (made.get("involvedObject") or {}).get("namespace", "")
        if about != namespace and (about or namespace != "default"):
            raise ApiError(UNPROCESSABLE, "involvedObject.namespace: Invalid value: does not match event.namespace")
