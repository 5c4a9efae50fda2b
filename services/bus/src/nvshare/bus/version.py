"""Which nvshare this is: its version, its build, and the version of the contract that it speaks."""

import importlib
import importlib.metadata

PROTOCOL = 1
"""Version of docs/protocol.md, in every grant, report and status."""


def _version() -> str:
    try:
        return importlib.metadata.version("nvshare-bus")
    except importlib.metadata.PackageNotFoundError:
        return "0.1.0"  # a source tree that was never installed


def _build() -> str:
    try:
        build: object = importlib.import_module("nvshare.v1._build").BUILD
    except ImportError:
        return "unknown"
    return str(build)


VERSION = _version()
"""Version of the distribution."""

BUILD = _build()
"""What the contract's generated code was built from (`git describe`), or "unknown"."""
