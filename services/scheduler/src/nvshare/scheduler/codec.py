"""Dataclasses as JSON, both ways, by their type annotations.

What has its default value is left out. Known: int, float, str, bool, None, IntEnum, dataclasses, and list, tuple, set,
dict and optional of those.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, TypeVar

T = TypeVar("T")


def encode(value: Any) -> Any:
    """`value` as what the json module writes. Raises TypeError for a type that is not known."""
    match value:
        case IntEnum():
            return int(value)
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return [encode(item) for item in value]
        case set():
            return sorted(encode(item) for item in value)
        case dict():
            return {key: encode(item) for key, item in value.items()}
    if not dataclasses.is_dataclass(value):
        raise TypeError(f"cannot write a {type(value).__name__}")
    fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return {field.name: encode(item) for field, item in fields if item != _default(field)}


def decode(expected: type[T], data: Any) -> T:
    """The object of type `expected` that `encode` wrote as `data`. Raises ValueError."""
    try:
        return typing.cast(T, _decoded(expected, data))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no {expected.__name__}: {error}") from error


def encode_tagged(value: Any) -> dict[str, Any]:
    """As `encode`, with the name of the dataclass, for `decode_tagged`."""
    return {"type": type(value).__name__, **encode(value)}


def decode_tagged(union: types.UnionType, data: Mapping[str, Any]) -> Any:
    """The object that `encode_tagged` wrote, which is one of the dataclasses in `union`. Raises ValueError."""
    members = {member.__name__: member for member in typing.get_args(union)}
    name = data.get("type")
    if name not in members:
        raise ValueError(f"{name!r} is none of {', '.join(members)}")
    return decode(members[name], {field: item for field, item in data.items() if field != "type"})


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _decoded(expected: Any, data: Any) -> Any:
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin is types.UnionType:
        present = [argument for argument in arguments if argument is not types.NoneType]
        return None if data is None else _decoded(present[0], data)
    if origin is dict:
        return {key: _decoded(arguments[1], item) for key, item in data.items()}
    if origin in (list, tuple, set):
        return origin(_decoded(arguments[0], item) for item in _sequence(data))
    if isinstance(expected, type) and issubclass(expected, IntEnum):
        return expected(data)
    if isinstance(expected, type) and dataclasses.is_dataclass(expected):
        hints = _hints(expected)
        return expected(**{name: _decoded(hints[name], item) for name, item in data.items()})
    if type(data) is not expected:
        raise ValueError(f"{data!r} is no {expected.__name__}")
    return data


def _sequence(data: Any) -> Sequence[Any]:
    if not isinstance(data, list):
        raise ValueError(f"{data!r} is no list")
    return data


@functools.cache
def _hints(expected: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(expected)
