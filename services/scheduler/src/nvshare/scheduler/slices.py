"""Which hardware time slices clients get.

Two programs that keep the card busy lose a tenth to the switches between them at the driver's slices of 2 ms: a switch
costs 0.2 ms, so a mean slice of s ms keeps s / (s + 0.2) (measured on the H200). Long slices give that back, and make
whoever is not busy all the time wait for its turn: so they are for cards whose clients all are.
"""

from __future__ import annotations

from collections.abc import Sequence

from nvshare.scheduler.clients import Client
from nvshare.scheduler.model import Mode
from nvshare.scheduler.policy import Policy

_SHARED = (Mode.AUTO, Mode.CONCURRENT)


def decide_slices(clients: Sequence[Client], mode: Mode, now_ns: int, policy: Policy) -> None:
    """Sets the slice of each client that may launch: long where at least two share the card and all of those are busy,
    else the driver's own (0)."""
    sharing = [client for client in clients if client.may_launch and _wants_the_card(client, now_ns, policy)]
    long = mode in _SHARED and len(sharing) > 1 and all(_is_busy(client, policy) for client in sharing)
    for client in clients:
        client.timeslice_us = policy.busy_slice_us if long and client in sharing else 0


def _wants_the_card(client: Client, now_ns: int, policy: Policy) -> bool:
    return client.demand or (client.demanded_ns is not None and now_ns - client.demanded_ns < policy.contested_ns)


def _is_busy(client: Client, policy: Policy) -> bool:
    """Whether its work keeps the card busy; who is counted as busy stays so until it clearly is not."""
    if client.report is None:
        return False
    least_permille = policy.idle_permille if client.timeslice_us else policy.busy_permille
    return client.report.busy_permille >= least_permille
