"""What a client may have on a GPU, from the grants and reports that pass."""

from hypothesis import given
from hypothesis import strategies as st

from nvshare.relay.promises import GrantOrder, Promise

amounts = st.integers(0, 2**40)


def first(epoch: int) -> GrantOrder:
    """A grant of the first generation."""
    return GrantOrder(1, epoch)


def test_nothing_is_promised_before_a_grant() -> None:
    assert Promise().promised_bytes == 0


def test_a_smaller_grant_counts_only_when_a_report_shows_it_in_force() -> None:
    promise = Promise().granted(first(1), 100).granted(first(2), 30)
    assert promise.promised_bytes == 100
    assert promise.reported(first(1), 90).promised_bytes == 100
    assert promise.reported(first(2), 30).promised_bytes == 30


def test_a_resend_of_a_grant_changes_nothing() -> None:
    promise = Promise().granted(first(1), 100)
    assert promise.granted(first(1), 100) is promise


def test_an_old_grant_that_comes_late_changes_nothing() -> None:
    promise = Promise().granted(GrantOrder(2, 1), 100)
    assert promise.granted(GrantOrder(1, 9), 500) is promise


def test_a_report_of_what_is_known_changes_nothing() -> None:
    promise = Promise().granted(first(1), 100).reported(first(1), 50)
    assert promise.reported(first(1), 50) is promise


def test_a_report_without_a_grant_in_force_voids_none() -> None:
    assert Promise().granted(first(1), 100).reported(GrantOrder(0, 0), 0).promised_bytes == 100


@given(st.lists(amounts, min_size=1, max_size=80), st.integers(0, 79))
def test_the_promise_is_never_less_than_a_grant_that_may_be_followed(allowed: list[int], in_force: int) -> None:
    promise = Promise()
    for epoch, allowed_bytes in enumerate(allowed):
        promise = promise.granted(first(epoch), allowed_bytes)
    assert promise.promised_bytes == max(allowed)

    promise = promise.reported(first(in_force), 0)

    assert promise.promised_bytes >= max(allowed[in_force:], default=0)


@given(st.lists(amounts, min_size=40, max_size=80))
def test_a_client_that_never_reports_costs_bounded_memory(allowed: list[int]) -> None:
    promise = Promise()
    for epoch, allowed_bytes in enumerate(allowed):
        promise = promise.granted(first(epoch), allowed_bytes)
    assert len(promise.grants) <= 32
