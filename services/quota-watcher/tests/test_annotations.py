"""Annotations of pods: what they bring into force, and what is said of a bad one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvshare.quota_watcher.annotations import (
    CORE_BURST,
    CORE_LIMIT,
    GROUP,
    INVALID,
    MANAGED,
    MEMORY_LIMIT,
    PREFIX,
    PRIORITY,
    UNKNOWN,
    WEIGHT,
    Reading,
    Value,
    read,
)

CONTAINERS = ("main", "side")


def reading(annotations: dict[str, str], last: dict[tuple[str, str], Value] | None = None) -> Reading:
    return read(annotations, CONTAINERS, last or {})


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        (MEMORY_LIMIT, "4Gi", 4 * 2**30),
        (MEMORY_LIMIT, "512Mi", 512 * 2**20),
        (MEMORY_LIMIT, "1e9", 10**9),
        (MEMORY_LIMIT, "0.5Gi", 2**29),
        (MEMORY_LIMIT, " 4Gi ", 4 * 2**30),
        (CORE_LIMIT, "1", 1),
        (CORE_LIMIT, "100", 100),
        (WEIGHT, "1000", 1000),
        (PRIORITY, "latency-critical", "latency-critical"),
        (CORE_BURST, "true", True),
        (CORE_BURST, "false", False),
        (GROUP, "team-a", "team-a"),
        (MANAGED, "false", False),
    ],
)
def test_b1_b5_a_value_is_read(key: str, text: str, value: Value) -> None:
    assert reading({key: text}) == Reading({(key, ""): value}, ())


@pytest.mark.parametrize("text", ["-1", "abc", "0", "500", "", "30%", "33.5", "٣", "1" * 30])
def test_b11_a_core_limit_that_is_none_is_refused(text: str) -> None:
    found = reading({CORE_LIMIT: text})
    assert found.values == {}
    (fault,) = found.faults
    assert (fault.key, fault.reason) == (CORE_LIMIT, INVALID)
    assert "must be a whole number from 1 to 100" in fault.text


@pytest.mark.parametrize("text", ["-1", "abc", "0", "500", "4gi", "4GB", "512m", "9999999E"])
def test_b11_a_memory_limit_that_is_none_is_refused(text: str) -> None:
    found = reading({MEMORY_LIMIT: text})
    assert found.values == {}
    (fault,) = found.faults
    assert fault.text.startswith(f"{MEMORY_LIMIT} is '{text}', which is ")
    assert "write it like 4Gi" in fault.text


@pytest.mark.parametrize(
    ("key", "text"), [(WEIGHT, "1001"), (PRIORITY, "high"), (CORE_BURST, "yes"), (GROUP, "a b"), (MANAGED, "no")]
)
def test_b11_each_annotation_says_what_would_be_right(key: str, text: str) -> None:
    (fault,) = reading({key: text}).faults
    assert fault.text.startswith(f"{key} is '{text}', but must ")


def test_b11_the_last_good_value_stays_and_is_named() -> None:
    found = reading({MEMORY_LIMIT: "-1"}, {(MEMORY_LIMIT, ""): 4 * 2**30})
    assert found.values == {(MEMORY_LIMIT, ""): 4 * 2**30}
    assert found.faults[0].text.endswith("; until then 4Gi stays in force")


def test_b11_without_a_good_value_the_default_applies() -> None:
    assert reading({CORE_LIMIT: "0"}).faults[0].text.endswith("; until then the default applies")


def test_e18_only_an_annotation_that_is_gone_goes_back_to_the_default() -> None:
    last: dict[tuple[str, str], Value] = {(MEMORY_LIMIT, ""): 4 * 2**30, (CORE_LIMIT, ""): 30}
    assert reading({MEMORY_LIMIT: "abc"}, last).values == {(MEMORY_LIMIT, ""): 4 * 2**30}


def test_b1_a_container_has_a_value_of_its_own() -> None:
    found = reading({MEMORY_LIMIT: "8Gi", f"{MEMORY_LIMIT}.side": "1Gi"})
    assert found.values == {(MEMORY_LIMIT, ""): 8 * 2**30, (MEMORY_LIMIT, "side"): 2**30}


def test_a_container_that_the_pod_lacks_is_named() -> None:
    (fault,) = reading({f"{CORE_LIMIT}.mian": "30"}).faults
    assert "no container 'mian'" in fault.text
    assert "main, side" in fault.text


def test_an_annotation_that_nobody_knows_is_named_with_the_nearest() -> None:
    (fault,) = reading({PREFIX + "gpu-memory-limt": "4Gi"}).faults
    assert fault.reason == UNKNOWN
    assert fault.text.endswith(f"did you mean {MEMORY_LIMIT}?")


@pytest.mark.parametrize("key", [f"{GROUP}.main", f"{CORE_LIMIT}."])
def test_what_is_for_the_whole_pod_is_for_no_container(key: str) -> None:
    assert reading({key: "30"}).faults[0].reason == UNKNOWN


def test_annotations_of_others_are_none_of_ours() -> None:
    assert reading({"example.com/gpu-core-limit": "x"}) == Reading({}, ())


def test_one_bad_annotation_does_not_touch_another() -> None:
    found = reading({CORE_LIMIT: "500", MEMORY_LIMIT: "4Gi"})
    assert found.values == {(MEMORY_LIMIT, ""): 4 * 2**30}


keys = st.sampled_from([MEMORY_LIMIT, CORE_LIMIT, WEIGHT, PRIORITY, CORE_BURST, GROUP, MANAGED])


@given(st.dictionaries(keys | keys.map(lambda key: f"{key}.main") | st.text(), st.text(max_size=60)))
def test_any_text_is_a_value_or_a_fault_of_one_line(annotations: dict[str, str]) -> None:
    found = reading(annotations)
    ours = [key for key in annotations if key.startswith(PREFIX)]
    assert len(found.values) + len(found.faults) == len(ours)
    assert all(fault.text.isprintable() for fault in found.faults if fault.key.isprintable())
