"""The chart as Helm's own engine loads it, and what it renders to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

CHART = Path(__file__).resolve().parents[2] / "helm" / "nvshare"
NOTES = "nvshare/templates/NOTES.txt"

Object = dict[str, Any]
"""One rendered object of Kubernetes."""


class Release:
    """What one set of values renders to, in the release `demo` in the namespace `gpu`."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.notes = files.get(NOTES, "")
        self.objects: list[Object] = [
            document
            for name, text in files.items()
            if name != NOTES
            for document in yaml.load_all(text, yaml.CSafeLoader)
            if document
        ]

    def kinds(self) -> set[str]:
        return {str(one["kind"]) for one in self.objects}

    def all(self, kind: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] == kind]

    def get(self, kind: str, name: str) -> Object:
        """The object of that kind and name. Raises LookupError."""
        for one in self.all(kind):
            if one["metadata"]["name"] == name:
                return one
        raise LookupError(f"no {kind} {name} among {[one['metadata']['name'] for one in self.all(kind)]}")

    def workloads(self) -> dict[str, Object]:
        """All that make pods, by their names."""
        kinds = ("DaemonSet", "Deployment", "StatefulSet")
        return {one["metadata"]["name"]: one for kind in kinds for one in self.all(kind)}

    def pods(self) -> dict[str, Object]:
        """The specs of all pods, those of the tests among them, by the names of what makes them."""
        made = {name: one["spec"]["template"]["spec"] for name, one in self.workloads().items()}
        return made | {one["metadata"]["name"]: one["spec"] for one in self.all("Pod")}

    def containers(self) -> dict[str, Object]:
        """All containers, as `pod/container`."""
        return {
            f"{pod}/{one['name']}": one
            for pod, spec in self.pods().items()
            for one in [*spec.get("initContainers", []), *spec["containers"]]
        }

    def environment(self, container: str) -> dict[str, Any]:
        """Of the container `pod/container`: values by name; None where a value comes from elsewhere."""
        return {one["name"]: one.get("value") for one in self.containers()[container].get("env", [])}


class Chart:
    """Renders the chart without a cluster."""

    def __init__(self, chart: helm_python.Chart) -> None:
        self.loaded = chart
        self._rendered: dict[str, dict[str, str]] = {}

    def render(self, values: Object | None = None, **options: Any) -> Release:
        """The same values are rendered once, passwords included. Raises helm_python.HelmError."""
        given = {"name": "demo", "namespace": "gpu", **options}
        key = json.dumps([values or {}, given], sort_keys=True)
        if key not in self._rendered:
            self._rendered[key] = self.loaded.render(values or {}, **given)
        return Release(self._rendered[key])

    def refusal(self, values: Object) -> str:
        """Why the schema, or the chart, refuses `values`."""
        with pytest.raises(helm_python.HelmError) as refused:
            self.render(values)
        return str(refused.value)
