"""Selectors by labels and by fields, as lists and watches take them. Pure."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from nvshare.fake_api_server.resources import Resource
from nvshare.fake_api_server.statuses import BAD_REQUEST, ApiError

Object = Mapping[str, Any]
Predicate = Callable[[Object], bool]

_COMMA = re.compile(r",(?![^(]*\))")  # not one inside of `in (a,b)`
_SET = re.compile(r"(\S+)\s+(in|notin)\s+\(([^()]*)\)")
_EQUALITY = re.compile(r"([^=!\s]+)\s*(==|!=|=)\s*([^=!\s]*)")
_EXISTS = re.compile(r"(!?)\s*([^=!\s()]+)")


def predicate(resource: Resource, labels: str, fields: str) -> Predicate:
    """Whether an object is selected by both texts; an empty text selects all. Raises ApiError (400)."""
    tests = [_label_test(term.strip()) for term in _COMMA.split(labels) if term.strip()]
    tests += [_field_test(resource, term.strip()) for term in fields.split(",") if term.strip()]
    return lambda candidate: all(test(candidate) for test in tests)


def _label_test(term: str) -> Predicate:
    if found := _SET.fullmatch(term):
        key, values = found[1], {value.strip() for value in found[3].split(",")}
        wanted = found[2] == "in"
        return lambda candidate: (_labels(candidate).get(key) in values) == wanted
    if found := _EQUALITY.fullmatch(term):
        key, value = found[1], found[3]
        wanted = found[2] != "!="
        return lambda candidate: (_labels(candidate).get(key) == value) == wanted
    if found := _EXISTS.fullmatch(term):
        key, wanted = found[2], not found[1]
        return lambda candidate: (key in _labels(candidate)) == wanted
    raise ApiError(BAD_REQUEST, f"unable to parse requirement: {term!r}")


def _labels(candidate: Object) -> Mapping[str, str]:
    return candidate.get("metadata", {}).get("labels") or {}


def _field_test(resource: Resource, term: str) -> Predicate:
    found = _EQUALITY.fullmatch(term)
    if not found:
        raise ApiError(BAD_REQUEST, f"invalid field selector: {term!r}")
    name, wanted, value = found[1], found[2] != "!=", found[3]
    if name not in ("metadata.name", "metadata.namespace", *resource.fields):
        raise ApiError(BAD_REQUEST, f"field label not supported: {name}")
    return lambda candidate: (_field(candidate, name) == value) == wanted


def _field(candidate: Object, name: str) -> str:
    value: Any = candidate
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return "" if value is None else str(value)
