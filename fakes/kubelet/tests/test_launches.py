"""What a container is started with: the pod's words, the Downward API, the plugins' answers."""

from typing import Any

import pytest

from nvshare.fake_kubelet.launches import Launch, expand, launch
from nvshare.fake_kubelet.pods import Container, Kind, Pod, PodError, parse_pod
from nvshare.fake_kubelet.run_options import Mount, RunOptions, merge
from nvshare.kubelet.device_plugin_pb2 import ContainerAllocateResponse

METADATA = {
    "name": "web",
    "namespace": "shop",
    "uid": "1-2",
    "labels": {"app": "web"},
    "annotations": {"example.com/a": "b"},
}


def pod_of(container: dict[str, Any], **spec: Any) -> Pod:
    return parse_pod({"metadata": METADATA, "spec": {"containers": [{"name": "main", **container}], **spec}})


def launched(container: dict[str, Any], options: RunOptions | None = None, **spec: Any) -> Launch:
    pod = pod_of(container, **spec)
    return launch(
        pod,
        pod.container("main"),
        options or RunOptions(),
        node_address="10.0.0.1",
        volume_path=lambda name: f"/volumes/{name}",
    )


def test_only_limits_with_a_domain_are_devices() -> None:
    pod = pod_of({"resources": {"limits": {"example.com/device": "2", "example.com/none": 0, "cpu": "1500m"}}})

    assert pod.container("main").limits == {"example.com/device": 2}


def test_init_containers_come_first_and_some_of_them_are_sidecars() -> None:
    pod = pod_of({}, initContainers=[{"name": "one"}, {"name": "two", "restartPolicy": "Always"}])

    kinds = [(container.name, container.kind) for container in pod.containers]
    assert kinds == [("one", Kind.INIT), ("two", Kind.SIDECAR), ("main", Kind.APP)]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "1-2"),
        ("metadata.labels['app']", "web"),
        ("metadata.annotations['example.com/a']", "b"),
        ("metadata.labels['none']", ""),
        ("spec.nodeName", "n1"),
        ("status.hostIP", "10.0.0.1"),
    ],
)
def test_fields_of_the_pod_are_in_the_environment(path: str, value: str) -> None:
    variable = {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}

    assert launched({"env": [variable]}, nodeName="n1").environment["X"] == value


def test_a_limit_of_the_container_is_in_the_environment() -> None:
    variable = {"name": "X", "valueFrom": {"resourceFieldRef": {"resource": "limits.example.com/device"}}}

    told = launched({"env": [variable], "resources": {"limits": {"example.com/device": 3}}})

    assert told.environment["X"] == "3"


def test_a_variable_may_use_an_earlier_one() -> None:
    variables = [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A) $(C)"}, {"name": "C", "value": "3"}]

    assert launched({"env": variables}).environment["B"] == "1 $(C)"


@pytest.mark.parametrize(
    ("text", "value"),
    [("$(A)b", "1b"), ("$(none)", "$(none)"), ("$$(A)", "$(A)"), ("$$$(A)", "$1"), ("$A ${A}", "$A ${A}"), ("$", "$")],
)
def test_references_are_expanded_as_kubelet_does(text: str, value: str) -> None:
    assert expand(text, {"A": "1"}) == value


def test_command_and_arguments_are_expanded() -> None:
    told = launched({"command": ["run", "$(A)"], "args": ["$(A)"], "env": [{"name": "A", "value": "1"}]})

    assert (told.command, told.args) == (("run", "1"), ("1",))


def test_the_pods_own_variable_wins_over_a_plugins() -> None:
    told = launched({"env": [{"name": "A", "value": "own"}]}, RunOptions(environment={"A": "plugin", "B": "plugin"}))

    assert told.environment == {"HOSTNAME": "web", "A": "own", "B": "plugin"}


def test_volumes_are_mounted_beside_the_plugins_mounts() -> None:
    mounts = [
        {"name": "data", "mountPath": "/data", "subPath": "x", "readOnly": True},
        {"name": "own", "mountPath": "/o"},
    ]
    volumes = [{"name": "data", "hostPath": {"path": "/srv"}}, {"name": "own", "emptyDir": {}}]

    told = launched({"volumeMounts": mounts}, RunOptions(mounts=(Mount("/p", "/h"),)), volumes=volumes)

    assert told.mounts == (Mount("/p", "/h"), Mount("/data", "/srv/x", True), Mount("/o", "/volumes/own"))


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(PodError, match=r"status\.nothing"):
        launched({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "status.nothing"}}}]})


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"metadata": METADATA, "spec": {}},
        {"metadata": METADATA, "spec": {"containers": [{"name": "a", "envFrom": [{}]}]}},
        {"metadata": METADATA, "spec": {"containers": [], "restartPolicy": "Sometimes"}},
        {"metadata": METADATA, "spec": {"containers": [{"name": "a", "resources": {"limits": {"e.com/x": "1.5"}}}]}},
        {"metadata": METADATA, "spec": {"containers": [{"name": "a", "volumeMounts": [{"name": "none"}]}]}},
    ],
)
def test_what_cannot_be_run_here_is_no_pod(document: dict[str, Any]) -> None:
    with pytest.raises(PodError):
        parse_pod(document)


def test_of_several_answers_the_first_one_counts() -> None:
    first, second = ContainerAllocateResponse(envs={"A": "1"}), ContainerAllocateResponse(envs={"A": "2", "B": "2"})
    first.mounts.add(container_path="/x", host_path="/1", read_only=True)
    second.mounts.add(container_path="/x", host_path="/2")
    second.devices.add(container_path="/dev/x", host_path="/dev/y", permissions="rw")
    second.cdi_devices.add(name="e.com/x=1")

    options = merge([first.SerializeToString(), second.SerializeToString()])

    assert options.environment == {"A": "1", "B": "2"}
    assert options.mounts == (Mount("/x", "/1", True),)
    assert [node.host_path for node in options.devices] == ["/dev/y"]
    assert options.cdi_devices == ("e.com/x=1",)


def test_a_container_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Pod("a", "b", (Container("c"),)).container("d")
