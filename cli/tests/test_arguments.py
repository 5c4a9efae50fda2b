"""What people type, and what becomes of it."""

import pytest

from nvshare.cli.arguments import (
    core_percent,
    emulated_gpus,
    gpu_indices,
    mode_name,
    parse_quantum,
    priority_number,
    share_weight,
    size_bytes,
    with_emulate_number,
)
from nvshare.cli.errors import CommandError


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        (["up", "--emulate"], ["up", "--emulate=1"]),
        (["up", "--emulate", "2"], ["up", "--emulate", "2"]),
        (["bench", "--emulate", "solo-small"], ["bench", "--emulate=1", "solo-small"]),
        (["run", "--emulate", "--", "true"], ["run", "--emulate=1", "--", "true"]),
        (["run", "--", "program", "--emulate"], ["run", "--", "program", "--emulate"]),
    ],
)
def test_emulate_without_a_number_means_one(given: list[str], understood: list[str]) -> None:
    assert with_emulate_number(given) == understood


def test_sizes_are_read_with_their_units() -> None:
    assert size_bytes("--memory", "4Gi") == 4 * 2**30
    assert size_bytes("--memory", "1000000") == 1_000_000
    assert size_bytes("--memory", None) is None


@pytest.mark.parametrize("text", ["", "four", "4Qi", "-1", "0", "0Gi", "1e9", "4 Gi Gi"])
def test_a_malformed_size_is_refused_with_the_options_name(text: str) -> None:
    with pytest.raises(CommandError, match="--memory") as raised:
        size_bytes("--memory", text)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e9", "", "automatic"])
def test_a_quantum_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="--quantum"):
        parse_quantum(text)


def test_a_quantum_is_auto_or_seconds() -> None:
    assert parse_quantum("auto") == "auto"
    assert parse_quantum("0.5") == 0.5
    assert parse_quantum(None) is None


@pytest.mark.parametrize("number", [0, -1, 17])
def test_a_number_of_emulated_gpus_that_makes_no_sense_is_refused(number: int) -> None:
    with pytest.raises(CommandError, match="--emulate"):
        emulated_gpus(number)


def test_gpus_are_chosen_by_their_indices() -> None:
    assert gpu_indices("2,0", 0) == (0, 2)
    assert gpu_indices(None, 2) == ()


@pytest.mark.parametrize("text", ["", "first", "-1", "0,0", "0,", "GPU-1", "0,2"])
def test_gpus_that_cannot_be_meant_are_refused(text: str) -> None:
    with pytest.raises(CommandError, match="--gpu"):
        gpu_indices(text, 2)


def test_an_unknown_mode_is_refused_with_the_modes_that_there_are() -> None:
    with pytest.raises(CommandError, match="auto, serial, concurrent, off"):
        mode_name("parallel")


def test_a_core_limit_is_a_percentage_or_none() -> None:
    assert [core_percent(text) for text in (None, "none", "1", "100")] == [None, 0, 1, 100]


@pytest.mark.parametrize("text", ["", "-1", "abc", "0", "101", "500", "30%", "1.5", "9" * 30, "\u0663"])
def test_b11_a_core_limit_that_makes_no_sense_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(CommandError, match=r"--cores .*give a percentage from 1 to 100, or none"):
        core_percent(text)


@pytest.mark.parametrize("text", ["-1", "abc", "0", "1001", "none"])
def test_b11_a_weight_that_makes_no_sense_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(CommandError, match="give a whole number from 1 to 1000"):
        share_weight(text)


def test_priorities_have_their_words() -> None:
    words = ("best-effort", "normal", "latency-critical")
    assert [priority_number(word) for word in words] == [1, 2, 3]
    assert priority_number(None) is None
    with pytest.raises(CommandError, match="the priorities are best-effort, normal, latency-critical"):
        priority_number("urgent")
