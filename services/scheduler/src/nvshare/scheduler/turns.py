"""Who runs when.

Concurrent: whoever has its memory may launch. Serial: one client holds the lock. Whoever wants the GPU gets it first
come, first served; the holder gives it up when it wants the GPU no more, or when its quantum is over and somebody
waits. The next one may launch only when nobody else still does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nvshare.scheduler.clients import Client
from nvshare.scheduler.eviction import idle_from_ns
from nvshare.scheduler.model import ClientState, Link, PublishEvent, Ruling
from nvshare.scheduler.policy import MILLISECOND_NS, SECOND_NS, Policy
from nvshare.scheduler.pool import pool_waited_for_until_ns


@dataclass(slots=True)
class Turns:
    """The lock of one GPU in serial mode."""

    holder: str = ""  # the key of the client that has it; empty: nobody
    since_ns: int = 0


@dataclass(slots=True)
class Outcome:
    """What a pass has to tell, and when to decide again although nothing happened."""

    events: list[PublishEvent] = field(default_factory=list)
    wake_ns: int | None = None

    def wake_at(self, time_ns: int) -> None:
        self.wake_ns = time_ns if self.wake_ns is None else min(self.wake_ns, time_ns)


def run_together(turns: Turns, clients: Sequence[Client]) -> None:
    """Concurrent: every client that has its memory may launch."""
    turns.holder = ""
    for client in clients:
        client.may_launch = client.can_run


def take_turns(
    turns: Turns, clients: Sequence[Client], settling: bool, quantum_ns: int, now_ns: int, policy: Policy
) -> Outcome:
    """Serial: decides who holds the lock."""
    outcome = Outcome()
    by_key = {client.key: client for client in clients}
    holder = by_key.get(turns.holder)
    if holder is None or holder.leaving:
        holder = _adopted(clients, now_ns, policy)
        turns.since_ns = now_ns
    reserved_ns = min((c.gang_since_ns for c in clients if c.ruling == Ruling.NEXT), default=None)
    waiting = sorted(
        (
            c
            for c in clients
            if c is not holder and _wants(c) and _may_hold(c, now_ns, policy) and not _comes_later(c, reserved_ns)
        ),
        key=lambda c: (c.ruling != Ruling.IN, _waits_since_ns(c), c.order),
    )
    if holder is not None and holder.gang and not holder.must_leave:
        # The coordinator says when it leaves; only one of its own takes turns with it.
        waiting = [c for c in waiting if c.gang == holder.gang and holder.eligible]
    ends_ns = turns.since_ns + quantum_ns if holder is None else turn_ends_ns(turns, holder, quantum_ns, policy)
    if holder is not None and _must_give_up(holder, waiting, clients, ends_ns, now_ns, policy, outcome):
        outcome.events.append(_event("lock-released", "gave the lock up", holder, now_ns - turns.since_ns))
        if holder.demand:
            holder.turn_wait_ns = now_ns
        holder = None
    for client in clients:
        if client.may_launch and (client is not holder or client.ruling == Ruling.PAUSED):
            client.revoked_ns = now_ns
    if holder is None:
        candidate = waiting[0] if waiting else _only_client(clients, now_ns, policy)
        if candidate is not None and not _blocked(candidate, clients, settling, now_ns, policy, outcome):
            holder = candidate
            turns.since_ns = now_ns
            ends_ns = turn_ends_ns(turns, holder, quantum_ns, policy)
            waited_ns = now_ns - (holder.turn_wait_ns or now_ns)
            outcome.events.append(_event("lock-granted", "got the lock", holder, waited_ns))
    if holder is not None and any(client is not holder for client in waiting):
        if holder.link == Link.CONNECTED:
            outcome.wake_at(min(ends_ns, holder.silent_since(policy.silent_ns)))
        else:
            outcome.wake_at(holder.disconnected_ns + policy.drain_limit_ns)
    turns.holder = holder.key if holder is not None else ""
    for client in clients:
        client.may_launch = client is holder and client.can_run
        if client is holder:
            client.turn_wait_ns = None
    return outcome


def _may_hold(client: Client, now_ns: int, policy: Policy) -> bool:
    """Whether the lock would be of use to it. Who can be brought in need not be on the card."""
    stopped = client.is_silent(now_ns, policy.silent_ns) or client.state == ClientState.STUCK
    comes = client.swaps and not client.hopeless and client.eligible
    return client.reachable and (client.can_run or comes) and not stopped


def _wants(client: Client) -> bool:
    """Whether it wants the GPU, or memory that others must make room for."""
    return client.demand or client.ruling == Ruling.IN or (client.swaps and client.memory_wait_ns is not None)


def _comes_later(client: Client, reserved_ns: int | None) -> bool:
    """Whether a gang that waits for its other GPUs was there before it."""
    return reserved_ns is not None and client.ruling == Ruling.NONE and _waits_since_ns(client) > reserved_ns


def _waits_since_ns(client: Client) -> int:
    waits_ns = [time_ns for time_ns in (client.turn_wait_ns, client.memory_wait_ns) if time_ns is not None]
    return min(waits_ns, default=0)


def turn_ends_ns(turns: Turns, holder: Client, quantum_ns: int, policy: Policy) -> int:
    """When the holder's quantum is over: it begins when its memory is on the card, or should have been for long."""
    if holder.can_run and holder.resident_bytes >= holder.needed_bytes:
        begins_ns = max(turns.since_ns, holder.place_ns or 0 if holder.swaps else 0)
        return max(begins_ns + quantum_ns, pool_waited_for_until_ns(holder, begins_ns, policy))
    return turns.since_ns + policy.arrival_limit_ns + quantum_ns


def _adopted(clients: Sequence[Client], now_ns: int, policy: Policy) -> Client | None:
    """The lock has no holder: one that may launch by the last word to it keeps on (after a restart, or when all could
    launch until now), the one that wants the GPU before one that does not."""
    running = [c for c in clients if c.holds_now() and not c.is_lost(now_ns, policy.drain_limit_ns)]
    return min(running, key=lambda client: (not client.demand, client.order), default=None)


def _must_give_up(
    holder: Client,
    waiting: Sequence[Client],
    clients: Sequence[Client],
    ends_ns: int,
    now_ns: int,
    policy: Policy,
    outcome: Outcome,
) -> bool:
    if holder.link != Link.CONNECTED:
        # It cannot be told, and runs on under its last grant: the others wait, but not for ever.
        return bool(waiting) and holder.is_lost(now_ns, policy.drain_limit_ns)
    if holder.must_leave:
        return True
    if holder.ruling == Ruling.PAUSED:
        return False
    if waiting and holder.hopeless and not holder.can_run:
        return True
    if waiting and (now_ns >= ends_ns or holder.is_silent(now_ns, policy.silent_ns)):
        return True
    if waiting and not _wants(holder):
        # Bringing the next one in costs more than a short pause of this one.
        free_ns = 0 if waiting[0].can_run else idle_from_ns(holder, policy)
        if now_ns < free_ns:
            outcome.wake_at(free_ns)
        return now_ns >= free_ns
    return not _wants(holder) and _gives_idle_lock_up(holder, clients, now_ns, policy)


def _gives_idle_lock_up(holder: Client, clients: Sequence[Client], now_ns: int, policy: Policy) -> bool:
    """Whether a holder that does not want the GPU gives it up although nobody waits: then the next one that wants it
    needs one round trip less. It costs the holder a round trip of its own when it comes back, so only beside
    neighbours that wanted the GPU lately."""
    return any(
        other is not holder
        and other.reachable
        and other.demanded_ns is not None
        and now_ns - other.demanded_ns < policy.neighbour_active_ns
        for other in clients
    )


def _only_client(clients: Sequence[Client], now_ns: int, policy: Policy) -> Client | None:
    """A client that is alone holds the lock whether or not it wants the GPU: its first launch need not wait."""
    registered = [client for client in clients if client.on_gpu and not client.leaving]
    return registered[0] if len(registered) == 1 and _may_hold(registered[0], now_ns, policy) else None


def _blocked(
    candidate: Client, clients: Sequence[Client], settling: bool, now_ns: int, policy: Policy, outcome: Outcome
) -> bool:
    """Whether somebody else may still launch. Who is stopped, or never drains, is passed over: it keeps its memory."""
    blocked = False
    for client in clients:
        if client is candidate:
            continue
        if client.state == ClientState.STUCK:
            _pass_over(client, "client-stuck", "has work in flight that does not end", outcome)
        elif not client.may_still_launch(settling):
            continue
        elif client.is_silent(now_ns, policy.silent_ns):
            _pass_over(client, "client-silent", "is connected and does not report: is it stopped?", outcome)
        elif client.is_lost(now_ns, policy.drain_limit_ns):
            seconds = policy.drain_limit_ns // SECOND_NS
            _pass_over(client, "client-stuck", f"has been without the relay for {seconds} s", outcome)
        elif client.link == Link.CONNECTED and client.revoked_ns + policy.drain_limit_ns <= now_ns and client.agreed:
            seconds = policy.drain_limit_ns // SECOND_NS
            _pass_over(client, "client-stuck", f"does not drain within {seconds} s", outcome)
        else:
            blocked = True
            if client.link != Link.CONNECTED:
                outcome.wake_at(client.disconnected_ns + policy.drain_limit_ns)
            elif client.spoken:
                outcome.wake_at(min(client.silent_since(policy.silent_ns), client.revoked_ns + policy.drain_limit_ns))
    return blocked


def _pass_over(client: Client, kind: str, text: str, outcome: Outcome) -> None:
    if kind not in client.told:
        client.told.add(kind)
        whole = f"{client.client} {text}; the others take their turns without it, its memory stays on the card"
        outcome.events.append(PublishEvent(kind, whole, client.allocation, client.client, client.footprint_bytes))


def _event(kind: str, what: str, client: Client, duration_ns: int) -> PublishEvent:
    text = f"{client.client} {what} after {duration_ns / MILLISECOND_NS:.1f} ms"
    return PublishEvent(kind, text, client.allocation, client.client, duration_ns=duration_ns)
