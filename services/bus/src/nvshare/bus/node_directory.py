"""The files of a node: where each is (docs/protocol.md, "Files of a node"), and the node's description of itself."""

import fcntl
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SYSTEM_PATH = Path("/run/nvshare")


@dataclass(frozen=True, slots=True)
class NodeDirectory:
    """A node's folder. Nothing in it need exist yet."""

    path: Path

    @classmethod
    def default(cls) -> "NodeDirectory":
        """The folder that this user's node has: $NVSHARE_NODE_DIR, else as root /run/nvshare, else one for this
        user.
        """
        given = os.environ.get("NVSHARE_NODE_DIR")
        if given:
            return cls(Path(given).absolute())
        if os.geteuid() == 0:
            return cls(_SYSTEM_PATH)
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        return cls(Path(runtime) / "nvshare" if runtime else Path(f"/tmp/nvshare-{os.geteuid()}"))

    @classmethod
    def find(cls) -> "NodeDirectory | None":
        """The folder of a node that runs and that this user may use: the default one, else the machine's. None: no
        node runs.

        When NVSHARE_NODE_DIR names a folder, only that one counts. A folder that was not named must be trusted too:
        anybody may make one in /tmp under another user's number.
        """
        if os.environ.get("NVSHARE_NODE_DIR"):
            named = cls.default()
            return named if named.is_running() else None
        candidates = (cls.default(), cls(_SYSTEM_PATH))
        return next((one for one in candidates if one.is_trusted() and one.is_running()), None)

    @property
    def lock(self) -> Path:
        return self.path / "node.lock"

    @property
    def description(self) -> Path:
        return self.path / "node.json"

    @property
    def control_socket(self) -> Path:
        return self.path / "control.sock"

    @property
    def credentials(self) -> Path:
        return self.path / "credentials"

    @property
    def nats(self) -> Path:
        return self.path / "nats"

    @property
    def allocations(self) -> Path:
        return self.path / "allocations"

    @property
    def relay(self) -> Path:
        return self.path / "relay"

    @property
    def relay_journal(self) -> Path:
        return self.relay / "journal.jsonl"

    @property
    def relay_arena(self) -> Path:
        return self.relay / "arena.json"

    @property
    def scheduler(self) -> Path:
        return self.path / "scheduler"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def service_credentials(self, service: str) -> Path:
        """The file with the bearer token of one service."""
        return self.credentials / f"{service}.creds"

    def allocation(self, allocation: str) -> Path:
        """The folder of one allocation."""
        return self.allocations / allocation

    def allocation_description(self, allocation: str) -> Path:
        return self.allocation(allocation) / "allocation.json"

    def allocation_socket(self, allocation: str) -> Path:
        return self.allocation(allocation) / "nvshare.sock"

    def allocation_arena_socket(self, allocation: str) -> Path:
        return self.allocation(allocation) / "arena.sock"

    def touch_allocations(self, now_ns: int) -> None:
        """Lets the relay see at once that a description has changed. `now_ns` differs from call to call, as the time of
        the file system's own clock may not. Raises OSError.
        """
        os.utime(self.allocations, ns=(now_ns, now_ns))

    def log(self, service: str) -> Path:
        """The log file of one service."""
        return self.logs / f"{service}.log"

    def is_trusted(self) -> bool:
        """Whether it is a folder that only this user and root can put files into."""
        try:
            status = self.path.lstat()
        except OSError:
            return False
        ours = status.st_uid in (os.geteuid(), 0)
        return stat.S_ISDIR(status.st_mode) and ours and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    def is_running(self) -> bool:
        """Whether a living process holds the node's lock and the node has described itself."""
        try:
            descriptor = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self.description.exists()
        except OSError:
            return False
        finally:
            os.close(descriptor)  # gives a lock that was free back at once
        return False

    def read_description(self) -> dict[str, Any]:
        """What node.json says. Raises OSError when it is not there, ValueError when it is no JSON object."""
        document = json.loads(self.description.read_text())
        if not isinstance(document, dict):
            raise ValueError(f"{self.description} is not a JSON object")
        return document

    def write_description(self, description: Mapping[str, Any]) -> None:
        """Writes node.json at once: a reader sees the old text or the new one."""
        write_atomically(self.description, json.dumps(dict(description), indent=2) + "\n")


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replaces `path` by `text` in one step, with permissions `mode`. Raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(text)
    beside.replace(path)
