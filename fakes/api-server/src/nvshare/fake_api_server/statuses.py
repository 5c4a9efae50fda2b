"""The `Status` objects with which an API server refuses."""

from typing import Any

BAD_REQUEST = 400
UNAUTHORIZED = 401
NOT_FOUND = 404
METHOD_NOT_ALLOWED = 405
CONFLICT = 409
GONE = 410
UNSUPPORTED_MEDIA_TYPE = 415
UNPROCESSABLE = 422
TOO_MANY_REQUESTS = 429
INTERNAL = 500
UNAVAILABLE = 503

_REASONS = {
    BAD_REQUEST: "BadRequest",
    UNAUTHORIZED: "Unauthorized",
    403: "Forbidden",
    NOT_FOUND: "NotFound",
    METHOD_NOT_ALLOWED: "MethodNotAllowed",
    CONFLICT: "Conflict",
    GONE: "Expired",
    UNSUPPORTED_MEDIA_TYPE: "UnsupportedMediaType",
    UNPROCESSABLE: "Invalid",
    TOO_MANY_REQUESTS: "TooManyRequests",
    INTERNAL: "InternalError",
    UNAVAILABLE: "ServiceUnavailable",
    504: "Timeout",
}


class ApiError(Exception):
    """A refusal: `code` is HTTP's, `reason` the word by which programs tell refusals of one code apart."""

    def __init__(self, code: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason or _REASONS.get(code, "Unknown")

    def status(self) -> dict[str, Any]:
        return status(self.code, self.reason, str(self))


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


def expired(resource_version: str) -> ApiError:
    """What was asked for is older than what the server still knows."""
    return ApiError(GONE, f"too old resource version: {resource_version}")


def not_found(plural: str, name: str) -> ApiError:
    return ApiError(NOT_FOUND, f'{plural} "{name}" not found')
