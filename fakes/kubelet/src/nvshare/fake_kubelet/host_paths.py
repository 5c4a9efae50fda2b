"""A container's words in the paths of the host, for processes that have no file system of their own. Pure.

There are no mounts, so what a mount would do is done in words: wherever an argument or a variable of the environment
names a path under a mount, the host's path takes its place. A mounted `/etc/ld.so.preload` becomes LD_PRELOAD. What a
program finds under a fixed path of its own, without being told, must be told by a variable: `variables` names those.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from nvshare.fake_kubelet.launches import Launch
from nvshare.fake_kubelet.run_options import Mount

PRELOAD_FILE = "/etc/ld.so.preload"


@dataclass(frozen=True, slots=True)
class HostProcess:
    """A process of the host."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str = ""
    """Where it starts; where the runner is, if empty."""


Translate = Callable[[Launch], HostProcess]


@dataclass(frozen=True, slots=True)
class HostPaths:
    """Translates. `base` is the environment below the container's own; `variables` are set, unless the container sets
    them, to the host's path of a path in the container, where that is mounted; `read` reads a file of the host.
    `after` may change the environment at last.
    """

    base: Mapping[str, str]
    read: Callable[[str], str]
    variables: Mapping[str, str] = field(default_factory=dict)
    after: Callable[[dict[str, str]], dict[str, str]] = lambda environment: environment

    def __call__(self, launch: Launch) -> HostProcess:
        mounts = launch.mounts
        environment = {**self.base, **{name: to_host(text, mounts) for name, text in launch.environment.items()}}
        for name, path in self.variables.items():
            host = host_path(path, mounts)
            if host is not None and name not in launch.environment:
                environment[name] = host
        preload = host_path(PRELOAD_FILE, mounts)
        if preload is not None:
            libraries = [to_host(name, mounts) for name in self.read(preload).split()]
            before = launch.environment.get("LD_PRELOAD", "")
            environment["LD_PRELOAD"] = ":".join(filter(None, [to_host(before, mounts), *libraries]))
        return HostProcess(
            arguments=tuple(to_host(word, mounts) for word in (*launch.command, *launch.args)),
            environment=self.after(environment),
            directory=to_host(launch.container.working_directory, mounts),
        )


def host_path(path: str, mounts: Iterable[Mount]) -> str | None:
    """The host's path of a path in the container: under the deepest mount. None where nothing is mounted."""
    pure = PurePosixPath(path)
    over = [mount for mount in mounts if pure.is_relative_to(mount.container_path)]
    if not over:
        return None
    deepest = max(over, key=lambda mount: len(PurePosixPath(mount.container_path).parts))
    return str(PurePosixPath(deepest.host_path) / pure.relative_to(deepest.container_path))


def to_host(text: str, mounts: Iterable[Mount]) -> str:
    """`text` with every path under a mount in it as the host's; a path ends at anything but a name's letter."""
    by_path = {mount.container_path.rstrip("/"): mount.host_path.rstrip("/") for mount in mounts}
    if not by_path:
        return text
    deepest_first = sorted(by_path, key=len, reverse=True)
    pattern = "|".join(map(re.escape, deepest_first))
    return re.sub(rf"(?<![\w./-])(?:{pattern})(?![\w.-])", lambda match: by_path[match[0]], text)
