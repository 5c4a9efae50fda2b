"""The annotations of pods that nvshare reads, and what is wrong with them. Pure.

A bad value changes nothing: the last good one stays in force, and is named by its fault. Only an annotation that is not
there any more goes back to the default.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nvshare.bus.compute import GREATEST_CORE_PERCENT, GREATEST_WEIGHT, PRIORITIES
from nvshare.bus.quantities import QuantityError, parse_quantity

PREFIX = "nvshare.com/"
MEMORY_LIMIT = PREFIX + "gpu-memory-limit"
CORE_LIMIT = PREFIX + "gpu-core-limit"
WEIGHT = PREFIX + "gpu-weight"
PRIORITY = PREFIX + "gpu-priority"
CORE_BURST = PREFIX + "gpu-core-burst"
GROUP = PREFIX + "group"
MANAGED = PREFIX + "managed"

INVALID = "QuotaInvalid"
UNKNOWN = "QuotaUnknown"

Value = int | str | bool
Values = Mapping[tuple[str, str], Value]
"""What is in force: by annotation (one of the names above) and container; an empty container is all of them."""

_LEAST_MEMORY_BYTES = 2**20
_SHOWN_LETTERS = 40
_INTEGER = re.compile(r"[0-9]{1,18}", re.ASCII)
_GROUP = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)


class _BadValueError(ValueError):
    """What is wrong with a value, and what would be right; it stands behind `<key> is <value>, `."""


@dataclass(frozen=True)
class Fault:
    """An annotation that is not obeyed. `text` is one sentence for people, with the key and what would be right."""

    key: str
    reason: str
    text: str


@dataclass(frozen=True)
class Reading:
    """What is in force after annotations were read, and which of them are bad."""

    values: Values
    faults: tuple[Fault, ...]


def read(annotations: Mapping[str, str], containers: Sequence[str], last: Values) -> Reading:
    """The annotations of a pod with these `containers`, `last` being what was in force before."""
    values: dict[tuple[str, str], Value] = {}
    faults: list[Fault] = []
    for key, text in sorted(annotations.items()):
        if not key.startswith(PREFIX):
            continue
        name, dot, container = _split(key)
        rule = _RULES.get(name)
        if rule is None or (dot and not (container and rule.by_container)):
            faults.append(Fault(key, UNKNOWN, _unknown(key, name)))
            continue
        if dot and container not in containers:
            known = ", ".join(containers)
            what = f"{key} changes nothing: the pod has no container {container[:63]!r}; its containers are {known}"
            faults.append(Fault(key, INVALID, what))
            continue
        try:
            values[name, container] = rule.parse(text.strip())
        except _BadValueError as error:
            kept = last.get((name, container))
            if kept is not None:
                values[name, container] = kept
            stays = "the default applies" if kept is None else f"{rule.words(kept)} stays in force"
            faults.append(Fault(key, INVALID, f"{key} is {_shown(text)}, {error}; until then {stays}"))
    return Reading(values, tuple(faults))


def words(name: str, value: Value | None) -> str:
    """A value of the annotation `name` as one would write it; None: the default."""
    return "default" if value is None else _RULES[name].words(value)


def _split(key: str) -> tuple[str, str, str]:
    """Annotation, dot, and container of a key such as `nvshare.com/gpu-core-limit.main`."""
    name, dot, container = key.removeprefix(PREFIX).partition(".")
    return PREFIX + name, dot, container


def _unknown(key: str, name: str) -> str:
    near = difflib.get_close_matches(name, _RULES, n=1, cutoff=0.75)
    if name in _RULES:
        return f"{key[:100]} is not known and changes nothing: {name} is for the whole pod"
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{key[:100]} is not known and changes nothing{hint}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_LETTERS else text[:_SHOWN_LETTERS] + "…")


def _memory(text: str) -> int:
    hint = "write it like 4Gi, 512Mi or 1e9"
    try:
        amount = parse_quantity(text)
    except QuantityError as error:
        reason = "more than any GPU has" if "more memory" in str(error) else "no amount of memory"
        raise _BadValueError(f"which is {reason}: {hint}") from None
    if amount < _LEAST_MEMORY_BYTES:
        raise _BadValueError(f"which is only {amount} bytes: {hint}, at least 1Mi")
    return amount


def _integer(least: int, greatest: int, meaning: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not _INTEGER.fullmatch(text) or not least <= int(text) <= greatest:
            raise _BadValueError(f"but must be a whole number from {least} to {greatest}, {meaning}")
        return int(text)

    return parse


def _priority(text: str) -> str:
    if text not in PRIORITIES:
        raise _BadValueError(f"but must be one of {', '.join(PRIORITIES)}")
    return text


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise _BadValueError("but must be true or false")
    return text == "true"


def _group(text: str) -> str:
    if not _GROUP.fullmatch(text):
        raise _BadValueError("but must have 1 to 63 of the characters A-Z a-z 0-9 . _ -, a letter or digit at each end")
    return text


def _memory_words(value: Value) -> str:
    assert isinstance(value, int)
    units = (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10))
    return next((f"{value // unit}{suffix}" for suffix, unit in units if value % unit == 0), str(value))


def _plain_words(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class _Rule:
    parse: Callable[[str], Value]
    by_container: bool = True
    words: Callable[[Value], str] = _plain_words


_RULES = {
    MEMORY_LIMIT: _Rule(_memory, words=_memory_words),
    CORE_LIMIT: _Rule(_integer(1, GREATEST_CORE_PERCENT, "the percent of each GPU's time")),
    WEIGHT: _Rule(_integer(1, GREATEST_WEIGHT, "the share beside others; 100 is usual")),
    PRIORITY: _Rule(_priority),
    CORE_BURST: _Rule(_truth),
    GROUP: _Rule(_group, by_container=False),
    MANAGED: _Rule(_truth, by_container=False),
}
