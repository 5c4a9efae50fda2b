"""Makes the plan of one GPU: decides everything anew from the state, and words it as grants.

A client whose grant comes out different gets a new one in a new epoch; everybody else hears nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter

from nvshare.bus.quantities import format_bytes
from nvshare.scheduler.activity import decide_what_is_paid
from nvshare.scheduler.busy import decide_who_is_busy
from nvshare.scheduler.clients import Client
from nvshare.scheduler.deadlock import Deadlock, find_deadlock
from nvshare.scheduler.eviction import Moment
from nvshare.scheduler.limits import Bound, Sums, asks_for_more, bound_of_card, quota_limits_bytes
from nvshare.scheduler.model import Allocation, Command, Grant, Limit, Link, Mode, PublishEvent, SendGrant, Wait
from nvshare.scheduler.policy import Policy
from nvshare.scheduler.pool import pool_sizes_bytes
from nvshare.scheduler.quantum import automatic_quantum_ns, bearable_quantum_ns, swap_time_ns
from nvshare.scheduler.residency import Dead, Residency, decide_residency
from nvshare.scheduler.room import Room
from nvshare.scheduler.slices import decide_slices
from nvshare.scheduler.slots import decide_slots
from nvshare.scheduler.state import ArbiterState
from nvshare.scheduler.turns import run_together, take_turns
from nvshare.scheduler.yielding import take_turns_to_yield, yielding_in_turns

_UNKNOWN = Allocation("")  # the relay has not named it yet: no terms of its own


def make_plan(state: ArbiterState, now_ns: int, policy: Policy) -> list[Command]:
    """Gives the grants that changed, then what happened. Sets when the plan must be made again (`wake_ns`)."""
    state.wake_ns = None
    if state.blind:
        return []
    clients = [client for client in state.clients.values() if client.on_gpu]
    events = _settle(state, clients, now_ns)
    capacity_bytes = state.capacity_bytes(policy)
    bounds = _bounds(state, clients, capacity_bytes, policy)
    events += _refusals(clients, bounds)
    _decide_quantum(state, clients, capacity_bytes, policy)
    if state.mode == Mode.OFF:
        _give_everything(state, clients, now_ns)
    else:
        events += _decide_memory(state, clients, bounds, capacity_bytes, _holder(state), now_ns, policy)
    terms = {client.key: state.allocations.get(client.allocation, _UNKNOWN) for client in clients}
    if state.mode == Mode.SERIAL:
        before = state.turns.holder
        turns = take_turns(state.turns, clients, state.settling, state.quantum_ns, now_ns, policy)
        events += turns.events
        state.wake_at(turns.wake_ns)
        holder = _holder(state)
        if holder is not None and holder.key != before and not holder.can_run:
            events += _decide_memory(state, clients, bounds, capacity_bytes, holder, now_ns, policy)
    else:
        in_turns = yielding_in_turns(clients, terms, state.mode, now_ns, policy)
        run_together(state.turns, [client for client in clients if client not in in_turns])
        turns = take_turns_to_yield(state.yielding, in_turns, terms, state.settling, now_ns, policy)
        events += turns.events
        state.wake_at(turns.wake_ns)
    decide_who_is_busy(clients, now_ns, policy)
    state.wake_at(decide_slots(clients, terms, state.mode, now_ns, policy))
    decide_slices(clients, terms, state.mode, now_ns, policy)
    state.weighed_to = decide_what_is_paid(clients, state.weighed_to, now_ns, policy)
    demands = _last_demands(clients, now_ns, policy)
    may_leave = _someone_may_leave(state, clients, capacity_bytes)
    pools_bytes = pool_sizes_bytes(clients, capacity_bytes, policy)
    grants: list[Command] = []
    for client in clients:
        if client.reachable:
            window_us = _window_us(state, client, demands, may_leave, now_ns, policy)
            grant = _next_grant(state, client, bounds[client.key], window_us, pools_bytes[client.key])
            if grant is not None:
                client.sent(grant, now_ns)
                state.latest_epoch = max(state.latest_epoch, grant.epoch)
                grants.append(SendGrant(client.allocation, client.client, grant))
    if grants:
        state.plan_epoch += 1
    return [*grants, *events]


def repair(state: ArbiterState, client: Client, now_ns: int, policy: Policy) -> list[Command]:
    """Sends the newest grant again to a client that has reported an older one, long enough after it was sent."""
    grant, report = client.granted, client.report
    if grant is None or report is None or not client.reachable:
        return []
    if (report.generation, report.epoch) == (grant.generation, grant.epoch):
        return []
    patience_ns = policy.resend_ns if report.generation == state.generation else policy.resend_unknown_ns
    if now_ns - client.granted_ns < patience_ns:
        return []
    again = replace(grant, sequence=grant.sequence + 1)
    client.sent(again, now_ns)
    return [SendGrant(client.allocation, client.client, again)]


def _settle(state: ArbiterState, clients: Sequence[Client], now_ns: int) -> list[PublishEvent]:
    """After a restart: waits until those that live and are connected have spoken, or for long enough."""
    if state.settle_until_ns is None:
        return []
    missing = [client for client in clients if client.link == Link.CONNECTED and not client.spoken]
    if missing and now_ns < state.settle_until_ns:
        state.wake_at(state.settle_until_ns)
        return []
    state.settle_until_ns = None
    return [
        PublishEvent(
            "client-silent",
            f"{client.client} lives and has not spoken since the scheduler started: is it stopped? It stays charged "
            f"with {format_bytes(client.charge_bytes)}",
            client.allocation,
            client.client,
            client.charge_bytes,
        )
        for client in clients
        if not client.spoken
    ]


def _holder(state: ArbiterState) -> Client | None:
    """Who has, or gets, the lock in serial mode."""
    return state.clients.get(state.turns.holder) if state.mode == Mode.SERIAL else None


def _bounds(state: ArbiterState, clients: Sequence[Client], capacity_bytes: int, policy: Policy) -> dict[str, Bound]:
    """What each client may ever have, by its key."""
    quotas_bytes = quota_limits_bytes(clients, state.allocations)
    sums: Sums | None = None  # only needed when somebody asks
    bounds = {}
    for client in clients:
        bound = bound_of_card(client, state.card.lone_capacity_bytes(policy, client.overhead_bytes))
        if client.key in quotas_bytes:
            bound = _lower(bound, Bound(quotas_bytes[client.key], Limit.QUOTA))
        if client.refused:
            bound = _lower(bound, Bound(client.footprint_bytes, Limit.HOST_ROOM))
        elif asks_for_more(client):
            if sums is None:
                sums = Sums(clients, capacity_bytes, capacity_bytes * policy.overcommit_percent // 100)
            bound = _lower(bound, sums.bound(client))
        bounds[client.key] = bound
    return bounds


def _lower(one: Bound, other: Bound | None) -> Bound:
    return other if other is not None and other.limit_bytes < one.limit_bytes else one


def _refusals(clients: Sequence[Client], bounds: Mapping[str, Bound]) -> list[PublishEvent]:
    """Tells the sums of what is refused because of others, once for each wish."""
    events = []
    for client in clients:
        bound = bounds[client.key]
        if not (bound.text and bound.refuses(client)):
            client.told.discard("memory-refused")
        elif "memory-refused" not in client.told:
            client.told.add("memory-refused")
            events.append(
                PublishEvent("memory-refused", bound.text, client.allocation, client.client, client.wanted_bytes)
            )
    return events


def _give_everything(state: ArbiterState, clients: Sequence[Client], now_ns: int) -> None:
    """Mode off: every client may have the card."""
    for client in clients:
        client.set_ceiling(state.card.total_bytes)
        client.memory_wait_ns = None
        client.refused = False
        client.coming = False
        client.admitted_ns = now_ns if client.admitted_ns is None else client.admitted_ns


def _decide_memory(
    state: ArbiterState,
    clients: Sequence[Client],
    bounds: dict[str, Bound],
    capacity_bytes: int,
    holder: Client | None,
    now_ns: int,
    policy: Policy,
) -> list[PublishEvent]:
    """Decides the ceilings, and resolves a deadlock by a lower limit for its victim."""
    room = Room(capacity_bytes, capacity_bytes - state.promised_bytes, clients, state.allocations)
    moment = Moment(now_ns, state.quantum_ns, policy, state.mode == Mode.SERIAL, holder)
    dying = [c for c in clients if c.leaving and now_ns - c.reported_ns < policy.death_watch_ns]
    freeing_bytes = state.card.freeing_bytes(now_ns, policy) + sum(client.charge_bytes for client in dying)
    dead = Dead(state.card.ghost_bytes, freeing_bytes)
    residency = decide_residency(room, bounds, dead, state.settling, moment)
    state.wake_at(residency.wake_ns)
    state.hand_overs += residency.hand_overs
    victim = _deadlocked(state, clients, residency, now_ns, policy)
    if victim is None:
        return residency.events
    victim.refused = True
    victim.memory_wait_ns = None
    bounds[victim.key] = Bound(victim.footprint_bytes, Limit.HOST_ROOM)
    text = (
        f"{victim.client} is refused {format_bytes(victim.wanted_bytes - victim.footprint_bytes)}: it has "
        f"{format_bytes(victim.footprint_bytes)}, all clients together have "
        f"{format_bytes(sum(client.resident_bytes for client in clients))} of {format_bytes(capacity_bytes)}, every "
        "one waits for more or is idle, and it is the youngest that waits"
    )
    event = PublishEvent("memory-refused", text, victim.allocation, victim.client, victim.wanted_bytes)
    return [*residency.events, event]


def _deadlocked(
    state: ArbiterState, clients: Sequence[Client], residency: Residency, now_ns: int, policy: Policy
) -> Client | None:
    """Who must be refused now, because all have blocked each other for long enough."""
    found = _find_deadlock(state, clients, residency, now_ns, policy)
    if found is None or (found.victim.footprint_bytes == 0 and state.card.strangers):
        state.deadlock_since_ns = None
        return None
    if state.deadlock_since_ns is None:
        state.deadlock_since_ns = found.since_ns
    due_ns = max(found.since_ns, state.deadlock_since_ns + policy.deadlock_ns)
    if now_ns < due_ns:
        state.wake_at(due_ns)
        return None
    state.deadlock_since_ns = None
    return found.victim


def _find_deadlock(
    state: ArbiterState, clients: Sequence[Client], residency: Residency, now_ns: int, policy: Policy
) -> Deadlock | None:
    """The deadlock that there is, or will be, unless something is on its way that resolves it."""
    unserved = [client for client in residency.unserved if not client.swaps]
    if not unserved or state.settling or state.card.frees_memory(now_ns, policy):
        return None
    if any(client.admitted for client in residency.deferred):
        return None
    if any(client.charge_bytes > client.kept_bytes for client in clients):
        return None  # somebody was told to give memory back, and has not confirmed
    return find_deadlock([client for client in clients if not client.swaps], unserved, now_ns, policy)


def _decide_quantum(state: ArbiterState, clients: Sequence[Client], capacity_bytes: int, policy: Policy) -> None:
    """Sets the quantum that is in force."""
    swap_ns = swap_time_ns(clients, state.moved, capacity_bytes, policy)
    waiters = sum(1 for c in clients if c.memory_wait_ns is not None or (c.turn_wait_ns is not None and not c.can_run))
    wished_ns = state.fixed_quantum_ns or automatic_quantum_ns(swap_ns, policy)
    state.quantum_ns = bearable_quantum_ns(wished_ns, swap_ns, waiters, state.max_wait_ns, policy)


def _last_demands(clients: Sequence[Client], now_ns: int, policy: Policy) -> list[tuple[int, Client]]:
    """The two clients that wanted the GPU last, and when: for every client one of them is another one."""
    demands = [
        (now_ns if client.demand and not client.is_silent(now_ns, policy.silent_ns) else client.demanded_ns, client)
        for client in clients
        if client.demanded_ns is not None
    ]
    return sorted(demands, key=itemgetter(0), reverse=True)[:2]


def _someone_may_leave(state: ArbiterState, clients: Sequence[Client], capacity_bytes: int) -> bool:
    """Whether somebody could have to stop for another: what the card time-slices by itself needs no prompt end."""
    if state.mode == Mode.SERIAL or state.yielding.holder:
        return True
    if sum(client.wish_bytes for client in clients) > capacity_bytes:
        return True
    return any(client.memory_wait_ns is not None or client.gang for client in clients)


def _window_us(
    state: ArbiterState,
    client: Client,
    demands: Sequence[tuple[int, Client]],
    may_leave: bool,
    now_ns: int,
    policy: Policy,
) -> int:
    """How much work the client may have in flight: little against its slot, and little where it may have to stop for
    another that wants the GPU, or did lately."""
    if state.mode == Mode.OFF:
        return 0
    if client.slot is not None:
        wished_us = client.slot.length_us // policy.windows_per_slot
        return min(max(policy.window_contested_us, wished_us), policy.window_alone_us)
    latest_ns = next((time_ns for time_ns, other in demands if other is not client), None)
    if not may_leave or latest_ns is None or now_ns - latest_ns >= policy.contested_ns:
        return policy.window_alone_us
    state.wake_at(latest_ns + policy.contested_ns)
    return policy.window_contested_us


def _wait(state: ArbiterState, client: Client) -> Wait:
    """Why the client may not launch, or not allocate."""
    if not client.eligible:
        return Wait.TURN
    needs_memory = client.memory_wait_ns is not None
    if needs_memory and client.report is not None and (client.report.allocation_waits or not client.can_run):
        return Wait.SCHEDULER if state.settling and not client.admitted else Wait.MEMORY
    if client.may_launch:
        return Wait.NONE
    return Wait.TURN if client.can_run else Wait.MEMORY


def _next_grant(state: ArbiterState, client: Client, bound: Bound, window_us: int, pool_bytes: int) -> Grant | None:
    """The client's new grant. None: the one that it was sent last says the same."""
    last = client.granted
    wait = _wait(state, client)
    limit_bytes = 0 if state.mode == Mode.OFF else max(1, bound.limit_bytes)
    limited_by = Limit.UNSPECIFIED if state.mode == Mode.OFF else bound.limited_by
    same_ceiling = last is not None and last.ceiling_bytes == client.ceiling_bytes
    if (
        last is not None
        and same_ceiling
        and last.may_launch == client.may_launch
        and last.limit_bytes == limit_bytes
        and last.window_us == window_us
        and last.wait == wait
        and last.mode == state.mode
        and last.pool_bytes == pool_bytes
        and last.limited_by == limited_by
        and last.timeslice_us == client.timeslice_us
        and last.slot == client.slot
        and last.paid_permille == client.paid_permille
    ):
        return None
    # Only the sum of the two limits the client, so growing within the headroom changes no grant.
    resident_bytes = last.resident_bytes if last and same_ceiling else min(client.resident_bytes, client.ceiling_bytes)
    return Grant(
        generation=state.generation,
        # Who comes back after the relay had lost it may still be sent what it was before: later than all of that.
        epoch=(last.epoch if last else state.latest_epoch) + 1,
        sequence=1,
        may_launch=client.may_launch,
        resident_bytes=resident_bytes,
        headroom_bytes=client.ceiling_bytes - resident_bytes,
        limit_bytes=limit_bytes,
        window_us=window_us,
        wait=wait,
        mode=state.mode,
        pool_bytes=pool_bytes,
        limited_by=limited_by,
        timeslice_us=client.timeslice_us,
        slot=client.slot,
        paid_permille=client.paid_permille,
    )
