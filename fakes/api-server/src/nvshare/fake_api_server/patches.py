"""JSON merge patch (RFC 7386). Pure."""

from typing import Any


def merged(target: Any, patch: Any) -> Any:
    """`target` with `patch` applied; neither is changed. A null in the patch removes a member, a list replaces one."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result
