"""What the server is told to do wrong, and to which requests. Pure."""

import fnmatch
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from nvshare.fake_api_server.statuses import BAD_REQUEST, ApiError


class Action(StrEnum):
    """What happens. Those from CUT on are for watches, and happen after `after_events` events."""

    STATUS = "status"  # refused with `code`, and Retry-After where `retry_after_seconds` is given
    DELAY = "delay"  # answered `seconds` later; a watch's events, too
    HANG = "hang"  # never answered; the connection is closed when the fault is removed
    RESET = "reset"  # the connection is closed without an answer
    CUT = "cut"  # the stream breaks off in the middle of a line
    END = "end"  # the stream ends in good order, as after timeoutSeconds
    GONE = "gone"  # an ERROR event with status 410, then the end
    ERROR = "error"  # an ERROR event with status `code`, then the end
    SILENT = "silent"  # the stream stays open, and nothing more comes
    BOOKMARKS_ONLY = "bookmarks-only"  # events are held back, bookmarks (of the version before them) come
    REPEAT = "repeat"  # each event comes twice


STREAM_ENDS = (Action.CUT, Action.END, Action.GONE, Action.ERROR, Action.SILENT)


@dataclass(frozen=True)
class Fault:
    """One rule. `verb` is Kubernetes's (`list`, `watch`, `patch`, …), `path` a pattern with `*`; `count` is the number
    of requests that it is for, None: until it is removed.
    """

    action: Action
    verb: str = "*"
    path: str = "*"
    count: int | None = None
    code: int = 500
    retry_after_seconds: int | None = None
    seconds: float = 0.0
    after_events: int = 0

    def matches(self, verb: str, path: str) -> bool:
        return self.verb in ("*", verb) and fnmatch.fnmatchcase(path, self.path)


class Faults:
    """The rules in force, in the order in which they were added; all that match a request happen to it."""

    def __init__(self) -> None:
        self._next = 1
        self._rules: dict[int, Fault] = {}

    def add(self, fault: Fault) -> int:
        """Returns the number by which it is removed."""
        number, self._next = self._next, self._next + 1
        self._rules[number] = fault
        return number

    def remove(self, number: int) -> None:
        """Does nothing when it is not there any more."""
        self._rules.pop(number, None)

    def clear(self) -> None:
        self._rules.clear()

    def take(self, verb: str, path: str) -> dict[int, Fault]:
        """The rules for one request by their numbers; those with a count are used up by it."""
        taken = {number: fault for number, fault in self._rules.items() if fault.matches(verb, path)}
        for number, fault in taken.items():
            if fault.count is None:
                continue
            if fault.count > 1:
                self._rules[number] = replace(fault, count=fault.count - 1)
            else:
                del self._rules[number]
        return taken

    def listing(self) -> dict[str, Any]:
        return {str(number): asdict(fault) for number, fault in self._rules.items()}


def fault_from(members: Mapping[str, Any]) -> Fault:
    """Reads a rule as `/fake/faults` takes it. Raises ApiError (400)."""
    try:
        return Fault(**{**members, "action": Action(members["action"])})
    except (KeyError, ValueError, TypeError) as error:
        known = ", ".join(Action)
        raise ApiError(
            BAD_REQUEST, f"not a fault ({error}): give action, one of {known}, and members of Fault"
        ) from None
