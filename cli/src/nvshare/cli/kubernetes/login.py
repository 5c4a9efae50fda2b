"""Tokens from the program that a kubeconfig names, as most clouds have it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from nvshare.bus.api_access import AccessError

_SECONDS = 60.0  # that it may take: some ask a server
_EARLY_SECONDS = 60.0  # before a token ends the next one is asked for


def login_by_program(exec_section: Mapping[str, Any]) -> Callable[[], str]:
    """Gives a function that gives the token to use now: the last one as long as it holds, else a new one."""
    held = ("", 0.0)

    def current_token() -> str:
        nonlocal held
        token, until = held
        if not token or time.time() > until - _EARLY_SECONDS:
            held = token, _ = _ask(exec_section)
        return token

    return current_token


def _ask(section: Mapping[str, Any]) -> tuple[str, float]:
    """A token, and until when it holds (seconds since 1970). Raises AccessError."""
    try:
        command = [str(section["command"]), *map(str, section.get("args") or ())]
        own = {str(one["name"]): str(one["value"]) for one in section.get("env") or ()}
        info = {"apiVersion": section["apiVersion"], "kind": "ExecCredential", "spec": {"interactive": False}}
    except (KeyError, TypeError) as error:
        raise AccessError(f"the kubeconfig's exec lacks something: {error!r}") from None
    environment = {**os.environ, **own, "KUBERNETES_EXEC_INFO": json.dumps(info)}
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        hint = str(section.get("installHint") or "").strip()
        raise AccessError(f"{command[0]} cannot be run: {error}" + (f"; {hint}" if hint else "")) from None
    if ended.returncode != 0:
        last = (ended.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise AccessError(f"{command[0]} gave no token (status {ended.returncode}): {last}")
    try:
        status = json.loads(ended.stdout)["status"]
        ends = status.get("expirationTimestamp")
        return str(status["token"]), datetime.fromisoformat(ends).timestamp() if ends else float("inf")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AccessError(f"{command[0]} gave no token: {error!r}") from None
