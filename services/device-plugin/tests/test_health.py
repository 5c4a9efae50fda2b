"""When a GPU is failed, and when it is healthy again."""

import pytest

from nvshare.device_plugin.health import (
    APPLICATION_XIDS,
    SETTLE_NS,
    Health,
    IgnoredXids,
    Probe,
    SettingError,
    Verdict,
    after_probe,
    after_xid,
    parse_ignored_xids,
)

WELL = Probe(Verdict.WELL)
LOST = Probe(Verdict.FAILED, "it is lost")
SILENT = Probe(Verdict.DOUBTFUL, "it does not answer")
USUAL = IgnoredXids()


@pytest.mark.parametrize("xid", sorted(APPLICATION_XIDS))
def test_an_error_that_a_program_causes_fails_nothing(xid: int) -> None:
    assert after_xid(Health(), xid, 0, USUAL) == Health()


@pytest.mark.parametrize("xid", [48, 62, 63, 74, 79, 94, 95, 119, 120])
def test_c4_any_other_error_fails_the_gpu(xid: int) -> None:
    failed = after_xid(Health(), xid, 0, USUAL)
    assert failed.problem == f"Xid error {xid}"
    assert not failed.healthy


def test_c4_a_failed_gpu_that_answers_well_is_healthy_again() -> None:
    failed = after_probe(Health(), LOST, 0)
    assert not failed.healthy
    assert after_probe(failed, WELL, 1) == Health()


def test_an_error_counts_for_a_while_whatever_a_probe_says() -> None:
    failed = after_xid(Health(), 48, 100, USUAL)
    assert not after_probe(failed, WELL, 100 + SETTLE_NS - 1).healthy
    assert after_probe(failed, WELL, 100 + SETTLE_NS).healthy


def test_a_gpu_stays_failed_for_as_long_as_it_does_not_answer() -> None:
    health = after_xid(Health(), 79, 0, USUAL)
    for second in range(100):
        health = after_probe(health, LOST if second % 2 else SILENT, second * SETTLE_NS)
        assert health.problem == "Xid error 79"


def test_one_error_of_a_probe_is_a_doubt_and_the_second_a_failure() -> None:
    doubted = after_probe(Health(), SILENT, 0)
    assert doubted.healthy
    assert after_probe(doubted, SILENT, 1).problem == "it does not answer"


def test_an_answer_ends_the_doubt() -> None:
    health = Health()
    for second in range(10):
        health = after_probe(health, WELL if second % 2 else SILENT, second)
        assert health.healthy


def test_a_lost_gpu_is_failed_at_once() -> None:
    assert after_probe(Health(), LOST, 0).problem == "it is lost"


def test_an_error_after_the_recovery_fails_it_again() -> None:
    healthy = after_probe(after_xid(Health(), 48, 0, USUAL), WELL, SETTLE_NS)
    assert not after_xid(healthy, 48, SETTLE_NS + 1, USUAL).healthy


def test_a_setting_ignores_more_errors_or_fewer() -> None:
    ignored = parse_ignored_xids("63, -13")
    assert 63 in ignored
    assert 13 not in ignored
    assert 31 in ignored


def test_a_setting_ignores_every_error() -> None:
    assert after_xid(Health(), 79, 0, parse_ignored_xids("all")) == Health()


@pytest.mark.parametrize("text", ["none", "1.5", "--3", "+4", "٣"])
def test_a_setting_that_names_no_error_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="is no Xid error"):
        parse_ignored_xids(text)
