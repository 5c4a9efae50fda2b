"""What pods wrote in their logs, as rows of the table."""

from __future__ import annotations

import json
from collections.abc import Sequence

from nvshare.cli.bench.result import Row
from nvshare.cli.bench.workload import Answer
from nvshare.cli.kubernetes.pods import LONGEST_WORDS, PodState

_SHOWN_UUID_CHARACTERS = 12  # `GPU-` and the first group of digits


def answer_in(log: str) -> tuple[Answer, tuple[str, ...]] | None:
    """What the workload said in its log: its answer, and the UUIDs of the GPUs that it saw. None: it said nothing."""
    for line in reversed(log.splitlines()):
        try:
            document = json.loads(line)
            if document.get("event") == "result":
                return Answer.parse(document), tuple(map(str, document.get("gpus") or ()))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return None


def last_words(log: str) -> str:
    """The last line that somebody wrote before the end."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:LONGEST_WORDS] if lines else ""


def pod_row(name: str, state: PodState, log: str) -> Row:
    """A pod that has ended, or that will not: a row of the table."""
    found = answer_in(log)
    if state.phase == "Succeeded" and found is not None:
        answer, gpus = found
        return Row(
            name=name,
            gpu=_place(gpus, state.node),
            status=answer.status,
            seconds=answer.seconds,
            iterations_per_second=answer.iterations_per_second,
            checksum=answer.checksum,
        )
    if state.phase == "Succeeded":
        status = "said nothing of its work"
    elif state.ended:
        status = "; ".join(filter(None, (state.why or "failed", last_words(log))))
    else:
        status = f"did not end: {state}"
    return Row(name=name, gpu=_place((), state.node), status=status, seconds=0.0)


def _place(gpus: Sequence[str], node: str) -> str:
    shown = ", ".join(gpu[:_SHOWN_UUID_CHARACTERS] for gpu in gpus)
    return " on ".join(filter(None, (shown, node)))
