"""What the chart asks of the cluster and of its hosts: exactly this, and nothing beyond."""

import pytest

from rendered_chart import CHART, Chart, Object

DOCUMENT = CHART.parents[1] / "docs" / "kubernetes.md"
NODE_CONTAINERS = {"demo-nvshare-link/link": ["SYS_PTRACE", "SYS_NICE"], "demo-nvshare-node/scheduler": [],
                   "demo-nvshare-node/device-plugin": []}  # fmt: skip
EVERYTHING: Object = {
    "emulated": {"gpus": 2},
    "hub": {"persistence": {"enabled": True}, "podDisruptionBudget": {"enabled": True}},
    "injection": {"devices": "mounts"},
}


def test_the_quota_watcher_may_read_pods_and_write_events_and_nobody_may_more(chart: Chart) -> None:
    release = chart.render(EVERYTHING)
    (role,) = release.all("ClusterRole")
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
    ]
    assert not {"Role", "RoleBinding"} & release.kinds()
    (binding,) = release.all("ClusterRoleBinding")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "demo-nvshare-quota-watcher", "namespace": "gpu"},
    ]


def test_only_the_quota_watcher_has_a_token_of_the_api_server(chart: Chart) -> None:
    release = chart.render(EVERYTHING)
    with_token = {name for name, pod in release.pods().items() if pod["automountServiceAccountToken"]}
    assert with_token == {"demo-nvshare-quota-watcher"}
    assert not [one for one in release.all("ServiceAccount") if one["automountServiceAccountToken"]]


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["as it is", "everything"])
def test_no_container_is_privileged_or_can_become_so(chart: Chart, values: Object) -> None:
    for name, container in chart.render(values).containers().items():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["capabilities"]["drop"] == ["ALL"], name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert "privileged" not in context, name


def test_root_and_rights_are_for_the_nodes_services_alone(chart: Chart) -> None:
    containers = chart.render().containers()
    assert {name: one["securityContext"]["capabilities"].get("add", []) for name, one in containers.items()
            if one["securityContext"]["runAsUser"] == 0} == NODE_CONTAINERS  # fmt: skip
    for name in containers.keys() - NODE_CONTAINERS.keys():
        assert containers[name]["securityContext"]["runAsNonRoot"] is True, name
        assert "add" not in containers[name]["securityContext"]["capabilities"], name


def test_the_hosts_processes_and_network_are_for_the_daemon_sets_alone(chart: Chart) -> None:
    pods = chart.render().pods()
    for setting in ("hostPID", "hostNetwork"):
        assert {name for name, pod in pods.items() if pod.get(setting)} == {"demo-nvshare-link", "demo-nvshare-node"}
    assert not [name for name, pod in chart.render(EVERYTHING).pods().items() if pod.get("hostIPC")]


def test_a_program_on_emulated_gpus_has_the_hosts_numbers(chart: Chart) -> None:
    assert chart.render({"emulated": {"gpus": 1}}).pods()["demo-nvshare-test"]["hostPID"] is True


def test_each_folder_of_the_host_that_is_mounted_is_in_the_documents_table(chart: Chart) -> None:
    found = {
        (name.removeprefix("demo-nvshare-"), volume["hostPath"]["path"])
        for values in ({}, EVERYTHING, {"injection": {"devices": "mounts"}})
        for name, pod in chart.render(values).pods().items()
        for volume in pod.get("volumes", [])
        if "hostPath" in volume
    }
    table = [line.split("|") for line in DOCUMENT.read_text().splitlines() if line.startswith("| `/")]
    documented = {(pod.strip(), path.strip(" `")) for _, path, pods, *_ in table for pod in pods.split(",")}
    assert found == documented


def test_what_the_node_only_reads_it_cannot_write(chart: Chart) -> None:
    release = chart.render()
    mounts = release.containers()["demo-nvshare-node/device-plugin"]["volumeMounts"]
    assert [one["name"] for one in mounts if one.get("readOnly")] == ["pod-resources"]
    assert "device-plugins" not in str(release.containers()["demo-nvshare-node/scheduler"]["volumeMounts"])


def test_who_logs_in_at_the_hub_gets_one_password_of_it(chart: Chart) -> None:
    pods = chart.render().pods()
    for name, user in (("demo-nvshare-link", "leaf"), ("demo-nvshare-quota-watcher", "watcher")):
        (volume,) = (one["secret"] for one in pods[name]["volumes"] if "secret" in one)
        assert volume["items"] == [{"key": user, "path": user}]
    assert not [one for one in pods["demo-nvshare-node"]["volumes"] if "secret" in one]


def test_passwords_are_long_and_of_this_install(chart: Chart) -> None:
    first, second = (chart.render(revision=number).get("Secret", "demo-nvshare-hub")["stringData"] for number in (1, 2))
    assert not set(first.values()) & set(second.values())
    for user in ("leaf", "watcher", "tool"):
        password = first[f"{user}-password"]
        assert len(password) > 40
        assert password.isalnum()
        assert password[0].isalpha()
        assert first[user] == f"{user}:{password}"


def test_no_image_is_of_a_tag_that_moves(chart: Chart) -> None:
    for name, container in chart.render().containers().items():
        _, separator, tag = container["image"].rpartition(":")
        assert separator, name
        assert tag != "latest", name
