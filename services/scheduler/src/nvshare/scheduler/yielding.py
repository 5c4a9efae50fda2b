"""Best effort yields to everybody else on the card.

The one best-effort client that may launch is at the floor slice: it is paused in the middle of its kernels for as long
as another one has work. Two there would spend their time switching, and at longer slices the others would wait for each
of them. So several take turns: one may launch, and the next one when that has nothing in flight any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from nvshare.scheduler.clients import Client
from nvshare.scheduler.model import SIDE_BY_SIDE, Allocation, Mode, Priority
from nvshare.scheduler.policy import Policy
from nvshare.scheduler.turns import Outcome, Turns, take_turns


@dataclass(frozen=True)
class Ranks:
    """Who is on the card now, by priority: those that the others make way for, and those that may yield."""

    first: list[Client]
    best_effort: list[Client]
    yielding: list[Client]  # of best effort, those that want the card


def ranks(clients: Sequence[Client], terms: Mapping[str, Allocation], now_ns: int, policy: Policy) -> Ranks:
    """Of these clients, of whose allocations `terms` tells."""
    best_effort = [client for client in clients if terms[client.key].priority == Priority.BEST_EFFORT]
    yielding = [client for client in best_effort if client.wants_the_card(now_ns, policy.contested_ns)]
    # A critical one that wants nothing now finds the others out of its way when it does.
    first = [
        client
        for client in clients
        if terms[client.key].priority == Priority.LATENCY_CRITICAL
        or (client not in best_effort and client.wants_the_card(now_ns, policy.contested_ns))
    ]
    return Ranks(first, best_effort, yielding)


def yielding_in_turns(
    clients: Sequence[Client], terms: Mapping[str, Allocation], mode: Mode, now_ns: int, policy: Policy
) -> list[Client]:
    """The best-effort clients of which only one may launch at a time; none where they need not take turns, or cannot: a
    gang runs on all of its GPUs at once, and who has no slices of its own is paused by nobody."""
    if mode not in SIDE_BY_SIDE or not policy.time_sharing.by_slices:
        return []
    found = ranks([client for client in clients if client.can_run], terms, now_ns, policy)
    refused = any(client.report is not None and client.report.timeslice_failure for client in found.best_effort)
    gangs = any(client.gang for client in found.best_effort)
    return found.best_effort if found.first and len(found.yielding) > 1 and not refused and not gangs else []


def take_turns_to_yield(
    turns: Turns,
    clients: Sequence[Client],
    terms: Mapping[str, Allocation],
    settling: bool,
    now_ns: int,
    policy: Policy,
) -> Outcome:
    """Decides which one of these may launch: each for a time by its weight."""
    if not clients:
        turns.holder = ""
        return Outcome()
    mean_weight = fmean(terms[client.key].weight for client in clients)
    holder = next((client for client in clients if client.key == turns.holder), None)
    weight = terms[holder.key].weight if holder is not None else mean_weight
    turn_ns = round(policy.yielding_turn_ns * weight / mean_weight)
    return take_turns(turns, clients, settling, turn_ns, now_ns, policy)
