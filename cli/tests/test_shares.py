"""Shares of the card that programs should get, and how far off they are."""

import pytest

from nvshare.cli.bench.shares import capped_shares, error_points, of_sum, weighted_shares


def test_weights_share_the_card_in_proportion() -> None:
    assert weighted_shares([100, 200]) == pytest.approx([1 / 3, 2 / 3])


def test_caps_within_the_card_are_what_they_say() -> None:
    assert capped_shares([30, 60]) == [0.3, 0.6]


def test_b7_caps_beyond_the_card_are_scaled_in_proportion() -> None:
    assert capped_shares([80, 80]) == [0.5, 0.5]
    assert capped_shares([60, 90]) == pytest.approx([0.4, 0.6])


def test_the_error_is_the_largest_one_in_points() -> None:
    assert error_points([0.31, 0.58], [0.3, 0.6]) == pytest.approx(2.0)


def test_speeds_as_parts_of_their_sum() -> None:
    assert of_sum([1.0, 3.0]) == [0.25, 0.75]
