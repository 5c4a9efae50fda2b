"""Shares of a card's time: water-filling with caps, weights and best effort."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvshare.scheduler.shares import Claim, split_by_use, split_card

TOLERANCE = 1e-9

wants = st.one_of(st.just(0.0), st.just(1.0), st.floats(0.0, 1.0))
caps = st.one_of(st.none(), st.integers(1, 100).map(lambda percent: percent / 100))


@st.composite
def any_claims(draw: st.DrawFn) -> list[Claim]:
    """Up to six allocations with up to three processes each."""
    return [
        Claim(
            wanted={f"{number}/{process}": draw(wants) for process in range(draw(st.integers(1, 3)))},
            weight=draw(st.integers(1, 1000)),
            cap=draw(caps),
            best_effort=draw(st.booleans()),
            burst=draw(st.booleans()),
        )
        for number in range(draw(st.integers(1, 6)))
    ]


def share_of(claim: Claim, shares: dict[str, float]) -> float:
    return sum(shares[key] for key in claim.wanted)


def wanted_of(claim: Claim) -> float:
    return min(1.0, sum(claim.wanted.values()))


def allowed_of(claim: Claim) -> float:
    """The most that it may have of a card that is otherwise free."""
    return wanted_of(claim) if claim.cap is None or claim.burst else min(claim.cap, wanted_of(claim))


def busy(*claims: Claim) -> list[float]:
    """The shares of claims, in their order."""
    shares = split_card(claims)
    return [share_of(claim, shares) for claim in claims]


def claim(name: str, wanted: float = 1.0, weight: int = 100, cap: float | None = None, **terms: bool) -> Claim:
    return Claim({name: wanted}, weight, cap, **terms)


@given(any_claims())
def test_never_more_than_the_card_is_given(claims: list[Claim]) -> None:
    assert sum(split_card(claims).values()) <= 1 + TOLERANCE


@given(any_claims())
def test_nothing_is_kept_back_that_somebody_may_have(claims: list[Claim]) -> None:
    assert sum(split_card(claims).values()) == pytest.approx(min(1.0, sum(map(allowed_of, claims))))


@given(any_claims())
def test_nobody_has_more_than_it_wants(claims: list[Claim]) -> None:
    shares = split_card(claims)
    assert all(0 <= shares[key] <= want + TOLERANCE for c in claims for key, want in c.wanted.items())


@given(any_claims())
def test_nobody_passes_its_cap_but_by_what_nobody_else_wants(claims: list[Claim]) -> None:
    shares = split_card(claims)
    for one in claims:
        if one.cap is not None and share_of(one, shares) > one.cap + TOLERANCE:
            assert one.burst
            others = [other for other in claims if other is not one]
            capped = [min(wanted_of(other), 1.0 if other.cap is None else other.cap) for other in others]
            assert all(share_of(other, shares) >= most - TOLERANCE for other, most in zip(others, capped, strict=True))


@given(any_claims())
def test_who_wants_more_than_it_gets_has_at_least_the_part_of_its_weight(claims: list[Claim]) -> None:
    """Without caps nobody who could use more has less for its weight than another one of its kind."""
    plain = [Claim(c.wanted, c.weight, None, c.best_effort) for c in claims]
    shares = split_card(plain)
    for one in plain:
        if share_of(one, shares) < wanted_of(one) - TOLERANCE:
            for other in plain:
                if other.best_effort == one.best_effort:
                    assert share_of(other, shares) / other.weight <= share_of(one, shares) / one.weight + TOLERANCE


@given(any_claims())
def test_best_effort_takes_nothing_from_the_others(claims: list[Claim]) -> None:
    plain = [Claim(c.wanted, c.weight, c.cap, c.best_effort) for c in claims]
    with_all = split_card(plain)
    alone = split_card([c for c in plain if not c.best_effort])
    assert all(with_all[key] == pytest.approx(share) for key, share in alone.items())


@given(any_claims())
def test_nobody_who_wants_time_starves_unless_it_is_best_effort(claims: list[Claim]) -> None:
    shares = split_card(claims)
    for one in claims:
        if not one.best_effort:
            assert all(shares[key] > 0 for key, want in one.wanted.items() if want > TOLERANCE)


@given(any_claims())
def test_the_order_of_the_claims_does_not_matter(claims: list[Claim]) -> None:
    assert split_card(claims[::-1]) == pytest.approx(split_card(claims))


@given(st.lists(st.integers(1, 100), min_size=2, max_size=6))
def test_caps_beyond_the_card_are_scaled_in_proportion(percents: list[int]) -> None:
    shares = busy(*(claim(str(number), cap=percent / 100) for number, percent in enumerate(percents)))
    whole = max(100, sum(percents))
    assert shares == pytest.approx([percent / whole for percent in percents])


@pytest.mark.parametrize(
    ("weights", "shares"), [((100, 100), (1 / 2, 1 / 2)), ((100, 200), (1 / 3, 2 / 3)), ((1, 4), (1 / 5, 4 / 5))]
)
def test_who_wants_all_gets_it_by_weight(weights: tuple[int, int], shares: tuple[float, float]) -> None:
    assert busy(claim("a", weight=weights[0]), claim("b", weight=weights[1])) == pytest.approx(shares)


def test_what_one_leaves_is_handed_on() -> None:
    assert busy(claim("a", wanted=0.1), claim("b"), claim("c")) == pytest.approx([0.1, 0.45, 0.45])


def test_a_capped_one_beside_one_without_a_cap_has_its_cap() -> None:
    assert busy(claim("a", cap=0.3), claim("b")) == pytest.approx([0.3, 0.7])


def test_a_cap_that_is_not_used_leaves_the_others_theirs() -> None:
    assert busy(claim("a", cap=0.75, wanted=0.1), claim("b", cap=0.75)) == pytest.approx([0.1, 0.75])


def test_a_cap_is_kept_on_a_card_that_is_otherwise_free() -> None:
    assert busy(claim("a", cap=0.3)) == pytest.approx([0.3])


def test_a_burst_takes_what_is_free_and_no_more() -> None:
    assert busy(claim("a", cap=0.3, burst=True)) == pytest.approx([1.0])
    assert busy(claim("a", cap=0.3, burst=True), claim("b", wanted=0.5)) == pytest.approx([0.5, 0.5])
    assert busy(claim("a", cap=0.3, burst=True), claim("b")) == pytest.approx([0.3, 0.7])


def test_processes_of_an_allocation_split_its_share_by_what_they_want() -> None:
    shares = split_card([Claim({"a": 0.05, "b": 1.0, "c": 1.0}, cap=0.45), claim("d")])
    assert shares == pytest.approx({"a": 0.05, "b": 0.2, "c": 0.2, "d": 0.55})


def test_more_processes_make_no_larger_share() -> None:
    shares = split_card([Claim({"a": 1.0, "b": 1.0}), claim("c")])
    assert shares == pytest.approx({"a": 0.25, "b": 0.25, "c": 0.5})


uses = st.lists(st.one_of(st.just(0.0), st.just(1.0), st.floats(0.0, 1.0)), min_size=1, max_size=20)
totals = st.one_of(st.just(1.0), st.floats(0.001, 1.0))


def parts(total: float, *used: float) -> list[float]:
    """The parts of processes that use so much of the card, in their order."""
    return list(split_by_use(total, {str(number): use for number, use in enumerate(used)}).values())


@given(totals, uses)
def test_all_of_an_allocation_s_share_is_split_whatever_its_processes_use(total: float, used: list[float]) -> None:
    assert sum(parts(total, *used)) == pytest.approx(total)


@given(totals, uses)
def test_no_process_has_less_than_it_uses_or_an_equal_part(total: float, used: list[float]) -> None:
    equal = total / len(used)
    assert all(part >= min(1.25 * use, equal) - TOLERANCE for part, use in zip(parts(total, *used), used, strict=True))


@given(totals, uses)
def test_who_uses_more_has_no_smaller_part(total: float, used: list[float]) -> None:
    ordered = parts(total, *sorted(used))
    assert all(one <= other + TOLERANCE for one, other in pairwise(ordered))


@given(totals, uses)
def test_a_process_that_uses_nothing_has_something_to_begin_with(total: float, used: list[float]) -> None:
    assert min(parts(total, *used)) >= total / len(used) / 4 - TOLERANCE


@given(totals, st.integers(1, 20), st.data())
def test_while_nobody_uses_much_of_an_equal_part_all_have_equal_parts(
    total: float, processes: int, data: st.DataObject
) -> None:
    equal = total / processes
    used = data.draw(st.lists(st.floats(0.0, 0.66 * equal), min_size=processes, max_size=processes))
    assert parts(total, *used) == pytest.approx([equal] * processes)


def test_what_a_process_does_not_use_the_others_may_have() -> None:
    assert parts(0.3, 1.0, 1.0) == pytest.approx([0.15, 0.15])
    assert parts(0.3, 0.02, 1.0) == pytest.approx([0.0375, 0.2625])
    assert parts(0.3, 0.02, 1.0, 1.0) == pytest.approx([0.0375, 0.13125, 0.13125])
    assert parts(0.3, 0.02, 0.13) == pytest.approx([0.09375, 0.20625]), "each has room to want more"
