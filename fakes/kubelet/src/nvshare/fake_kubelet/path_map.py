"""Paths that are other ones elsewhere. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class PathMap:
    """`pairs` of folders: as they are called here, and there. The deepest one counts."""

    pairs: tuple[tuple[str, str], ...] = ()

    def __call__(self, path: str) -> str:
        """What `path` is called there."""
        pure = PurePosixPath(path)
        fitting = [(here, there) for here, there in self.pairs if pure.is_relative_to(here)]
        if not fitting:
            return path
        here, there = max(fitting, key=lambda pair: len(PurePosixPath(pair[0]).parts))
        return str(PurePosixPath(there) / pure.relative_to(here))
