"""What a check says: one line each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """OK: all is well. UNKNOWN: it could not be found out. WARNING: it works, but less well. FAULT: it does not."""

    OK = "ok"
    UNKNOWN = "unknown"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Check:
    """`name`: what was looked at. `advice`: what to do; empty: nothing."""

    name: str
    verdict: Verdict
    text: str
    advice: str = ""

    def document(self) -> dict[str, str]:
        """As JSON-ready values."""
        return {"check": self.name, "verdict": self.verdict.value, "text": self.text, "advice": self.advice}


def ok(name: str, text: str) -> Check:
    return Check(name, Verdict.OK, text)


def unknown(name: str, text: str, advice: str = "") -> Check:
    return Check(name, Verdict.UNKNOWN, text, advice)


def warning(name: str, text: str, advice: str) -> Check:
    return Check(name, Verdict.WARNING, text, advice)


def fault(name: str, text: str, advice: str) -> Check:
    return Check(name, Verdict.FAULT, text, advice)


def exit_status(checks: Iterable[Check]) -> int:
    """1 when something is at fault; a warning is no failure."""
    return int(any(check.verdict is Verdict.FAULT for check in checks))
