"""The W3C trace context that a message carries: who handles it finds it here, and what is published meanwhile passes
it on.
"""

import re
from contextvars import ContextVar

HEADER = "traceparent"

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)

current_traceparent: ContextVar[str | None] = ContextVar("current_traceparent", default=None)
"""Trace context of the message that this task handles; None: none came with it."""


def valid_traceparent(text: str) -> bool:
    """Whether `text` has the form of a W3C traceparent (version-trace-parent-flags, in lower-case hexadecimal)."""
    return _TRACEPARENT.fullmatch(text) is not None
