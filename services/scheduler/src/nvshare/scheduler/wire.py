"""Messages of `nvshare.v1` to and from the scheduler's own types. Nothing in a message is believed about identity."""

from __future__ import annotations

from nvshare.bus.compute import DEFAULT_WEIGHT, GREATEST_CORE_PERCENT, GREATEST_WEIGHT
from nvshare.scheduler.activity import ACTIVITY_STEPS
from nvshare.scheduler.model import (
    Allocation,
    ClientState,
    Grant,
    Link,
    Mode,
    Peer,
    Priority,
    PublishEvent,
    RelayReported,
    Report,
)
from nvshare.v1 import client_pb2, node_pb2

_LONGEST_NAME = 64
_LONGEST_REASON = 200
_STATES = {int(state): state for state in ClientState}
_MODES = {int(mode): mode for mode in Mode}
_PRIORITIES = {int(priority): priority for priority in Priority}


def report_from(message: client_pb2.Report) -> Report:
    """A client's report. A state that this build does not know counts as unspecified; names are cut and cleaned."""
    return Report(
        sequence=message.sequence,
        generation=message.generation,
        epoch=message.epoch,
        state=_STATES.get(int(message.state), ClientState.UNSPECIFIED),
        demand=message.demand,
        footprint_bytes=message.footprint_bytes,
        resident_bytes=message.resident_bytes,
        wanted_bytes=message.wanted_bytes,
        allocation_waits=message.allocation_waits,
        busy_permille=message.busy_permille,
        drain_us=message.drain_us,
        longest_work_us=message.longest_work_us,
        window_us=message.window_us,
        launches=message.launches,
        busy_us=message.busy_us,
        gate_wait_us=message.gate_wait_us,
        allocation_wait_us=message.allocation_wait_us,
        hand_overs=message.hand_overs,
        unknown_messages=message.unknown_messages,
        malformed_messages=message.malformed_messages,
        monotonic_ns=message.monotonic_ns,
        name=_clean(message.name),
        version=_clean(message.version),
        build=_clean(message.build),
        protocol=message.protocol,
        leaving=message.leaving,
        external_bytes=message.external_bytes,
        needed_bytes=message.needed_bytes,
        wanted_needed_bytes=message.wanted_needed_bytes,
        pinned_bytes=message.pinned_bytes,
        pinned_reason=_clean(message.pinned_reason, _LONGEST_REASON),
        host_room_bytes=message.host_room_bytes,
        pool_bytes=message.pool_bytes,
        swapped_out_bytes=message.swapped_out_bytes,
        swapped_in_bytes=message.swapped_in_bytes,
        swap_out_us=message.swap_out_us,
        swap_in_us=message.swap_in_us,
        swap_failures=message.swap_failures,
        swap_failure=_clean(message.swap_failure, _LONGEST_REASON),
        gang=message.gang,
        swaps=message.swaps,
        timeslice_us=message.timeslice_us,
        timeslice_failure=_clean(message.timeslice_failure, _LONGEST_REASON),
        activity=_clean(message.activity, ACTIVITY_STEPS),
        activity_end_ns=message.activity_end_ns,
    )


def relay_state_from(message: node_pb2.RelayState, gpu: str) -> RelayReported:
    """What the relay's state says about one GPU: the allocations that include it, and their peers."""
    allocations = {
        allocation.id: _allocation_from(allocation) for allocation in message.allocations if gpu in allocation.gpus
    }
    peers = tuple(_peer_from(peer, gpu) for peer in message.peers if peer.allocation in allocations)
    return RelayReported(message.generation, message.sequence, tuple(allocations.values()), peers)


def grant_to(grant: Grant, gpu: str, client: str, build: str, protocol: int) -> client_pb2.Grant:
    """The message of a grant."""
    return client_pb2.Grant(
        gpu=gpu,
        client=client,
        generation=grant.generation,
        epoch=grant.epoch,
        sequence=grant.sequence,
        may_launch=grant.may_launch,
        resident_bytes=grant.resident_bytes,
        headroom_bytes=grant.headroom_bytes,
        limit_bytes=grant.limit_bytes,
        window_us=grant.window_us,
        wait=client_pb2.Wait.Name(grant.wait),
        mode=client_pb2.Mode.Name(grant.mode),
        build=build,
        protocol=protocol,
        pool_bytes=grant.pool_bytes,
        limited_by=client_pb2.Limit.Name(grant.limited_by),
        timeslice_us=grant.timeslice_us,
        slot_start_us=grant.slot.start_us if grant.slot else 0,
        slot_length_us=grant.slot.length_us if grant.slot else 0,
        period_us=grant.slot.period_us if grant.slot else 0,
        paid_permille=grant.paid_permille,
    )


def event_to(event: PublishEvent, gpu: str, time_unix_ns: int) -> node_pb2.Event:
    """The message of an event."""
    return node_pb2.Event(
        kind=event.kind,
        gpu=gpu,
        allocation=event.allocation,
        client=event.client,
        time_unix_ns=time_unix_ns,
        bytes=event.size_bytes,
        duration_us=event.duration_ns // 1000,
        text=event.text,
    )


def mode_from(number: int) -> Mode | None:
    """The mode of a request. None: this build does not know it."""
    return _MODES.get(number)


def _allocation_from(allocation: node_pb2.Allocation) -> Allocation:
    """A priority that this build does not know counts as normal; numbers are kept within their bounds."""
    return Allocation(
        id=allocation.id,
        name=allocation.name,
        uid=allocation.uid,
        memory_limit_bytes=allocation.memory_limit_bytes,
        core_limit_percent=min(allocation.core_limit_percent, GREATEST_CORE_PERCENT),
        weight=min(allocation.weight or DEFAULT_WEIGHT, GREATEST_WEIGHT),
        priority=_PRIORITIES.get(int(allocation.priority), Priority.NORMAL),
        core_burst=allocation.core_burst,
        group=_clean(allocation.group),
        pod=_clean(f"{allocation.pod.namespace}/{allocation.pod.name}") if allocation.HasField("pod") else "",
        pod_uid=_clean(allocation.pod.uid),
    )


def _peer_from(peer: node_pb2.Peer, gpu: str) -> Peer:
    journal = next((entry for entry in peer.journal if entry.gpu == gpu), None)
    return Peer(
        allocation=peer.allocation,
        client=peer.client,
        pid=peer.pid,
        link=Link.CONNECTED if peer.link == node_pb2.LINK_CONNECTED else Link.DISCONNECTED,
        journaled=journal is not None,
        journal_resident_bytes=journal.resident_bytes if journal else 0,
        journal_promised_bytes=journal.promised_bytes if journal else 0,
    )


def _clean(text: str, longest: int = _LONGEST_NAME) -> str:
    text = text[:longest]
    return text if text.isprintable() else "".join(character for character in text if character.isprintable())
