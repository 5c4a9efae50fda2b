"""What the coordinator of gangs is told of a GPU, from the state of its arbiter. Pure."""

from __future__ import annotations

from nvshare.scheduler.clients import Client
from nvshare.scheduler.eviction import Moment, idle_from_ns, quantum_ends_ns
from nvshare.scheduler.model import ClientState, Mode
from nvshare.scheduler.places import Claim, GpuClaims
from nvshare.scheduler.policy import Policy
from nvshare.scheduler.state import ArbiterState
from nvshare.scheduler.turns import turn_ends_ns


def gpu_claims(state: ArbiterState, now_ns: int, policy: Policy) -> GpuClaims | None:
    """The claims of all clients of the GPU. None: the arbiter does not know enough yet to say."""
    if state.blind:
        return None
    return GpuClaims(
        gpu=state.gpu,
        serial=state.mode == Mode.SERIAL,
        capacity_bytes=state.capacity_bytes(policy),
        quantum_ns=state.quantum_ns,
        ghost_bytes=state.card.ghost_bytes,
        claims=tuple(
            _claim(client, state, now_ns, policy)
            for client in state.clients.values()
            if client.spoken and client.on_gpu and not client.leaving
        ),
    )


def gang_of(client: Client, state: ArbiterState) -> str:
    """What names the gang that a client is in, if others of that gang are on other GPUs: the group that its owner
    named, else its allocation, where its work shows that it is tied to others'. Empty: it is in none.
    """
    allocation = state.allocations.get(client.allocation)
    if allocation is not None and allocation.group:
        return allocation.group
    return client.allocation if client.report is not None and client.report.gang else ""


def _claim(client: Client, state: ArbiterState, now_ns: int, policy: Policy) -> Claim:
    stopped = client.is_silent(now_ns, policy.silent_ns) or client.is_lost(now_ns, policy.drain_limit_ns)
    wants_now = client.demand or client.allocation_waits
    rests_from_ns = idle_from_ns(client, policy)
    demand = (wants_now or now_ns < rests_from_ns) and not stopped
    placed = _is_placed(client, state)
    return Claim(
        key=client.key,
        # Where nothing is managed everybody may run.
        gang="" if state.mode == Mode.OFF else gang_of(client, state),
        demand=demand,
        demand_ends_ns=0 if wants_now else rests_from_ns,
        placed=placed,
        arrived=client.resident_bytes >= client.needed_bytes,
        ends_ns=_quantum_ends_ns(client, state, now_ns, policy),
        waiting_ns=_waiting_ns(client, state, now_ns) if demand and not placed and client.reachable else None,
        quiet=stopped or (client.state != ClientState.STUCK and not client.may_still_launch(state.settling)),
        needed_bytes=client.needed_bytes if client.refused else client.wish_bytes,
        resident_bytes=client.resident_bytes,
        stays_bytes=client.staying_bytes,
    )


def _is_placed(client: Client, state: ArbiterState) -> bool:
    if state.mode == Mode.SERIAL and state.turns.holder != client.key:
        return False
    return client.coming or not client.asks_for_memory


def _quantum_ends_ns(client: Client, state: ArbiterState, now_ns: int, policy: Policy) -> int:
    """When it must make room for who waits."""
    if client.coming:
        return now_ns + state.quantum_ns  # others make room for it now
    if state.mode == Mode.SERIAL:
        return turn_ends_ns(state.turns, client, state.quantum_ns, policy)
    return quantum_ends_ns(client, Moment(now_ns, state.quantum_ns, policy))


def _waiting_ns(client: Client, state: ArbiterState, now_ns: int) -> int:
    since_ns = client.memory_wait_ns
    if since_ns is None and state.mode == Mode.SERIAL:
        since_ns = client.turn_wait_ns
    return now_ns if since_ns is None else since_ns
