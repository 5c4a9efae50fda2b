"""The hub's NATS server: the text of its configuration, and its process.

The text is the same in a cluster, in docker-compose and in the tests. Who may do what stands in it, because a node is
trusted with itself only: what it may publish bears its name (docs/protocol.md, "The hub").
"""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from nvshare.bus.hub import DOMAIN, NOTICES
from nvshare.bus.hub_access import CLIENT_PORT, LEAF_PORT
from nvshare.bus.nats_server import MAX_PAYLOAD_BYTES, ServerProcess
from nvshare.bus.subjects import valid_token

QUOTAS = "nvshare-quotas"
"""Bucket of `PodQuota` by the pod's UID. quota-watcher writes it, the nodes read it."""

ALLOCATIONS = "nvshare-allocations"
"""Bucket of `Allocation` by `<node>.<allocation>`. Each node writes its own, whoever looks at the cluster reads it."""

ANY_NODE = "*"
"""Instead of a node's name: a password that all nodes share. Each can then speak for every other."""

# At the hub the server removes the domain from a client's subject before it asks whether he may publish there; a leaf's
# is judged as it came.
_API = "$JS.API"


@dataclass(frozen=True, slots=True)
class HubOptions:
    """How the hub is to run. Ports -1 are the system's choice. `nodes` has the password of each node, or one for
    `ANY_NODE`.
    """

    store: Path
    nodes: Mapping[str, str] = field(repr=False)
    watcher_password: str = field(repr=False)
    tool_password: str = field(repr=False)
    host: str = "127.0.0.1"
    port: int = CLIENT_PORT
    leaf_port: int = LEAF_PORT
    store_bytes: int = 1024**3
    certificate: Path | None = None
    certificate_key: Path | None = None
    http_port: int | None = None
    ports_directory: Path | None = None


def configuration(options: HubOptions) -> str:
    """Text of the hub's configuration file. Raises ValueError for a node's name that is none."""
    users = [
        *(_user(leaf_user(node), password, *_node(node)) for node, password in options.nodes.items()),
        _user("watcher", options.watcher_password, *_watcher()),
        _user("tool", options.tool_password, *_tool()),
    ]
    listed = "\n".join(users)
    tls = ""
    if options.certificate is not None and options.certificate_key is not None:
        files = f"cert_file: {_text(options.certificate)}, key_file: {_text(options.certificate_key)}"
        tls = f"tls: {{ {files} }}\n"
    more = "" if options.http_port is None else f"http: {json.dumps(f'{options.host}:{options.http_port}')}\n"
    if options.ports_directory is not None:
        more += f"ports_file_dir: {_text(options.ports_directory)}\n"
    return f"""\
server_name: "nvshare-hub"
host: {json.dumps(options.host)}
port: {options.port}
{tls}{more}\
jetstream: {{
  domain: {DOMAIN}
  store_dir: {_text(options.store)}
  max_memory_store: 67108864
  max_file_store: {options.store_bytes}
}}
leafnodes: {{
  host: {json.dumps(options.host)}
  port: {options.leaf_port}
  {tls}\
}}
accounts: {{
  NVSHARE: {{
    jetstream: {{ max_memory: 67108864, max_file: {options.store_bytes}, max_streams: 16, max_consumers: 4096 }}
    users: [
{listed}
    ]
  }}
}}
max_payload: {MAX_PAYLOAD_BYTES}
max_control_line: 4KB
max_pending: 16MB
write_deadline: "2s"
no_fast_producer_stall: true
ping_interval: "5s"
ping_max: 2
"""


def leaf_user(node: str) -> str:
    """The name of a node's user at the hub. Raises ValueError for a node's name that is none."""
    if node == ANY_NODE:
        return "leaf"
    if not valid_token(node):
        raise ValueError(f"{node[:80]!r} is no name of a node: use A-Z a-z 0-9 _ -")
    return f"leaf-{node}"


def _node(node: str) -> tuple[list[str], list[str]]:
    """What a node may publish, and what it may have: events of its cards, what bears its name, its part of JetStream.

    Events bear the card's name and not the node's: a node could tell lies about another one's card, to whoever watches.
    """
    api = f"$JS.{DOMAIN}.API"
    answers = "_INBOX.node.>" if node == ANY_NODE else f"_INBOX.node.{node}.>"
    return [
        f"nvshare.v1.node.{node}.>",
        "nvshare.v1.gpu.*.event.*",
        f"{api}.INFO",
        f"{api}.STREAM.CREATE.KV_{QUOTAS}",
        f"{api}.STREAM.CREATE.KV_{ALLOCATIONS}",
        f"{api}.STREAM.CREATE.{NOTICES.name}",
        *_reading(api, f"KV_{QUOTAS}"),
        *_reading(api, f"KV_{ALLOCATIONS}"),
        f"{api}.$KV.{ALLOCATIONS}.{node}.*",
    ], [answers]


def _watcher() -> tuple[list[str], list[str]]:
    """quota-watcher: writes the quotas, reads the notices, and is told of nothing else."""
    return [
        f"{_API}.INFO",
        f"{_API}.STREAM.CREATE.KV_{QUOTAS}",
        f"{_API}.STREAM.CREATE.{NOTICES.name}",
        *_reading(_API, f"KV_{QUOTAS}"),
        f"$KV.{QUOTAS}.*",
        f"{_API}.CONSUMER.DURABLE.CREATE.{NOTICES.name}.*",
        f"{_API}.CONSUMER.MSG.NEXT.{NOTICES.name}.*",
        f"$JS.ACK.{NOTICES.name}.>",
        f"$JS.ACK.{DOMAIN}.*.{NOTICES.name}.>",
    ], ["_INBOX.user.watcher.>"]


def _tool() -> tuple[list[str], list[str]]:
    """Whoever looks at the cluster: reads everything, changes nothing."""
    return [
        f"{_API}.INFO",
        f"{_API}.STREAM.INFO.*",
        f"{_API}.STREAM.NAMES",
        f"{_API}.STREAM.LIST",
        *_reading(_API, f"KV_{QUOTAS}"),
        *_reading(_API, f"KV_{ALLOCATIONS}"),
    ], ["nvshare.v1.>", "_INBOX.user.tool.>"]


def _reading(api: str, stream: str) -> list[str]:
    """What one asks who reads a stream by a consumer of his own."""
    return [f"{api}.CONSUMER.{verb}.{stream}{rest}" for verb, rest in _READING]


_READING = (("CREATE", ""), ("MSG.NEXT", ".*"), ("DELETE", ".*"))


def _user(name: str, password: str, publish: list[str], subscribe: list[str]) -> str:
    return f"""\
      {{
        user: {json.dumps(name)}
        password: {json.dumps(password)}
        permissions: {{
          publish: {{ allow: {_lines(publish)} }}
          subscribe: {{ allow: {_lines(subscribe)} }}
        }}
      }}"""


def _lines(subjects: list[str]) -> str:
    return "[\n" + "".join(f"            {json.dumps(subject)}\n" for subject in subjects) + "          ]"


def _text(path: Path) -> str:
    return json.dumps(str(path))


class HubServer(ServerProcess):
    """The hub's nats-server as a process, with its configuration in `directory`."""

    def __init__(
        self,
        options: HubOptions,
        directory: Path,
        *,
        log: IO[bytes] | None = None,
    ) -> None:
        # nats-server does not tell which port it chose for leaves.
        leaf_port = options.leaf_port if options.leaf_port > 0 else _free_port(options.host)
        self._options = replace(options, leaf_port=leaf_port, ports_directory=directory)
        super().__init__(directory, self._configured, port=options.port, log=log)

    @property
    def leaf_port(self) -> int:
        """The port where leaves come in."""
        return self._options.leaf_port

    @property
    def leaf_url(self) -> str:
        """Where leaves of this host come in."""
        return f"nats-leaf://127.0.0.1:{self.leaf_port}"

    def _configured(self, port: int) -> str:
        return configuration(replace(self._options, port=port))


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as listening:
        return int(listening.getsockname()[1])
