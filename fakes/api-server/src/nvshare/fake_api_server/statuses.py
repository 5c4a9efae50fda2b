"""The `Status` objects with which an API server refuses."""

from typing import Any

GONE = 410


def status(code: int, reason: str, message: str) -> dict[str, Any]:
    """A failure as the API server words it: in the body of an answer, or as the object of an ERROR event."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }
