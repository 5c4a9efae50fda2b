"""How a benchmark is to be run in a cluster. Every command loads this module: it imports little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nvshare.cli.arguments import USAGE
from nvshare.cli.errors import CommandError

RESOURCE = "nvshare.com/gpu"
SECONDS = 60.0


@dataclass(frozen=True)
class ClusterOptions:
    """`pods` run at once, each with one of `resource`; then, if given, as many with one of `baseline`. What is empty
    has its default.
    """

    pods: int
    resource: str = RESOURCE
    baseline: str = ""
    image: str = ""
    runtime_class: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""
    kubeconfig: Path | None = None
    api_server: str = ""
    emulated: bool = False
    seconds: float = SECONDS
    command: str = ""


def parse_annotations(given: Sequence[str]) -> dict[str, str]:
    """Of `KEY=VALUE`s; a key without a prefix is one of nvshare's. Raises CommandError."""
    found = {}
    for text in given:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise CommandError(f"--annotation {text}: write it like gpu-core-limit=30", USAGE)
        found[key if "/" in key else f"nvshare.com/{key}"] = value
    return found
