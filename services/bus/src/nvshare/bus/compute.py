"""Shares of a GPU's time: their bounds, and the words that people use for priorities. Pure."""

from nvshare.v1.node_pb2 import PRIORITY_BEST_EFFORT, PRIORITY_NORMAL, PRIORITY_UNSPECIFIED, Priority

GREATEST_CORE_PERCENT = 100
DEFAULT_WEIGHT = 100
GREATEST_WEIGHT = 1000


def _word(name: str) -> str:
    return name.removeprefix("PRIORITY_").lower().replace("_", "-")


PRIORITIES = {_word(name): number for name, number in Priority.items() if number != PRIORITY_UNSPECIFIED}
"""The priorities, from the lowest to the highest, and their numbers in the contract."""

_WORDS = {number: word for word, number in PRIORITIES.items()}

BEST_EFFORT = _WORDS[PRIORITY_BEST_EFFORT]
NORMAL = _WORDS[PRIORITY_NORMAL]


def priority_word(number: int) -> str:
    """The word of a priority; one that was left out is normal, one that this build does not know is in no list."""
    return NORMAL if number == PRIORITY_UNSPECIFIED else _WORDS.get(number, f"unknown priority {number}")
