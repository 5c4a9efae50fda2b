"""The token bucket."""

from hypothesis import given
from hypothesis import strategies as st

from nvshare.relay.rate import TokenBucket


def test_a_burst_passes_and_one_more_does_not() -> None:
    bucket = TokenBucket(10, 5, 0.0)
    assert bucket.take(5, 0.0)
    assert not bucket.take(1, 0.0)


def test_tokens_come_back_with_time_up_to_the_burst() -> None:
    bucket = TokenBucket(10, 5, 0.0)
    bucket.take(5, 0.0)
    assert bucket.take(1, 0.1)
    assert not bucket.take(6, 100.0)
    assert bucket.take(5, 100.0)


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 3)), max_size=50))
def test_never_more_passes_than_the_burst_and_the_rate_allow(steps: list[tuple[int, float]]) -> None:
    bucket, now_s, taken = TokenBucket(10, 5, 0.0), 0.0, 0
    for count, pause_s in steps:
        now_s += pause_s
        taken += count if bucket.take(count, now_s) else 0
        assert taken <= 5 + 10 * now_s + 1e-6


def test_what_is_borrowed_must_be_waited_for() -> None:
    bucket = TokenBucket(10, 5, 0.0)
    assert bucket.borrow(5, 0.0, longest_s=1.0) == 0.0
    assert bucket.borrow(5, 0.0, longest_s=1.0) == 0.5
    assert bucket.borrow(6, 0.0, longest_s=1.0) is None
    assert bucket.borrow(5, 0.5, longest_s=1.0) == 0.5


def test_a_bucket_is_full_when_all_tokens_are_back() -> None:
    bucket = TokenBucket(10, 5, 0.0)
    bucket.take(5, 0.0)
    assert not bucket.is_full(0.4)
    assert bucket.is_full(0.5)
