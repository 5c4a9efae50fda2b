"""What the chart renders to: without any value given, and with each switch on and off."""

import helm_python
import pytest

from rendered_chart import CHART, Chart, Object

EXISTING_HUB = {"leafUrl": "tls://hub.example:7422", "url": "tls://hub.example:4222", "secret": "theirs"}
COMPONENTS = {"link": ("link",), "node": ("node",), "quota-watcher": ("quotaWatcher",), "hub": ("hub",)}
CONTAINERS = {
    "link/link": "link",
    "node/scheduler": "node.scheduler",
    "node/device-plugin": "node.devicePlugin",
    "quota-watcher/quota-watcher": "quotaWatcher",
    "hub/hub": "hub",
}


def set_value(path: str, value: object) -> Object:
    for name in reversed(path.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def container_name(container: str) -> str:
    return f"demo-nvshare-{container}"


def test_helm_finds_nothing_to_complain_about() -> None:
    report = helm_python.lint(CHART, {}, strict=True, namespace="gpu")
    assert report["errors"] == []
    assert [one["error"] for one in report["messages"]] == ["icon is recommended"]


def test_without_any_value_all_parts_are_there(chart: Chart) -> None:
    release = chart.render()
    assert {(one["kind"], one["metadata"]["name"]) for one in release.objects} == {
        ("DaemonSet", "demo-nvshare-link"),
        ("DaemonSet", "demo-nvshare-node"),
        ("Deployment", "demo-nvshare-quota-watcher"),
        ("StatefulSet", "demo-nvshare-hub"),
        ("Service", "demo-nvshare-hub"),
        ("Secret", "demo-nvshare-hub"),
        ("ClusterRole", "demo-nvshare-quota-watcher"),
        ("ClusterRoleBinding", "demo-nvshare-quota-watcher"),
        ("ServiceAccount", "demo-nvshare-link"),
        ("ServiceAccount", "demo-nvshare-node"),
        ("ServiceAccount", "demo-nvshare-quota-watcher"),
        ("ServiceAccount", "demo-nvshare-hub"),
        ("Pod", "demo-nvshare-test"),
    }


def test_a_release_called_like_the_chart_does_not_say_it_twice(chart: Chart) -> None:
    names = {one["metadata"]["name"] for one in chart.render(name="nvshare").objects}
    assert "nvshare-link" in names


def test_names_can_be_chosen_and_stay_within_what_kubernetes_allows(chart: Chart) -> None:
    assert "gpus-link" in chart.render({"fullnameOverride": "gpus"}).workloads()
    assert "demo-gpus-link" in chart.render({"nameOverride": "gpus"}).workloads()
    assert max(len(one["metadata"]["name"]) for one in chart.render(name="r" * 53).objects) <= 63


def test_all_objects_of_a_namespace_are_in_one(chart: Chart) -> None:
    for values, namespace in (({}, "gpu"), ({"namespaceOverride": "other"}, "other")):
        release = chart.render(values)
        found = {one["metadata"].get("namespace") for one in release.objects if not one["kind"].startswith("Cluster")}
        assert found == {namespace}
        (binding,) = release.all("ClusterRoleBinding")
        assert [one["namespace"] for one in binding["subjects"]] == [namespace]
        assert release.environment("demo-nvshare-link/link")["NVSHARE_HUB_URL"] == (
            f"nats-leaf://demo-nvshare-hub.{namespace}.svc:7422"
        )


def test_every_object_has_the_recommended_labels_and_those_of_the_user(chart: Chart) -> None:
    for one in chart.render({"commonLabels": {"team": "vision"}}).objects:
        labels = dict(one["metadata"]["labels"])
        assert labels.pop("app.kubernetes.io/component") in {*COMPONENTS, "test"}
        assert labels == {
            "app.kubernetes.io/name": "nvshare",
            "app.kubernetes.io/instance": "demo",
            "app.kubernetes.io/version": chart.loaded.metadata["appVersion"],
            "app.kubernetes.io/part-of": "nvshare",
            "app.kubernetes.io/managed-by": "Helm",
            "helm.sh/chart": f"nvshare-{chart.loaded.version}",
            "team": "vision",
        }


def test_images_are_of_the_charts_own_version_until_told_otherwise(chart: Chart) -> None:
    version = chart.loaded.metadata["appVersion"]
    images = {name: one["image"] for name, one in chart.render().containers().items()}
    assert images == {
        "demo-nvshare-link/link": f"nvshare/link:{version}",
        "demo-nvshare-node/scheduler": f"nvshare/scheduler:{version}",
        "demo-nvshare-node/device-plugin": f"nvshare/device-plugin:{version}",
        "demo-nvshare-quota-watcher/quota-watcher": f"nvshare/quota-watcher:{version}",
        "demo-nvshare-hub/hub": f"nvshare/link:{version}",
        "demo-nvshare-test/share": f"nvshare/link:{version}",
    }
    values = {"image": {"registry": "registry.example:5000/team", "tag": "1.2"}, "link": {"image": {"tag": "1.1"}}}
    given = {name: one["image"] for name, one in chart.render(values).containers().items()}
    assert given["demo-nvshare-link/link"] == "registry.example:5000/team/nvshare/link:1.1"
    assert given["demo-nvshare-node/scheduler"] == "registry.example:5000/team/nvshare/scheduler:1.2"


def test_all_pods_pull_with_the_secrets_and_the_policy_that_are_given(chart: Chart) -> None:
    release = chart.render({"imagePullSecrets": [{"name": "pull"}], "image": {"pullPolicy": "Always"}})
    assert all(one["imagePullSecrets"] == [{"name": "pull"}] for one in release.pods().values())
    assert {one["imagePullPolicy"] for one in release.containers().values()} == {"Always"}
    assert not [one for one in chart.render().pods().values() if "imagePullSecrets" in one]


def test_both_daemon_sets_and_the_test_go_to_the_same_nodes(chart: Chart) -> None:
    term = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    values = {"nodeSelector": {"gpu": "yes"}, "tolerations": [{"operator": "Exists"}], "affinity": affinity}
    pods = chart.render(values).pods()
    for name in ("demo-nvshare-link", "demo-nvshare-node", "demo-nvshare-test"):
        assert pods[name]["nodeSelector"] == {"gpu": "yes", "nvshare.com/share": "true"}
        assert pods[name]["tolerations"] == [{"operator": "Exists"}]
        assert pods[name]["affinity"] == affinity
    for name in ("demo-nvshare-quota-watcher", "demo-nvshare-hub"):
        assert not {"nodeSelector", "tolerations", "affinity"} & pods[name].keys()


@pytest.mark.parametrize("component", ["quota-watcher", "hub"])
def test_the_parts_that_are_on_no_node_have_a_place_of_their_own(chart: Chart, component: str) -> None:
    place = {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "affinity": {"podAffinity": {}}}
    pods = chart.render(set_value(COMPONENTS[component][0], place)).pods()
    assert {key: pods[f"demo-nvshare-{component}"][key] for key in place} == place


def test_nobody_has_a_priority_class_that_was_not_given(chart: Chart) -> None:
    assert not [one for one in chart.render().pods().values() if "priorityClassName" in one]


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_part_takes_a_priority_labels_annotations_and_an_account(chart: Chart, component: str) -> None:
    given = {
        "priorityClassName": "high",
        "podLabels": {"team": "vision"},
        "podAnnotations": {"note": "1"},
        "serviceAccount": {"create": False, "name": "mine"},
    }
    release = chart.render(set_value(COMPONENTS[component][0], given))
    template = release.workloads()[f"demo-nvshare-{component}"]["spec"]["template"]
    assert template["spec"]["priorityClassName"] == "high"
    assert template["metadata"]["labels"]["team"] == "vision"
    assert template["metadata"]["annotations"] == {"note": "1"}
    assert template["spec"]["serviceAccountName"] == "mine"
    assert f"demo-nvshare-{component}" not in {one["metadata"]["name"] for one in release.all("ServiceAccount")}


@pytest.mark.parametrize("component", COMPONENTS)
def test_labels_of_the_user_never_take_the_selectors_place(chart: Chart, component: str) -> None:
    taken = {"podLabels": {"app.kubernetes.io/component": "mine"}}
    workload = chart.render(set_value(COMPONENTS[component][0], taken)).workloads()[f"demo-nvshare-{component}"]
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("container", CONTAINERS)
def test_each_container_takes_resources_and_variables(chart: Chart, container: str) -> None:
    given = {"resources": {"limits": {"cpu": 2}}, "extraEnv": [{"name": "NVSHARE_MORE", "value": "1"}]}
    found = chart.render(set_value(CONTAINERS[container], given)).containers()[container_name(container)]
    assert found["resources"]["limits"]["cpu"] == 2
    assert found["env"][-1] == {"name": "NVSHARE_MORE", "value": "1"}


@pytest.mark.parametrize("container", [name for name in CONTAINERS if name != "hub/hub"])
def test_each_service_logs_as_it_is_told(chart: Chart, container: str) -> None:
    release = chart.render(set_value(f"{CONTAINERS[container]}.logLevel", "debug"))
    assert release.environment(container_name(container))["NVSHARE_LOG"] == "debug"


def test_accounts_take_annotations(chart: Chart) -> None:
    release = chart.render({"quotaWatcher": {"serviceAccount": {"annotations": {"role": "x"}}}})
    account = release.get("ServiceAccount", "demo-nvshare-quota-watcher")
    assert account["metadata"]["annotations"] == {"role": "x"}


def test_the_runtime_class_is_for_those_who_need_the_driver(chart: Chart) -> None:
    pods = chart.render({"runtimeClassName": "nvidia"}).pods()
    assert {name for name, one in pods.items() if one.get("runtimeClassName") == "nvidia"} == {
        "demo-nvshare-node",
        "demo-nvshare-test",
    }


def test_another_kubelet_has_its_sockets_elsewhere(chart: Chart) -> None:
    volumes = chart.render({"kubelet": {"path": "/var/lib/k0s/kubelet"}}).pods()["demo-nvshare-node"]["volumes"]
    paths = {one["name"]: one["hostPath"]["path"] for one in volumes if "hostPath" in one}
    assert paths["device-plugins"] == "/var/lib/k0s/kubelet/device-plugins"
    assert paths["pod-resources"] == "/var/lib/k0s/kubelet/pod-resources"


def test_the_nodes_folder_has_one_path_inside_and_outside(chart: Chart) -> None:
    release = chart.render({"nodeFolder": "/data/nvshare"})
    for name in ("demo-nvshare-link", "demo-nvshare-node"):
        pod = release.pods()[name]
        (volume,) = (one for one in pod["volumes"] if one["name"] == "node")
        assert volume["hostPath"] == {"path": "/data/nvshare", "type": "DirectoryOrCreate"}
        for container in pod["containers"]:
            (mount,) = (one for one in container["volumeMounts"] if one["name"] == "node")
            assert mount["mountPath"] == "/data/nvshare"
            assert release.environment(f"{name}/{container['name']}")["NVSHARE_NODE_DIR"] == "/data/nvshare"


def test_selinux_options_are_for_the_nodes_services(chart: Chart) -> None:
    containers = chart.render({"seLinuxOptions": {"type": "spc_t"}}).containers()
    assert {name for name, one in containers.items() if "seLinuxOptions" in one["securityContext"]} == {
        "demo-nvshare-link/link",
        "demo-nvshare-node/scheduler",
        "demo-nvshare-node/device-plugin",
    }


def test_services_ask_the_real_driver_unless_the_gpus_are_emulated(chart: Chart) -> None:
    for container in ("scheduler", "device-plugin"):
        real = chart.render().environment(f"demo-nvshare-node/{container}")
        assert real["NVIDIA_VISIBLE_DEVICES"] == "all"
        assert not [name for name in real if "EMULATOR" in name]
        emulated = chart.render({"emulated": {"gpus": 2}}).environment(f"demo-nvshare-node/{container}")
        assert emulated["NVSHARE_EMULATOR_DEVICES"] == "2"
        assert emulated["LD_LIBRARY_PATH"] == "/var/lib/nvshare/emulator"
        assert not [name for name in emulated if name.startswith("NVIDIA_")]


def test_emulated_gpus_are_handed_on_as_such(chart: Chart) -> None:
    plugin = chart.render({"emulated": {"gpus": 2}}).environment("demo-nvshare-node/device-plugin")
    assert plugin["NVSHARE_DEVICE_LIST"] == "emulated"
    assert plugin["NVSHARE_EMULATOR_LIBRARIES"] == plugin["LD_LIBRARY_PATH"]


def test_where_the_toolkit_believes_mounts_only_the_services_ask_by_a_mount(chart: Chart) -> None:
    release = chart.render({"injection": {"devices": "mounts"}})
    (volume,) = (one for one in release.pods()["demo-nvshare-node"]["volumes"] if one["name"] == "all-gpus")
    assert volume["hostPath"] == {"path": "/dev/null"}
    for container in ("scheduler", "device-plugin"):
        mounts = release.containers()[f"demo-nvshare-node/{container}"]["volumeMounts"]
        assert {"name": "all-gpus", "mountPath": "/var/run/nvidia-container-devices/all"} in mounts
    assert "all-gpus" not in str(chart.render().objects)


def test_some_gpus_have_other_numbers_of_shares(chart: Chart) -> None:
    values = {"sharing": {"shares": 8, "sharesByGpu": {"0": 4, "GPU-12ab": 0}}}
    assert chart.render(values).environment("demo-nvshare-node/device-plugin")["NVSHARE_SHARES"] == "8,0=4,GPU-12ab=0"


def test_an_existing_hub_takes_the_place_of_the_charts_own(chart: Chart) -> None:
    release = chart.render({"hub": {"existing": EXISTING_HUB}})
    assert not {"StatefulSet", "Service", "Secret"} & release.kinds()
    assert "demo-nvshare-hub" not in str(release.objects)
    link, watcher = "demo-nvshare-link/link", "demo-nvshare-quota-watcher/quota-watcher"
    assert release.environment(link)["NVSHARE_HUB_URL"] == "tls://hub.example:7422"
    assert release.environment(watcher)["NVSHARE_HUB_URL"] == "tls://hub.example:4222"
    for pod in (link, watcher):
        volumes = release.pods()[pod.partition("/")[0]]["volumes"]
        assert [one["secret"]["secretName"] for one in volumes if "secret" in one] == ["theirs"]


def test_an_existing_hub_is_judged_by_the_certificates_that_are_given(chart: Chart) -> None:
    release = chart.render({"hub": {"existing": {**EXISTING_HUB, "caSecret": "certificates"}}})
    for container in ("demo-nvshare-link/link", "demo-nvshare-quota-watcher/quota-watcher"):
        assert release.environment(container)["NVSHARE_HUB_CA"] == "/etc/nvshare/hub-ca/ca.crt"
        assert "/etc/nvshare/hub-ca" in str(release.containers()[container]["volumeMounts"])


def test_with_a_certificate_the_hub_and_all_who_come_to_it_speak_tls(chart: Chart) -> None:
    release = chart.render({"hub": {"tlsSecret": "certificate"}})
    hub = release.containers()["demo-nvshare-hub/hub"]
    assert "--certificate=/etc/nvshare/hub-tls/tls.crt" in hub["args"]
    assert "--certificate-key=/etc/nvshare/hub-tls/tls.key" in hub["args"]
    for container, port in (("demo-nvshare-link/link", 7422), ("demo-nvshare-quota-watcher/quota-watcher", 4222)):
        environment = release.environment(container)
        assert environment["NVSHARE_HUB_URL"] == f"tls://demo-nvshare-hub.gpu.svc:{port}"
        assert environment["NVSHARE_HUB_CA"] == "/etc/nvshare/hub-ca/ca.crt"
        volumes = release.pods()[container.partition("/")[0]]["volumes"]
        (authority,) = (one["secret"] for one in volumes if one["name"] == "hub-ca")
        assert authority == {"secretName": "certificate", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    assert "certificate" not in str(chart.render().workloads()["demo-nvshare-hub"])


def test_a_further_release_has_no_quota_watcher(chart: Chart) -> None:
    release = chart.render({"quotaWatcher": {"enabled": False}, "hub": {"existing": EXISTING_HUB}})
    assert {one["metadata"]["name"] for one in release.objects} == {
        "demo-nvshare-link",
        "demo-nvshare-node",
        "demo-nvshare-test",
    }


def test_passwords_can_be_made_beforehand(chart: Chart) -> None:
    release = chart.render({"hub": {"secret": "mine"}})
    assert release.all("Secret") == []
    assert "'mine'" in str(release.containers()["demo-nvshare-hub/hub"]["env"])


def test_what_the_hub_keeps_is_on_a_volume_only_where_it_was_asked_for(chart: Chart) -> None:
    assert "volumeClaimTemplates" not in chart.render().workloads()["demo-nvshare-hub"]["spec"]
    persistence = {"enabled": True, "size": "5Gi", "storageClassName": "fast"}
    spec = chart.render({"hub": {"persistence": persistence}}).workloads()["demo-nvshare-hub"]["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "5Gi"
    assert claim["spec"]["storageClassName"] == "fast"
    assert "data" not in [one["name"] for one in spec["template"]["spec"]["volumes"]]


def test_a_disruption_budget_is_for_the_hub_and_only_when_asked_for(chart: Chart) -> None:
    assert chart.render().all("PodDisruptionBudget") == []
    release = chart.render({"hub": {"podDisruptionBudget": {"enabled": True}}})
    (budget,) = release.all("PodDisruptionBudget")
    assert budget["spec"]["selector"] == release.workloads()["demo-nvshare-hub"]["spec"]["selector"]


def test_rights_can_be_left_to_others(chart: Chart) -> None:
    assert not {"ClusterRole", "ClusterRoleBinding"} & chart.render({"rbac": {"create": False}}).kinds()


def test_the_test_can_be_left_out_and_is_no_part_of_the_release(chart: Chart) -> None:
    (pod,) = chart.render().all("Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"nvshare.com/gpu": 1}
    assert chart.render({"test": {"enabled": False}}).all("Pod") == []


def test_another_resource_is_what_the_test_asks_for(chart: Chart) -> None:
    release = chart.render({"sharing": {"resource": "example.com/share"}})
    assert release.all("Pod")[0]["spec"]["containers"][0]["resources"]["limits"] == {"example.com/share": 1}
    assert release.environment("demo-nvshare-node/device-plugin")["NVSHARE_RESOURCE"] == "example.com/share"


def test_the_notes_say_what_to_do_next(chart: Chart) -> None:
    notes = chart.render().notes
    assert "kubectl label node NODE nvshare.com/share=true" in notes
    assert "helm test demo --namespace gpu" in notes
    assert "emulated" not in notes
    others = {
        "emulated": {"gpus": 2},
        "test": {"enabled": False},
        "link": {"updateStrategy": {"type": "RollingUpdate"}},
    }
    other_notes = chart.render(others).notes
    assert "The GPUs are emulated: 2 a node" in other_notes
    assert "helm test" not in other_notes
    assert "kubectl delete pod" not in other_notes
