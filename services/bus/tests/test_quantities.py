"""Amounts of memory, as people write and read them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvshare.bus.quantities import QuantityError, format_bytes, parse_bytes, parse_quantity


@pytest.mark.parametrize(
    ("text", "expected_bytes"),
    [
        ("4Gi", 4 * 2**30),
        ("16GiB", 16 * 2**30),
        ("512Mi", 512 * 2**20),
        ("1000000", 1_000_000),
        ("4G", 4 * 10**9),
        ("1.5Gi", 3 * 2**29),
        ("2 GiB", 2 * 2**30),
        ("64mib", 64 * 2**20),
        ("0", 0),
    ],
)
def test_an_amount_is_read(text: str, expected_bytes: int) -> None:
    assert parse_bytes(text) == expected_bytes


@pytest.mark.parametrize("text", ["", "Gi", "-1", "4Xi", "4 G i", "1e9", "٤Gi", "9" * 30, "9999999Ti", "4Gi\nx"])
def test_what_is_no_amount_gives_one_clear_line(text: str) -> None:
    with pytest.raises(QuantityError) as raised:
        parse_bytes(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "expected_bytes"),
    [
        ("4Gi", 4 * 2**30),
        ("512Mi", 512 * 2**20),
        ("0.5Gi", 2**29),
        (".5Gi", 2**29),
        ("1e9", 10**9),
        ("1.5E3", 1500),
        ("2E", 2 * 10**18),
        ("128k", 128_000),
        ("+1M", 10**6),
        ("0.0001", 1),
        ("0", 0),
    ],
)
def test_a_quantity_of_kubernetes_is_read(text: str, expected_bytes: int) -> None:
    assert parse_quantity(text) == expected_bytes


@pytest.mark.parametrize(
    "text",
    ["", "-1", "abc", "4gi", "4 Gi", "4GiB", "512m", "4K", "1e999", "9" * 31, "9Ei", "4Gi\n", "٤Gi", "1e-3", "."],
)
def test_what_is_no_quantity_gives_one_clear_line(text: str) -> None:
    with pytest.raises(QuantityError) as raised:
        parse_quantity(text)
    assert "\n" not in str(raised.value)


@given(st.text(max_size=30))
def test_any_text_is_a_quantity_or_a_quantity_error(text: str) -> None:
    with contextlib.suppress(QuantityError):
        assert parse_quantity(text) >= 0


@given(st.text(max_size=30))
def test_any_text_is_an_amount_or_a_quantity_error(text: str) -> None:
    with contextlib.suppress(QuantityError):
        assert parse_bytes(text) >= 0


@pytest.mark.parametrize(
    ("amount_bytes", "text"), [(12 * 2**30, "12.0 GiB"), (64 * 2**20, "64.0 MiB"), (512, "512 B"), (0, "0 B")]
)
def test_an_amount_is_written(amount_bytes: int, text: str) -> None:
    assert format_bytes(amount_bytes) == text
