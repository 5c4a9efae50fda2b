"""What should be in the bucket, and what is news."""

from dataclasses import replace

from nvshare.quota_watcher.annotations import CORE_LIMIT, MEMORY_LIMIT
from nvshare.quota_watcher.ledger import Ledger, News, ValueChange
from nvshare.quota_watcher.pods import Pod

POD = Pod("uid-1", "v1", "default", "web", "n1", 5 * 10**9, False, True, ("main",), {})


def annotated(**annotations: str) -> Pod:
    keys = {"memory": MEMORY_LIMIT, "cores": CORE_LIMIT}
    return replace(POD, annotations={keys[name]: text for name, text in annotations.items()})


def cores(ledger: Ledger) -> int:
    """The core limit in force; 0: none."""
    return sum(entry.core_limit_percent for entry in ledger.wanted[POD.uid].containers)


def test_e18_only_changes_are_news_with_their_key() -> None:
    ledger = Ledger()
    assert ledger.seen(annotated(cores="30")).changes == (ValueChange(CORE_LIMIT, "default", "30"),)
    assert ledger.seen(replace(annotated(cores="30"), version="v2")) == News()
    assert ledger.seen(annotated(cores="60")).changes == (ValueChange(CORE_LIMIT, "30", "60"),)
    assert ledger.seen(POD).changes == (ValueChange(CORE_LIMIT, "60", "default"),)


def test_b11_a_bad_value_is_news_once_and_changes_nothing() -> None:
    ledger = Ledger()
    ledger.seen(annotated(cores="30"))
    news = ledger.seen(annotated(cores="500"))
    assert (len(news.faults), news.changes, cores(ledger)) == (1, (), 30)
    assert ledger.seen(replace(annotated(cores="500"), version="v3")) == News()


def test_b11_a_bad_value_after_another_is_news() -> None:
    ledger = Ledger()
    assert ledger.seen(annotated(cores="500")).faults != ledger.seen(annotated(cores="501")).faults != ()


def test_b11_a_restart_between_a_good_and_a_bad_value_keeps_the_good_one() -> None:
    before = Ledger()
    before.seen(annotated(cores="30"))
    after = Ledger()
    after.remember(before.wanted)
    assert after.seen(annotated(cores="abc")).changes == ()
    assert cores(after) == 30


def test_e18_an_annotation_removed_during_a_restart_is_removed() -> None:
    before = Ledger()
    before.seen(annotated(cores="30"))
    after = Ledger()
    after.remember(before.wanted)
    assert after.seen(POD).changes == (ValueChange(CORE_LIMIT, "30", "default"),)
    assert cores(after) == 0


def test_a_pod_that_ended_has_no_quota() -> None:
    ledger = Ledger()
    ledger.seen(POD)
    ledger.seen(replace(POD, ended=True))
    assert ledger.wanted == {}


def test_a_pod_that_was_deleted_has_no_quota() -> None:
    ledger = Ledger()
    ledger.seen(POD)
    ledger.gone(POD)
    assert ledger.wanted == {}


def test_a_pod_that_asks_for_no_share_has_none() -> None:
    ledger = Ledger()
    assert ledger.seen(replace(annotated(cores="500"), shares=False)) == News()
    assert ledger.wanted == {}
