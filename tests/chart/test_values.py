"""What values the chart refuses, and how it says so."""

import json
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import jsonschema
import pytest

from rendered_chart import CHART, Chart, Object

SCHEMA: Object = json.loads((CHART / "values.schema.json").read_text())
RULES = ("enum", "exclusiveMinimum", "maxLength", "maximum", "minimum", "pattern", "propertyNames", "required")
WRONG: dict[str, Any] = {"string": 5, "boolean": "yes", "array": "none", "object": "none"}

# Where, a value that breaks one rule, and what Helm says about it.
REFUSED = [
    ("nameOverride", "-demo", "does not match pattern"),
    ("nameOverride", "d" * 64, "maxLength: got 64, want 63"),
    ("image.registry", "https://registry.example", "does not match pattern"),
    ("image.tag", "a tag", "does not match pattern"),
    ("image.tag", "t" * 129, "maxLength: got 129, want 128"),
    ("image.pullPolicy", "Sometimes", "must be one of 'Always', 'IfNotPresent', 'Never'"),
    ("imagePullSecrets", [{}], "missing property 'name'"),
    ("tolerations", [{"operator": "In"}], "must be one of 'Exists', 'Equal'"),
    ("tolerations", [{"effect": "No"}], "must be one of 'NoSchedule', 'PreferNoSchedule', 'NoExecute'"),
    ("kubelet.path", "/var/lib/kubelet/", "does not match pattern"),
    ("nodeFolder", "nvshare", "does not match pattern"),
    ("nodeFolder", "/a-folder-with-a-name-that-is-far-too-long", "maxLength: got 42, want 40"),
    ("emulated.gpus", -1, "minimum: got -1, want 0"),
    ("emulated.gpus", 17, "maximum: got 17, want 16"),
    ("emulated.gpuMemory", "", "does not match pattern"),
    ("sharing.resource", "gpu", "does not match pattern"),
    ("sharing.shares", -1, "minimum: got -1, want 0"),
    ("sharing.shares", 1001, "maximum: got 1,001, want 1,000"),
    ("sharing.sharesByGpu", {"first": 4}, "invalid propertyName 'first'"),
    ("sharing.sharesByGpu", {"0": -1}, "minimum: got -1, want 0"),
    ("sharing.sharesByGpu", {"0": 1001}, "maximum: got 1,001, want 1,000"),
    ("sharing.gpus", "0-3", "does not match pattern"),
    ("sharing.gpuMemory", "sixteen", "does not match pattern"),
    ("sharing.reserve", "-1GiB", "does not match pattern"),
    ("sharing.overcommit", -1, "minimum: got -1, want 0"),
    ("sharing.overcommit", 1001, "maximum: got 1,001, want 1,000"),
    ("sharing.policy", "random", "must be one of 'spread', 'packed'"),
    ("sharing.ignoredXids", "Xid 63", "does not match pattern"),
    ("sharing.mode", "parallel", "must be one of 'auto', 'serial', 'concurrent', 'off'"),
    ("sharing.timeSharing", "fair", "must be one of 'auto', 'driver', 'slices', 'slots'"),
    ("sharing.quantum", "10s", "'10s' does not match pattern '^auto$'"),
    ("sharing.quantum", 0, "minimum: got 0, want 0.01"),
    ("sharing.quantum", 3601, "maximum: got 3,601, want 3,600"),
    ("sharing.maxWaitSeconds", 0, "exclusiveMinimum: got 0, want 0"),
    ("sharing.maxWaitSeconds", 86401, "maximum: got 86,401, want 86,400"),
    ("sharing.gangs", "on", "must be one of 'auto', 'off'"),
    ("defaultQuota.cores", -1, "minimum: got -1, want 0"),
    ("defaultQuota.cores", 500, "maximum: got 500, want 100"),
    ("defaultQuota.waitSeconds", -1, "minimum: got -1, want 0"),
    ("defaultQuota.waitSeconds", 31, "maximum: got 31, want 20"),
    ("injection.library", "preload", "must be one of 'file', 'environment'"),
    ("injection.devices", "nvidia", "must be one of 'environment', 'mounts', 'cdi'"),
    ("link.updateStrategy", {"type": None}, "missing property 'type'"),
    ("link.updateStrategy.type", "Recreate", "must be one of 'OnDelete', 'RollingUpdate'"),
    ("node.updateStrategy.rollingUpdate.maxUnavailable", 0, "minimum: got 0, want 1"),
    ("node.updateStrategy.rollingUpdate.maxUnavailable", "all", "does not match pattern"),
    ("link.image", {"repository": None}, "missing property 'repository'"),
    ("link.image.repository", "nvshare/link:0.1.0", "does not match pattern"),
    ("link.logLevel", "verbose", "must be one of 'debug', 'info', 'warn', 'error'"),
    ("link.resources.limits", {"cpu": "much"}, "does not match pattern"),
    ("link.extraEnv", [{"value": "1"}], "missing property 'name'"),
    ("link.extraEnv", [{"name": "a b"}], "does not match pattern"),
    ("node.devicePlugin.seLinuxLabel", "container_file_t", "does not match pattern"),
    ("hub.existing.leafUrl", "hub.example:7422", "does not match pattern"),
    ("hub.existing.url", "http://hub.example", "does not match pattern"),
    ("hub.storeSize", "", "does not match pattern"),
    ("hub.persistence.size", "big", "does not match pattern"),
    ("test.memory", "1GiB", "does not match pattern"),
]

EXISTING_HUB = {"leafUrl": "tls://hub.example:7422", "url": "tls://hub.example:4222", "secret": "theirs"}
CONTRADICTIONS = [
    ({"image": {"tag": "latest"}}, "image.tag is latest, which is another image on each node"),
    ({"link": {"image": {"tag": "latest"}}}, "link.image.tag is latest"),
    ({"hub": {"existing": {"leafUrl": "tls://hub.example:7422"}}}, "needs all three of hub.existing.leafUrl"),
    ({"hub": {"existing": {"caSecret": "ca"}}}, "hub.existing.caSecret is for a hub that is there"),
    ({"hub": {"secret": "mine", "existing": EXISTING_HUB}}, "hub.secret is for the chart's own hub"),
    ({"hub": {"tlsSecret": "mine", "existing": EXISTING_HUB}}, "hub.tlsSecret is for the chart's own hub"),
]


def nested(path: str, value: Any) -> Object:
    """The values that have `value` at `path`."""
    return together([(path, value)])


def together(values: Iterable[tuple[str, Any]]) -> Object:
    """The values that have each of these at its path."""
    whole: Object = {}
    for path, value in values:
        *folders, name = path.split(".")
        inner = whole
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = value
    return whole


def resolved(schema: Object) -> tuple[str, Object]:
    """The part of the schema that `schema` stands for, and its name if it has one."""
    if "$ref" not in schema:
        return "", schema
    name = schema["$ref"].removeprefix("#/$defs/")
    return name, SCHEMA["$defs"][name]


def members(schema: Object, path: str = "") -> Iterator[tuple[str, Object]]:
    """Every value that the schema names, with what it asks of it."""
    for name, member in resolved(schema)[1].get("properties", {}).items():
        inner = f"{path}.{name}" if path else name
        yield inner, resolved(member)[1]
        yield from members(member, inner)


def rules(schema: Object = SCHEMA, at: str = "") -> Iterator[str]:
    """The names of all rules but those of types and of members' names, each part of `$defs` once."""
    for key, part in schema.items():
        if key in RULES:
            yield f"{at}/{key}"
        elif key in ("properties", "$defs"):
            for name, member in part.items():
                yield from rules(member, f"/$defs/{name}" if key == "$defs" else f"{at}/properties/{name}")
        elif key in ("items", "additionalProperties") and isinstance(part, dict):
            yield from rules(part, f"{at}/{key}")


def broken_rules(values: Object) -> Iterator[str]:
    """The rules that `values` break, under the same names."""
    for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(values):
        at, schema = "", SCHEMA
        for step in error.absolute_schema_path:
            at, schema = f"{at}/{step}", schema[step]
            if step in RULES:  # what is inside is one rule with it
                break
            if "$ref" in schema:
                name, schema = resolved(schema)
                at = f"/$defs/{name}"
        yield at


def composed(chart: Chart, values: Object) -> Object:
    """`values` over the defaults, as Helm's schema sees them."""
    merged: Object = chart.loaded.merge_values(values)
    return merged


@pytest.mark.parametrize(("path", "value", "said"), REFUSED, ids=lambda one: str(one)[:40])
def test_a_value_out_of_its_bounds_is_refused_by_its_name(chart: Chart, path: str, value: Any, said: str) -> None:
    refusal = chart.refusal(nested(path, value))
    assert said in refusal
    assert "/" + path.replace(".", "/") in refusal or "propertyName" in refusal


def test_each_rule_of_the_schema_is_broken_by_one_of_these_values(chart: Chart) -> None:
    broken = {rule for path, value, _ in REFUSED for rule in broken_rules(composed(chart, nested(path, value)))}
    assert {rule for rule in rules() if rule not in broken} == set()


@pytest.mark.parametrize(("values", "said"), CONTRADICTIONS, ids=lambda one: str(one)[:40])
def test_values_that_contradict_each_other_are_refused_in_a_sentence(chart: Chart, values: Object, said: str) -> None:
    assert said in chart.refusal(values)


def test_an_unknown_value_is_refused_wherever_it_stands(chart: Chart) -> None:
    closed = ["", *(path for path, schema in members(SCHEMA) if schema.get("additionalProperties") is False)]
    assert len(closed) > 30
    refusal = chart.refusal(together((f"{path}.surprise".lstrip("."), 1) for path in closed))
    for path in closed:
        place = f"/{path}".replace(".", "/").rstrip("/")
        assert f"at '{place}': additional properties 'surprise' not allowed" in refusal


def test_a_value_of_another_type_is_refused_wherever_it_stands(chart: Chart) -> None:
    typed = {path: str(schema.get("type")) for path, schema in members(SCHEMA) if path != "global"}
    wrong = {path: WRONG[name] for path, name in typed.items() if name in WRONG}
    assert len(wrong) > 100
    for depth in range(4):  # a value of the wrong type hides those in it
        level = {path: value for path, value in wrong.items() if path.count(".") == depth}
        refusal = chart.refusal(together(level.items()))
        assert [path for path in level if f"at '/{path.replace('.', '/')}': got " not in refusal] == []


def test_the_schema_knows_every_value_that_has_a_default(chart: Chart) -> None:
    def check(values: Object, path: str) -> None:
        for name, value in values.items():
            inner = f"{path}.{name}" if path else name
            assert inner in known or any(inner.startswith(f"{one}.") for one in open_ended), inner
            if isinstance(value, dict):
                check(value, inner)

    described = dict(members(SCHEMA))
    known = described.keys()
    open_ended = [path for path, schema in described.items() if "properties" not in schema]
    check(deepcopy(chart.loaded.values), "")
