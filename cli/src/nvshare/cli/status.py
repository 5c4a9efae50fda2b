"""`nvshare status`: what a node shares, with whom, and who waits for what; as tables for people or as JSON."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from nvshare.bus.quantities import format_bytes
from nvshare.v1.client_pb2 import ClientState, Mode, Wait
from nvshare.v1.control_pb2 import ClientStatus, GpuStatus, MemoryHolder, StatusReply
from nvshare.v1.node_pb2 import LINK_DISCONNECTED, Allocation

_ENUM_PREFIXES = {"Mode": "MODE_", "Wait": "WAIT_", "ClientState": "CLIENT_STATE_", "Link": "LINK_"}


def status_document(message: Message) -> dict[str, Any]:
    """A message as JSON-ready values: every field under its name in the contract, enums as lower-case words."""
    return {field.name: _value(field, getattr(message, field.name)) for field in message.DESCRIPTOR.fields}


def _value(field: Any, value: Any) -> Any:
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return status_document(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        prefix = _ENUM_PREFIXES.get(field.enum_type.name, "")
        return known.name.removeprefix(prefix).lower() if known is not None else str(value)
    return value


def render_status(reply: StatusReply) -> RenderableType:
    """The whole status for a terminal: a table for each GPU, then the node's services and its allocations at rest."""
    parts: list[RenderableType] = []
    allocations = {allocation.id: allocation for allocation in reply.allocations}
    for gpu in sorted(reply.gpus, key=lambda gpu: gpu.index):
        parts += [Text(line, style="bold") for line in gpu_lines(gpu)]
        parts.append(_gpu_table(gpu, allocations) if gpu.clients else Text("  no client"))
        parts += [Text(f"  problem: {problem}", style="bold red") for problem in gpu.problems]
        parts += [Text(f"  {holder_words(holder)}", style="yellow") for holder in gpu.holders]
    parts += _node_lines(reply)
    return Group(*parts)


def gpu_lines(gpu: GpuStatus) -> list[str]:
    """What stands above a GPU's table: which it is, how it is shared, and its memory."""
    memory = (
        f"{format_bytes(gpu.promised_bytes)} of {format_bytes(gpu.capacity_bytes)} promised; "
        f"{format_bytes(gpu.used_bytes)} of {format_bytes(gpu.total_bytes)} used"
    )
    return [f"GPU {gpu.index}  {gpu.name}  {gpu.uuid}", f"{mode_words(gpu.mode, gpu.quantum_us)}; {memory}"]


def _gpu_table(gpu: GpuStatus, allocations: Mapping[str, Allocation]) -> Table:
    table = Table()
    for heading in ("name", "program", "pid", "allocation", "state", "waits for"):
        table.add_column(heading)
    for heading in ("limit", "footprint", "resident", "headroom", "hand-overs", "busy"):
        table.add_column(heading, justify="right")
    table.add_column("library")
    for client in gpu.clients:
        table.add_row(
            *(escape(cell) for cell in client_cells(client, allocations.get(client.allocation, Allocation())))
        )
    return table


def client_cells(client: ClientStatus, allocation: Allocation) -> tuple[str, ...]:
    """One client's row of the table."""
    return (
        allocation.name or "?",
        client.name or "?",
        str(client.pid),
        client.allocation,
        state_words(client),
        wait_words(client.wait, client.wait_us, client.wanted_bytes),
        format_bytes(allocation.memory_limit_bytes) if allocation.memory_limit_bytes else "",
        format_bytes(client.footprint_bytes),
        format_bytes(client.resident_bytes),
        format_bytes(client.headroom_bytes),
        str(client.hand_overs),
        f"{client.busy_permille / 10:.0f} %",
        f"{client.version} ({client.build})" if client.version else "",
    )


def state_words(client: ClientStatus) -> str:
    """What a client does: its own word, or that it lives without a connection; and whether it holds the lock."""
    if client.link == LINK_DISCONNECTED:
        return "disconnected, holds the lock" if client.may_launch else "disconnected"
    if client.state not in ClientState.values():
        return f"state {client.state}"
    word = ClientState.Name(client.state).removeprefix("CLIENT_STATE_").lower()
    return "new" if word == "unspecified" else word


def wait_words(wait: Wait, wait_us: int, wanted_bytes: int) -> str:
    """What a client waits for, and for how long so far; empty: for nothing."""
    if wait == Wait.WAIT_NONE:
        return ""
    word = Wait.Name(wait).removeprefix("WAIT_").lower() if wait in Wait.values() else f"reason {wait}"
    goal = f" ({format_bytes(wanted_bytes)})" if wait == Wait.WAIT_MEMORY and wanted_bytes else ""
    return f"{word}{goal}, {wait_us / 1e6:.1f} s"


def limit_words(memory_limit_bytes: int) -> str:
    """A memory limit for people."""
    return format_bytes(memory_limit_bytes) if memory_limit_bytes else "no memory limit"


def mode_words(mode: Mode, quantum_us: int) -> str:
    """A GPU's mode and, where turns are taken, its quantum."""
    if mode not in Mode.values():
        return f"mode {mode}"
    word = Mode.Name(mode).removeprefix("MODE_").lower()
    return f"{word}, quantum {quantum_us / 1e6:g} s" if mode in (Mode.MODE_SERIAL, Mode.MODE_AUTO) else word


def holder_words(holder: MemoryHolder) -> str:
    """Who holds memory that no living client accounts for, and how much."""
    who = " of ".join(filter(None, (f"pid {holder.pid}" if holder.pid else "", holder.client))) or "unknown"
    return f"memory held without a living client: {format_bytes(holder.bytes)} by {who}"


def _node_lines(reply: StatusReply) -> list[RenderableType]:
    lines = [
        f"node {reply.node}: scheduler {reply.version} ({reply.build})",
        f"relay {reply.relay_version} ({reply.relay_build}), heard {reply.relay_age_us / 1e6:.1f} s ago",
    ]
    if reply.settling:
        lines.append("just restarted: not every living client has spoken yet")
    if reply.unknown_messages or reply.malformed_messages:
        lines.append(f"messages not understood: {reply.unknown_messages}, malformed: {reply.malformed_messages}")
    active = {client.allocation for gpu in reply.gpus for client in gpu.clients}
    at_rest = [f"{share.name or share.id} ({share.id})" for share in reply.allocations if share.id not in active]
    if at_rest:
        lines.append(f"allocations without a client: {', '.join(at_rest)}")
    return [Text(line) for line in lines]
