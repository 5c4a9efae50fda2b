"""What the chart tells each service is what that service reads."""

from collections.abc import Mapping
from typing import Any

import pytest
import typer
from pydantic_settings import BaseSettings

from nvshare.bus.hub_access import CLIENT_PORT, LEAF_PORT
from nvshare.cli.hub import MONITOR_PORT
from nvshare.cli.main import app
from nvshare.device_plugin.settings import Settings as DevicePlugin
from nvshare.quota_watcher.settings import Settings as QuotaWatcher
from nvshare.relay.settings import Settings as Relay
from nvshare.scheduler.settings import Settings as Scheduler
from rendered_chart import Chart, Object

SERVICES: Mapping[str, type[BaseSettings]] = {
    "node/scheduler": Scheduler,
    "node/device-plugin": DevicePlugin,
    "quota-watcher/quota-watcher": QuotaWatcher,
}
# Read by nvshare.bus.runtime in every service, and by the emulator's libraries.
BY_ALL = {"NVSHARE_LOG"}
BY_EMULATOR = {"NVSHARE_EMULATOR_DEVICES", "NVSHARE_EMULATOR_DIR", "NVSHARE_EMULATOR_MEMORY"}
# Settings for which the chart has no value, and why.
LEFT_OUT = {
    "node/scheduler": {
        "node": "what node.json says",
        "nats_url": "what node.json says",
    },
    "node/device-plugin": {
        "node": "what node.json says",
        "nats_url": "what node.json says",
        "kubelet_dir": "mounted where the service looks",
        "pod_resources_socket": "mounted where the service looks",
        "emulator_dir": "of emulated GPUs",
        "emulator_libraries": "of emulated GPUs",
        "absent_seconds": "for tests",
        "reconcile_seconds": "for tests",
    },
    "quota-watcher/quota-watcher": {
        "api_server": "the pod's service account",
        "kubeconfig": "the pod's service account",
        "health_port": "where the probes ask",
    },
}
EXISTING_HUB = {
    "leafUrl": "tls://hub.example:7422",
    "url": "tls://hub.example:4222",
    "secret": "theirs",
    "caSecret": "certificates",
}
# A value of the chart, what is given, and the setting that it becomes.
REACHES = [
    ("nodeFolder", "/data/nvshare", "node/scheduler", "node_dir", "/data/nvshare"),
    ("nodeFolder", "/data/nvshare", "node/device-plugin", "node_dir", "/data/nvshare"),
    ("sharing.resource", "example.com/share", "node/device-plugin", "resource", "example.com/share"),
    ("sharing.shares", 4, "node/device-plugin", "shares", "4"),
    ("sharing.sharesByGpu", {"1": 2}, "node/device-plugin", "shares", "10,1=2"),
    ("sharing.gpus", "0,2", "node/scheduler", "gpus", "0,2"),
    ("sharing.gpus", "0,2", "node/device-plugin", "gpus", "0,2"),
    ("sharing.gpuMemory", "16GiB", "node/scheduler", "gpu_memory", 16 * 2**30),
    ("sharing.gpuMemory", "16GiB", "node/device-plugin", "gpu_memory", 16 * 2**30),
    ("sharing.reserve", "1Gi", "node/scheduler", "reserve", 2**30),
    ("sharing.reserve", "0", "node/scheduler", "reserve", 0),
    ("sharing.overcommit", 1.5, "node/scheduler", "overcommit", 1.5),
    ("sharing.overcommit", 1.5, "node/device-plugin", "overcommit", 1.5),
    ("sharing.policy", "packed", "node/device-plugin", "allocation_policy", "packed"),
    ("sharing.topology", True, "node/device-plugin", "topology", True),
    ("sharing.ignoredXids", "63,-13", "node/device-plugin", "ignored_xids", "63,-13"),
    ("sharing.mode", "serial", "node/scheduler", "mode", "serial"),
    ("sharing.timeSharing", "slots", "node/scheduler", "time_sharing", "slots"),
    ("sharing.quantum", 2.5, "node/scheduler", "quantum", 2.5),
    ("sharing.quantum", "auto", "node/scheduler", "quantum", "auto"),
    ("sharing.maxWaitSeconds", 20, "node/scheduler", "max_wait", 20.0),
    ("sharing.gangs", "off", "node/scheduler", "gangs", "off"),
    ("defaultQuota.memory", "4Gi", "node/device-plugin", "default_memory", 4 * 2**30),
    ("defaultQuota.cores", 30, "node/device-plugin", "default_cores", 30),
    ("defaultQuota.waitSeconds", 2, "node/device-plugin", "quota_wait_seconds", 2.0),
    ("injection.library", "environment", "node/device-plugin", "injection", "environment"),
    ("injection.devices", "cdi", "node/device-plugin", "device_list", "cdi"),
    ("injection.devices", "mounts", "node/device-plugin", "device_list", "mounts"),
    ("emulated.gpus", 2, "node/device-plugin", "device_list", "emulated"),
    ("emulated.gpus", 2, "node/device-plugin", "emulator_dir", "/var/lib/nvshare/emulated-cards"),
    ("emulated.gpus", 2, "node/device-plugin", "emulator_libraries", "/var/lib/nvshare/emulator"),
    ("node.devicePlugin.seLinuxLabel", "a:b:c:s0", "node/device-plugin", "selinux_label", "a:b:c:s0"),
    ("namespaceOverride", "a", "quota-watcher/quota-watcher", "hub_url", "nats://demo-nvshare-hub.a.svc:4222"),
    ("hub.existing", EXISTING_HUB, "quota-watcher/quota-watcher", "hub_url", "tls://hub.example:4222"),
    ("hub.existing", EXISTING_HUB, "quota-watcher/quota-watcher", "hub_credentials", "/etc/nvshare/hub/watcher"),
    ("hub.existing", EXISTING_HUB, "quota-watcher/quota-watcher", "hub_ca", "/etc/nvshare/hub-ca/ca.crt"),
]


def given_as_values(path: str, value: Any) -> Object:
    for name in reversed(path.split(".")):
        value = {name: value}
    return dict(value)


def settings_of(chart: Chart, service: str, values: Object, monkeypatch: pytest.MonkeyPatch) -> BaseSettings:
    """The service's settings, read as it reads them."""
    for name, value in chart.render(values).environment(f"demo-nvshare-{service}").items():
        if value is not None:
            monkeypatch.setenv(name, value)
    return SERVICES[service]()


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_starts_with_what_it_is_told(chart: Chart, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings_of(chart, service, {}, monkeypatch)


@pytest.mark.parametrize(("path", "value", "service", "setting", "expected"), REACHES, ids=lambda one: str(one)[:40])
def test_a_value_becomes_the_services_setting(
    chart: Chart,
    path: str,
    value: Any,
    service: str,
    setting: str,
    expected: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = getattr(settings_of(chart, service, given_as_values(path, value), monkeypatch), setting)
    assert found == expected or str(found) == expected


@pytest.mark.parametrize("service", SERVICES)
def test_no_variable_is_one_that_the_service_does_not_read(chart: Chart, service: str) -> None:
    known = {f"NVSHARE_{name.upper()}" for name in SERVICES[service].model_fields} | BY_ALL | BY_EMULATOR
    told = {
        name
        for path, value in {path: value for path, value, *_ in REACHES}.items()
        for name in chart.render(given_as_values(path, value)).environment(f"demo-nvshare-{service}")
    }
    assert {name for name in told if name.startswith("NVSHARE_")} - known == set()


@pytest.mark.parametrize("service", SERVICES)
def test_each_setting_of_a_service_has_a_value_or_a_reason(service: str) -> None:
    reached = {setting for _, _, other, setting, _ in REACHES if other == service}
    assert SERVICES[service].model_fields.keys() - reached - LEFT_OUT[service].keys() == set()


@pytest.mark.parametrize("service", [name for name in SERVICES if name.startswith("node/")])
def test_the_defaults_are_those_of_the_service(chart: Chart, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = settings_of(chart, service, {}, monkeypatch).model_dump()
    with monkeypatch.context() as patch:
        for name in SERVICES[service].model_fields:
            patch.delenv(f"NVSHARE_{name.upper()}", raising=False)
        own = SERVICES[service]().model_dump()
    told.pop("node_dir"), own.pop("node_dir")  # the services' own default is a user's
    assert told == own


def test_the_probes_ask_where_the_quota_watcher_answers(chart: Chart) -> None:
    container = chart.render().containers()["demo-nvshare-quota-watcher/quota-watcher"]
    (port,) = container["ports"]
    environment = chart.render().environment("demo-nvshare-quota-watcher/quota-watcher")
    assert str(port["containerPort"]) == environment["NVSHARE_HEALTH_PORT"]
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": port["name"]}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port["name"]}


def options_of(command: str) -> dict[str, str]:
    """The options of an `nvshare` command, and the variables in their place."""
    group = typer.main.get_group(app)
    parameters = group.commands[command].params
    return {option: str(one.envvar or "") for one in parameters for option in one.opts}


def test_the_link_is_told_by_the_variables_of_its_command_and_of_the_relay(chart: Chart) -> None:
    release = chart.render({"hub": {"existing": EXISTING_HUB}, "sharing": {"hostMemory": "64GiB"}})
    (word,) = release.containers()["demo-nvshare-link/link"]["args"]
    relay = {f"NVSHARE_{name.upper()}" for name in Relay.model_fields}
    told = release.environment("demo-nvshare-link/link")
    assert told.keys() - {*options_of(word).values(), "NVSHARE_ARENA", "NVSHARE_NODE_DIR", *BY_ALL} == set()
    assert {"NVSHARE_ARENA", "NVSHARE_NODE_DIR"} <= relay


def test_the_hub_is_told_by_the_options_and_variables_of_its_command(chart: Chart) -> None:
    release = chart.render({"hub": {"tlsSecret": "certificate"}})
    container = release.containers()["demo-nvshare-hub/hub"]
    word, *given = container["args"]
    known = options_of(word)
    assert {option.partition("=")[0] for option in given} - known.keys() == set()
    passwords = {f"NVSHARE_HUB_{user}_PASSWORD" for user in ("LEAF", "WATCHER", "TOOL")}
    assert release.environment("demo-nvshare-hub/hub").keys() - {*known.values(), *passwords} == set()


def test_the_hub_listens_where_the_chart_looks_for_it(chart: Chart) -> None:
    (container,) = chart.render().pods()["demo-nvshare-hub"]["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports == {"nats": CLIENT_PORT, "leaf": LEAF_PORT, "monitor": MONITOR_PORT}


def test_the_nodes_name_on_the_bus_is_kubernetes_name_for_it(chart: Chart) -> None:
    (variable,) = (
        one for one in chart.render().containers()["demo-nvshare-link/link"]["env"] if one["name"] == "NVSHARE_NODE"
    )
    assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
