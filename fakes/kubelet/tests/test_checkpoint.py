"""The checkpoint's text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some

from nvshare.fake_kubelet.accounting import Holding
from nvshare.fake_kubelet.checkpoint import CheckpointError, decode, encode

names = some.text(max_size=8)
ids = some.lists(names, max_size=3).map(tuple)
holdings = some.builds(
    Holding, names, names, names, some.dictionaries(some.integers(-1, 7), ids, max_size=3), some.binary(max_size=16)
)


@given(some.lists(holdings, max_size=3), some.dictionaries(names, some.sets(names).map(sorted).map(tuple), max_size=3))
def test_what_was_written_is_read(held: list[Holding], registered: dict[str, tuple[str, ...]]) -> None:
    checkpoint = decode(encode(held, registered, "boot"))

    assert list(checkpoint.holdings) == held
    assert checkpoint.registered == registered
    assert checkpoint.boot_id == "boot"


def test_a_changed_byte_is_noticed() -> None:
    text = encode([Holding("uid", "main", "e.com/x", {-1: ("a",)}, b"")], {}, "")

    with pytest.raises(CheckpointError, match="checksum"):
        decode(text.replace('"a"', '"b"'))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", json.dumps({"Data": {}, "Checksum": 1})])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError):
        decode(text)
