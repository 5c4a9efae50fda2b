"""What an arbiter knows, for people: the answer to the verb `status`."""

from __future__ import annotations

from collections.abc import Iterator

from nvshare.bus.quantities import format_bytes
from nvshare.scheduler.clients import Client
from nvshare.scheduler.device_memory import Gpu
from nvshare.scheduler.model import ClientState, Link, Wait
from nvshare.scheduler.owners import unmanaged_words
from nvshare.scheduler.policy import SECOND_NS, Policy
from nvshare.scheduler.state import ArbiterState
from nvshare.v1 import client_pb2, control_pb2, node_pb2


def gpu_status(gpu: Gpu, state: ArbiterState, now_ns: int, policy: Policy) -> control_pb2.GpuStatus:
    """One GPU with its clients and its problems."""
    clients = [client for client in state.clients.values() if client.on_gpu]
    holders = [
        control_pb2.MemoryHolder(pid=ghost.pid, client=ghost.client.partition("/")[2], bytes=ghost.size_bytes)
        for ghost in state.card.ghosts
    ]
    holders += [
        control_pb2.MemoryHolder(
            pid=stranger.pid,
            bytes=stranger.size_bytes,
            unmanaged=True,
            command=stranger.owner.command,
            pod_uid=stranger.owner.pod_uid,
            container_id=stranger.owner.container_id,
        )
        for stranger in state.card.strangers
    ]
    return control_pb2.GpuStatus(
        uuid=gpu.uuid,
        index=gpu.index,
        name=gpu.name,
        mode=client_pb2.Mode.Name(state.mode),
        capacity_bytes=state.capacity_bytes(policy),
        promised_bytes=state.promised_bytes,
        total_bytes=state.card.total_bytes,
        used_bytes=state.card.used_bytes,
        quantum_us=state.quantum_ns // 1000,
        generation=state.generation,
        epoch=state.plan_epoch,
        clients=[_client_status(client, state, now_ns) for client in clients],
        problems=list(_problems(state, clients, now_ns, policy)),
        holders=holders,
        quantum_auto=state.fixed_quantum_ns == 0,
        max_wait_us=state.max_wait_ns // 1000,
        overcommit_bytes=state.capacity_bytes(policy) * policy.overcommit_percent // 100,
        hand_overs=state.hand_overs,
        swapped_bytes=state.moved.size_bytes,
        fixed_quantum_us=state.fixed_quantum_ns // 1000,
        time_sharing=control_pb2.TimeSharing.Name(policy.time_sharing),
    )


def _client_status(client: Client, state: ArbiterState, now_ns: int) -> control_pb2.ClientStatus:
    allocation = state.allocations.get(client.allocation)
    wait, since_ns = _waits(client, state)
    status = control_pb2.ClientStatus(
        allocation=client.allocation,
        client=client.client,
        pid=client.pid,
        state=client_pb2.ClientState.Name(client.state),
        link=node_pb2.Link.Name(client.link),
        may_launch=client.granted is not None and client.granted.may_launch,
        wait=client_pb2.Wait.Name(wait),
        wait_us=max(0, now_ns - since_ns) // 1000 if since_ns is not None else 0,
        headroom_bytes=max(0, client.ceiling_bytes - client.needed_bytes),
        uid=allocation.uid if allocation else -1,
        promised_bytes=client.charge_bytes,
        needed_bytes=client.needed_bytes,
        target_bytes=client.granted.ceiling_bytes if client.granted else 0,
        gang=client.gang,
    )
    grant = client.granted
    if grant is not None and grant.slot is not None:
        slot = grant.slot
        status.slot_start_us, status.slot_length_us, status.period_us = slot.start_us, slot.length_us, slot.period_us
        status.paid_permille = grant.paid_permille
    report = client.report
    if report is not None:
        status.name = report.name
        status.footprint_bytes = client.footprint_bytes
        status.resident_bytes = client.resident_bytes
        status.wanted_bytes = report.wanted_bytes
        status.hand_overs = report.hand_overs
        status.busy_permille = report.busy_permille
        status.drain_us = report.drain_us
        status.longest_work_us = report.longest_work_us
        status.window_us = report.window_us
        status.launches = report.launches
        status.version = report.version
        status.build = report.build
        status.protocol = report.protocol
        status.unknown_messages = report.unknown_messages
        status.malformed_messages = report.malformed_messages
        status.report_age_us = max(0, now_ns - client.reported_ns) // 1000
        status.gate_wait_us = report.gate_wait_us
        status.allocation_wait_us = report.allocation_wait_us
        status.busy_us = report.busy_us
        status.pinned_bytes = report.pinned_bytes
        status.pinned_reason = report.pinned_reason
        status.host_room_bytes = report.host_room_bytes
        status.pool_bytes = report.pool_bytes
        status.swapped_out_bytes = report.swapped_out_bytes
        status.swapped_in_bytes = report.swapped_in_bytes
        status.swap_out_us = report.swap_out_us
        status.swap_in_us = report.swap_in_us
        status.swap_failures = report.swap_failures
        status.swap_failure = report.swap_failure
        status.timeslice_us = report.timeslice_us
        status.timeslice_failure = report.timeslice_failure
    return status


def _waits(client: Client, state: ArbiterState) -> tuple[Wait, int | None]:
    """What the client waits for now, and since when. Who wants nothing waits for nothing."""
    if client.granted is None:
        return Wait.SCHEDULER, client.reported_ns if client.spoken else state.relay_heard_ns
    if client.memory_wait_ns is not None:
        return client.granted.wait, client.memory_wait_ns
    if client.demand and not client.granted.may_launch:
        return client.granted.wait, client.turn_wait_ns
    return Wait.NONE, None


def _problems(state: ArbiterState, clients: list[Client], now_ns: int, policy: Policy) -> Iterator[str]:
    """One sentence for each thing that somebody should look at."""
    if state.relay_heard_ns is None:
        yield "the relay has not spoken yet: nothing is promised"
    elif now_ns - state.relay_heard_ns > policy.silent_ns:
        yield f"the relay has not spoken for {(now_ns - state.relay_heard_ns) // SECOND_NS} s: is it running?"
    sampled_ns = state.card.sampled_ns or state.relay_known_ns
    if sampled_ns is not None and now_ns - sampled_ns > policy.silent_ns:
        seconds = (now_ns - sampled_ns) // SECOND_NS
        yield f"the driver has not answered for {seconds} s: has the GPU failed? Who runs goes on"
    for client in clients:
        if client.state == ClientState.STUCK or "client-stuck" in client.told:
            yield f"{client.client} is stuck: its work in flight does not end; others take their turns without it"
        elif not client.spoken and not state.settling:
            yield f"{client.client} lives and has not spoken since the scheduler started; its memory stays promised"
        elif client.is_silent(now_ns, policy.silent_ns):
            yield f"{client.client} does not report: is it stopped? Its memory stays on the card"
        elif client.link == Link.DISCONNECTED:
            yield f"{client.client} has lost the relay and runs on under its last grant"
        if client.refused:
            yield f"{client.client} was refused {format_bytes(client.wanted_bytes)}: all others wait or are idle"
        if "client-stays" in client.told:
            failure = f": {client.report.swap_failure}" if client.report and client.report.swap_failure else ""
            yield f"{client.client} should leave the card and does not{failure}; those that fit go on"
        if "memory-held" in client.told:
            yield f"{client.client} waits for memory that cannot leave the card: see what is pinned, stopped or stuck"
        if "protocol-differs" in client.told:
            yield f"{client.client} speaks another protocol and is not served: update the older of the two"
    for ghost in state.card.ghosts:
        name = ghost.client.partition("/")[2] or f"process {ghost.pid}"
        yield f"{name} has ended and {format_bytes(ghost.size_bytes)} of its memory are still on the card"
    for stranger in state.card.strangers:
        yield unmanaged_words(stranger.pid, stranger.size_bytes, stranger.owner, state.allocations.values())
    if state.refused_reports:
        yield f"{state.refused_reports} reports were refused: of unknown clients, or impossible"
