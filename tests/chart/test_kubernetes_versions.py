"""The API servers of the newest versions of Kubernetes know every field that the chart sets."""

import functools
from collections.abc import Iterator

import kubernetes_validate
import pytest
from kubernetes_validate import utils

from rendered_chart import Chart, Object

NEWEST = list(dict.fromkeys(map(utils.major_minor, utils.all_versions())))[-3:]
TOLERATION = {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
PREFERENCE = {"weight": 1, "preference": {"matchFields": []}}
PLACE: Object = {
    "nodeSelector": {"a": "b"},
    "tolerations": [TOLERATION],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [PREFERENCE]}},
}
POD: Object = {
    "priorityClassName": "high",
    "podLabels": {"a": "b"},
    "podAnnotations": {"a": "b"},
    "serviceAccount": {"annotations": {"a": "b"}},
}
CONTAINER: Object = {
    "extraEnv": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}],
    "resources": {"limits": {"cpu": 2, "memory": "1Gi"}},
}
ROLLING: Object = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "5%"}}
EVERYTHING: Object = {
    **PLACE,
    "commonLabels": {"a": "b"},
    "imagePullSecrets": [{"name": "pull"}],
    "runtimeClassName": "nvidia",
    "seLinuxOptions": {"user": "u", "role": "r", "type": "t", "level": "s0"},
    "emulated": {"gpus": 2},
    "link": {
        **POD,
        **CONTAINER,
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "5%"}},
    },
    "node": {**POD, "scheduler": CONTAINER, "devicePlugin": CONTAINER, "updateStrategy": {"type": "OnDelete"}},
    "quotaWatcher": {**PLACE, **POD, **CONTAINER},
    "hub": {
        **PLACE,
        **POD,
        **CONTAINER,
        "tlsSecret": "certificate",
        "persistence": {"enabled": True, "storageClassName": "fast"},
        "podDisruptionBudget": {"enabled": True},
    },
}
OTHERWISE: Object = {
    "injection": {"devices": "mounts"},
    "hub": {
        "existing": {
            "leafUrl": "tls://hub.example:7422",
            "url": "tls://hub.example:4222",
            "secret": "theirs",
            "caSecret": "certificates",
        }
    },
}


@pytest.fixture(scope="module", autouse=True)
def schemas_read_once() -> Iterator[None]:
    """Megabytes of definitions that each object would read again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield


@pytest.mark.parametrize("version", NEWEST)
@pytest.mark.parametrize("values", [{}, EVERYTHING, OTHERWISE], ids=["as it is", "everything", "otherwise"])
def test_all_objects_are_valid(chart: Chart, values: Object, version: str) -> None:
    release = chart.render(values)
    for one in release.objects:
        kubernetes_validate.validate(one, version, strict=True)


def test_what_is_not_in_the_api_is_found(chart: Chart) -> None:
    workload = chart.render().get("DaemonSet", "demo-nvshare-link")
    workload["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="hostPid"):
        kubernetes_validate.validate(workload, NEWEST[-1], strict=True)
