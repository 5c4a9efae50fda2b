"""What an upgrade changes, and what it must leave as it is."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import helm_python
import pytest
import yaml

from rendered_chart import CHART, Chart, Object, Release

SECRET = "/api/v1/namespaces/gpu/secrets/demo-nvshare-hub"
MANY_VALUES: Object = {
    "commonLabels": {"team": "vision"},
    "image": {"tag": "9.9.9"},
    "link": {"podLabels": {"a": "b"}},
    "node": {"podLabels": {"a": "b"}},
    "quotaWatcher": {"podLabels": {"a": "b"}},
    "hub": {"podLabels": {"a": "b"}, "persistence": {"enabled": True}},
    "emulated": {"gpus": 2},
}


@pytest.fixture
def next_chart(tmp_path: Path) -> Iterator[Chart]:
    """The chart under a later version of chart and images."""
    with helm_python.Chart.load(CHART) as loaded:
        folder = Path(loaded.save_dir(tmp_path))
    description = yaml.safe_load((folder / "Chart.yaml").read_text())
    (folder / "Chart.yaml").write_text(yaml.safe_dump({**description, "version": "99.0.0", "appVersion": "99.0.0"}))
    with helm_python.Chart.load(folder) as loaded:
        yield Chart(loaded)


class OneSecret(BaseHTTPRequestHandler):
    """An API server that knows the kinds of v1 and, once there is one, the hub's secret."""

    data: ClassVar[dict[str, str]] = {}

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        kind = {"name": "secrets", "kind": "Secret", "namespaced": True, "verbs": ["get", "list"]}
        answers = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [kind]},
            "/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"},
        }
        if self.data:
            answers[SECRET] = {"apiVersion": "v1", "kind": "Secret", "data": self.data}
        found = answers.get(path)
        gone = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(found or gone).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def cluster(data: dict[str, str]) -> Iterator[helm_python.Config]:
    """A cluster in which the hub's secret has `data` (empty: it is not there)."""
    handler = type("Handler", (OneSecret,), {"data": data})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            with helm_python.Config(kube_apiserver=f"http://127.0.0.1:{server.server_port}", namespace="gpu") as config:
                yield config
        finally:
            server.shutdown()


def rendered_in(config: helm_python.Config, chart: Chart, *, upgrade: bool) -> Release:
    return Release(
        config.render(chart.loaded, {}, name="demo", namespace="gpu", is_upgrade=upgrade, is_install=not upgrade)
    )


def passwords(release: Release) -> dict[str, str]:
    found: dict[str, str] = release.get("Secret", "demo-nvshare-hub")["stringData"]
    return found


def test_no_upgrade_changes_a_selector(chart: Chart, next_chart: Chart) -> None:
    before = {name: one["spec"]["selector"] for name, one in chart.render().workloads().items()}
    assert {name: one["matchLabels"] for name, one in before.items()} == {
        f"demo-nvshare-{component}": {
            "app.kubernetes.io/name": "nvshare",
            "app.kubernetes.io/instance": "demo",
            "app.kubernetes.io/component": component,
        }
        for component in ("link", "node", "quota-watcher", "hub")
    }
    after = next_chart.render(MANY_VALUES, is_upgrade=True, revision=2)
    assert {name: one["spec"]["selector"] for name, one in after.workloads().items()} == before


def test_no_upgrade_changes_what_cannot_change_of_the_hub(chart: Chart, next_chart: Chart) -> None:
    values = {"hub": {"persistence": {"enabled": True}}}
    before, after = (one.render(values).workloads()["demo-nvshare-hub"]["spec"] for one in (chart, next_chart))
    for fixed in ("serviceName", "volumeClaimTemplates", "podManagementPolicy"):
        assert before.get(fixed) == after.get(fixed)


def test_a_new_version_changes_the_images_of_pods_and_nothing_else_of_them(chart: Chart, next_chart: Chart) -> None:
    old, new = chart.loaded.metadata["appVersion"], "99.0.0"
    before, after = (one.render().workloads() for one in (chart, next_chart))
    for name, workload in before.items():
        was, becomes = json.dumps(workload["spec"]["template"]), json.dumps(after[name]["spec"]["template"])
        assert was.replace(f":{old}", f":{new}") == becomes


def test_a_new_chart_alone_starts_no_pod_again(chart: Chart, next_chart: Chart) -> None:
    pinned = {"image": {"tag": "0.1.0"}}
    before, after = (one.render(pinned).workloads() for one in (chart, next_chart))
    assert {name: one["spec"]["template"] for name, one in before.items()} == {
        name: one["spec"]["template"] for name, one in after.items()
    }


@pytest.mark.parametrize(
    ("values", "replaced"),
    [
        ({"link": {"image": {"tag": "2"}}}, "demo-nvshare-link"),
        (
            {"node": {"scheduler": {"image": {"tag": "2"}}, "devicePlugin": {"image": {"tag": "2"}}}},
            "demo-nvshare-node",
        ),
    ],
    ids=["link first", "node first"],
)
def test_either_daemon_set_can_be_upgraded_before_the_other(chart: Chart, values: Object, replaced: str) -> None:
    before, after = chart.render().workloads(), chart.render(values, is_upgrade=True).workloads()
    assert {name for name in before if before[name] != after[name]} == {replaced}


def test_nothing_in_one_daemon_set_names_the_others_version(chart: Chart) -> None:
    values = {"link": {"image": {"tag": "1.1.1"}}, "node": {"scheduler": {"image": {"tag": "2.2.2"}}}}
    release = chart.render(values)
    assert "2.2.2" not in json.dumps(release.get("DaemonSet", "demo-nvshare-link"))
    assert "1.1.1" not in json.dumps(release.get("DaemonSet", "demo-nvshare-node"))


def test_the_link_of_a_node_waits_for_somebody_and_the_rest_comes_node_by_node(chart: Chart) -> None:
    workloads = chart.render().workloads()
    assert workloads["demo-nvshare-link"]["spec"]["updateStrategy"] == {"type": "OnDelete"}
    assert workloads["demo-nvshare-node"]["spec"]["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 1},
    }
    assert workloads["demo-nvshare-quota-watcher"]["spec"]["strategy"] == {"type": "Recreate"}


def test_a_strategy_without_rolling_has_no_settings_of_one(chart: Chart) -> None:
    workloads = chart.render({"node": {"updateStrategy": {"type": "OnDelete"}}}).workloads()
    assert workloads["demo-nvshare-node"]["spec"]["updateStrategy"] == {"type": "OnDelete"}


def test_an_upgrade_keeps_the_passwords(chart: Chart) -> None:
    with cluster({}) as config:
        first = passwords(rendered_in(config, chart, upgrade=False))
    stored = {key: base64.b64encode(text.encode()).decode() for key, text in first.items()}
    with cluster(stored) as config:
        assert passwords(rendered_in(config, chart, upgrade=True)) == first


def test_a_password_that_is_missing_is_made_beside_those_that_are_kept(chart: Chart) -> None:
    with cluster({"leaf-password": base64.b64encode(b"kept").decode()}) as config:
        found = passwords(rendered_in(config, chart, upgrade=True))
    assert found["leaf-password"] == "kept"
    assert found["leaf"] == "leaf:kept"
    assert len(found["watcher-password"]) > 40
