"""`nvshare status`: what a node shares, with whom, and who waits for what; as tables for people or as JSON."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from nvshare.bus.compute import DEFAULT_WEIGHT, priority_word
from nvshare.bus.quantities import format_bytes
from nvshare.v1.client_pb2 import ClientState, Mode, Wait
from nvshare.v1.control_pb2 import (
    TIME_SHARING_AUTO,
    TIME_SHARING_UNSPECIFIED,
    ClientStatus,
    GpuStatus,
    MemoryHolder,
    ModeReply,
    StatusReply,
    TimeSharing,
)
from nvshare.v1.node_pb2 import LINK_DISCONNECTED, PRIORITY_NORMAL, PRIORITY_UNSPECIFIED, Allocation

_ENUM_PREFIXES = {
    "Mode": "MODE_",
    "Wait": "WAIT_",
    "ClientState": "CLIENT_STATE_",
    "Link": "LINK_",
    "Priority": "PRIORITY_",
    "TimeSharing": "TIME_SHARING_",
}


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
        for client in gpu.clients:
            parts += _client_lines(client, allocations.get(client.allocation, Allocation()))
        parts += [Text(f"  problem: {problem}", style="bold red") for problem in gpu.problems]
        # What is unmanaged is a problem, and has been named as one.
        parts += [Text(f"  {holder_words(one)}", style="yellow") for one in gpu.holders if not one.unmanaged]
    parts += _node_lines(reply)
    return Group(*parts)


def gpu_lines(gpu: GpuStatus) -> list[str]:
    """What stands above a GPU's table: which it is, how it is shared, its memory, and what was moved."""
    memory = (
        f"{format_bytes(gpu.promised_bytes)} of {format_bytes(gpu.capacity_bytes)} promised; "
        f"{format_bytes(gpu.used_bytes)} of {format_bytes(gpu.total_bytes)} used"
    )
    lines = [f"GPU {gpu.index}  {gpu.name}  {gpu.uuid}", f"{sharing_words(gpu)}; {memory}"]
    if gpu.time_sharing not in (TIME_SHARING_UNSPECIFIED, TIME_SHARING_AUTO):
        lines.append(f"time sharing: {time_sharing_words(gpu.time_sharing)}")
    if gpu.overcommit_bytes:
        needed = sum(needed_bytes(client) for client in gpu.clients)
        lines.append(f"{format_bytes(needed)} of at most {format_bytes(gpu.overcommit_bytes)} promised in all")
    if gpu.swapped_bytes or gpu.hand_overs:
        lines.append(f"{gpu.hand_overs} hand-overs, {format_bytes(gpu.swapped_bytes)} moved out and in")
    return lines


def _gpu_table(gpu: GpuStatus, allocations: Mapping[str, Allocation]) -> Table:
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    shares = [share_cells(allocations.get(client.allocation, Allocation())) for client in gpu.clients]
    shown = [heading for heading in ("cores", "weight", "priority") if any(heading in cells for cells in shares)]
    for heading in ("name", "pid", "state", "waits for", "memory"):
        table.add_column(heading)
    for heading in ("limit", "moved", "hand-overs", "busy"):
        table.add_column(heading, justify="right")
    for heading in shown:
        table.add_column(heading)
    for client, share in zip(gpu.clients, shares, strict=True):
        cells = client_cells(client, allocations.get(client.allocation, Allocation()))
        table.add_row(*map(escape, cells), *(share.get(heading, "") for heading in shown))
    return table


def share_cells(allocation: Allocation) -> dict[str, str]:
    """What an allocation was given of the GPU's time, by the heading of its column; without what is the default."""
    cells = {}
    if allocation.core_limit_percent:
        cells["cores"] = f"{allocation.core_limit_percent} %" + (", burst" if allocation.core_burst else "")
    if allocation.weight not in (0, DEFAULT_WEIGHT):
        cells["weight"] = str(allocation.weight)
    if allocation.priority not in (PRIORITY_UNSPECIFIED, PRIORITY_NORMAL):
        cells["priority"] = priority_word(allocation.priority)
    return cells


def quota_words(allocation: Allocation) -> str:
    """Where an allocation's quota is from, and since when it is in force."""
    sources = {"pod": "from its pod's annotations", "default": "the node's default", "user": "set by hand"}
    since = datetime.fromtimestamp(allocation.quota_since_unix_ns // 10**9, UTC)
    source = sources.get(allocation.quota_source, f"from {allocation.quota_source or 'somewhere'}")
    return f"quota {source}, in force since {since:%Y-%m-%d %H:%M:%S} UTC"


def client_cells(client: ClientStatus, allocation: Allocation) -> tuple[str, ...]:
    """One client's row of the table."""
    moved_bytes = client.swapped_out_bytes + client.swapped_in_bytes
    return (
        client_name(client, allocation),
        str(client.pid),
        state_words(client),
        wait_words(client.wait, client.wait_us, client.wanted_bytes),
        memory_words(client),
        format_bytes(allocation.memory_limit_bytes) if allocation.memory_limit_bytes else "",
        format_bytes(moved_bytes) if moved_bytes else "",
        str(client.hand_overs),
        f"{client.busy_permille / 10:.0f} %",
    )


def client_name(client: ClientStatus, allocation: Allocation) -> str:
    """The allocation's name, and the program's where it says more."""
    if allocation.name and client.name and client.name != allocation.name:
        return f"{allocation.name} ({client.name})"
    return allocation.name or client.name or "?"


def needed_bytes(client: ClientStatus) -> int:
    """Bytes on the card that a client takes when all of its memory is there; a library that moves none has them."""
    return client.needed_bytes or max(client.footprint_bytes, client.resident_bytes)


def memory_words(client: ClientStatus) -> str:
    """How much of a client's memory is on the card, and whether it is on its way."""
    needed = needed_bytes(client)
    if not needed:
        return ""
    present = _of(client.resident_bytes, needed)
    if client.needed_bytes and client.resident_bytes > client.target_bytes:
        return f"moving out: {present}, to {format_bytes(client.target_bytes)}"
    if client.resident_bytes >= needed:
        return f"on the card: {format_bytes(needed)}"
    if client.may_launch or client.target_bytes >= needed:  # a target below that is room that nobody else needs
        return f"moving in: {present}"
    return f"away: {present} on the card"


def _of(part_bytes: int, whole_bytes: int) -> str:
    """`3.1 of 12.5 GiB`: the part in the unit of the whole, so that the two can be compared at a glance."""
    number, unit = format_bytes(whole_bytes).split()
    return f"{part_bytes * float(number) / whole_bytes:.1f} of {number} {unit}"


def _client_lines(client: ClientStatus, allocation: Allocation) -> Iterator[Text]:
    """What is worth a line: where its quota is from, memory that cannot leave or could not be moved, host memory,
    turns.
    """
    who = client_name(client, allocation)
    if allocation.quota_since_unix_ns:
        yield Text(f"  {who}: {quota_words(allocation)}")
    if client.pinned_bytes:
        why = f": {client.pinned_reason}" if client.pinned_reason else ""
        yield Text(f"  {who}: {format_bytes(client.pinned_bytes)} cannot leave the card{why}")
    if client.pool_bytes:
        room = f" of {format_bytes(client.host_room_bytes)} that it could have" if client.host_room_bytes else ""
        yield Text(f"  {who}: {format_bytes(client.pool_bytes)} of host memory ready to move to{room}")
    if client.swap_failures:
        why = f": {client.swap_failure}" if client.swap_failure else ""
        yield Text(
            f"  {who}: memory could not be moved {client.swap_failures} times, the last time{why}", style="bold red"
        )
    if client.period_us:
        yield Text(f"  {who}: runs for {client.slot_length_us / 1000:.3g} ms of each {client.period_us / 1000:.3g} ms")
    if client.paid_permille:
        yield Text(
            f"  {who}: pays for {client.paid_permille / 10:.0f} % of its time on the card, which it shares with others"
        )
    if client.timeslice_us:
        yield Text(f"  {who}: has hardware time slices of {client.timeslice_us / 1000:.3g} ms")
    if client.timeslice_failure:
        yield Text(f"  {who}: keeps the driver's time slices: {client.timeslice_failure}")
    if client.gang:
        yield Text(f"  {who}: runs together with gang {client.gang}")


def _library_lines(reply: StatusReply) -> Iterator[str]:
    """Which builds of the library are in use; with names where there are several."""
    names: dict[str, list[str]] = {}
    allocations = {allocation.id: allocation for allocation in reply.allocations}
    for gpu in reply.gpus:
        for client in gpu.clients:
            if client.version:
                build = f"{client.version} ({client.build})"
                name = client_name(client, allocations.get(client.allocation, Allocation()))
                names.setdefault(build, []).append(name)
    for build, users in names.items():
        yield f"library {build}" + (f" of {', '.join(users)}" if len(names) > 1 else "")


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


def sharing_words(sharing: GpuStatus | ModeReply) -> str:
    """A GPU's mode, its quantum, and the longest wait where the quantum follows it."""
    if sharing.mode not in Mode.values():
        return f"mode {sharing.mode}"
    word = Mode.Name(sharing.mode).removeprefix("MODE_").lower()
    if sharing.mode == Mode.MODE_OFF:
        return word
    words = f"{word}, quantum {sharing.quantum_us / 1e6:.3g} s"
    max_wait = f"max wait {sharing.max_wait_us / 1e6:g} s"
    if sharing.quantum_auto:
        return f"{words} (auto, {max_wait})"
    if sharing.quantum_us < sharing.fixed_quantum_us:
        return f"{words} (of {sharing.fixed_quantum_us / 1e6:.3g} s: {max_wait})"
    return words


def time_sharing_words(time_sharing: TimeSharing) -> str:
    """By which means programs on a GPU share its time."""
    if time_sharing not in TimeSharing.values():
        return f"way {time_sharing}"
    return TimeSharing.Name(time_sharing).removeprefix("TIME_SHARING_").lower()


def holder_words(holder: MemoryHolder) -> str:
    """Who holds memory that no living client accounts for, and how much."""
    who = " of ".join(filter(None, (f"pid {holder.pid}" if holder.pid else "", holder.client))) or "unknown"
    return f"memory held without a living client: {format_bytes(holder.bytes)} by {who}"


def _node_lines(reply: StatusReply) -> list[RenderableType]:
    lines = [
        f"node {reply.node}: scheduler {reply.version} ({reply.build})",
        f"relay {reply.relay_version} ({reply.relay_build}), heard {reply.relay_age_us / 1e6:.1f} s ago",
        *_library_lines(reply),
    ]
    if reply.arena_bytes:
        lines.append(
            f"node arena: {format_bytes(reply.arena_reserved_bytes)} of {format_bytes(reply.arena_bytes)} reserved, "
            f"{format_bytes(reply.arena_made_bytes)} made"
        )
    if reply.settling:
        lines.append("just restarted: not every living client has spoken yet")
    if reply.unknown_messages or reply.malformed_messages:
        lines.append(f"messages not understood: {reply.unknown_messages}, malformed: {reply.malformed_messages}")
    active = {client.allocation for gpu in reply.gpus for client in gpu.clients}
    at_rest = [f"{share.name or share.id} ({share.id})" for share in reply.allocations if share.id not in active]
    if at_rest:
        lines.append(f"allocations without a client: {', '.join(at_rest)}")
    return [Text(line) for line in lines]
