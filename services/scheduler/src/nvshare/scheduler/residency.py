"""Who is on the card: decides every client's ceiling, the most that it may have there.

A client that has all of its memory promised has a *place*; it keeps it while nobody else needs the room. Who wants the
GPU, or memory, and lacks room for it waits in a queue, first come first served, and whoever lost its place goes to the
end of it. The first of the queue gets what is free and what others give (`eviction.py`), and nothing is taken from
anybody before it is known that enough comes together. Behind a first one that must wait, others are served only with
room that it will not need. Who began to come in is served before the queue, so that a switch ends; and who asks for
more in its own quantum gets what waits on the card, so that a program that loads in pieces does not lose its turn with
each piece.

Room is promised when it is free: as a client's memory leaves, its reports free the difference, which goes in steps to
the one that comes in. All of that is decided anew from the facts in each pass; nothing has to end first.

Clients whose library cannot move memory keep what they have (decision 0004): their growth comes before newcomers, and
who loads later waits for who loads first (`loading.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nvshare.scheduler.clients import Client
from nvshare.scheduler.eviction import (
    Givers,
    Moment,
    Offers,
    choose,
    cooperates,
    expected_bytes,
    givers_for,
    has_had_quantum,
    idle_from_ns,
    offers_of,
    overdue,
    quantum_ends_ns,
    sum_of,
)
from nvshare.scheduler.headroom import (
    bring_back,
    give_ahead,
    give_headroom,
    keep_what_was_used,
    keep_within_quotas,
    take_spare,
)
from nvshare.scheduler.limits import Bound
from nvshare.scheduler.loading import ahead_bytes, older_loads_until, uses_headroom
from nvshare.scheduler.model import PublishEvent, Ruling
from nvshare.scheduler.obstacles import find_hopeless, held_words, note_failures
from nvshare.scheduler.queue import Queue
from nvshare.scheduler.room import Room


@dataclass(frozen=True, slots=True)
class Dead:
    """What clients that ended have left on the card."""

    ghost_bytes: int
    freeing_bytes: int  # of it, and of those that are just ending: about to be free, nobody needs to leave for it


@dataclass(slots=True)
class Residency:
    """What a pass decided beside the ceilings."""

    unserved: list[Client] = field(default_factory=list)  # cannot be given room now
    deferred: list[Client] = field(default_factory=list)  # wait for their place in the queue, not for bytes
    wake_ns: int | None = None  # when to decide again although nothing happened
    hand_overs: int = 0  # clients for which others began to leave
    events: list[PublishEvent] = field(default_factory=list)

    def wake_at(self, time_ns: int) -> None:
        self.wake_ns = time_ns if self.wake_ns is None else min(self.wake_ns, time_ns)


def decide_residency(room: Room, bounds: Mapping[str, Bound], dead: Dead, settling: bool, moment: Moment) -> Residency:
    """Decides the ceilings. `bounds` says what each client may ever have, by its key: who asks for more is refused by
    its own library, and waits for nothing."""
    failures = note_failures(room.clients, moment)
    keep_what_was_used(room)
    cooperating = {client: None for client in room.clients if cooperates(client, moment)}  # a set that keeps the order
    queue = Queue.of(room.clients, bounds, moment)
    find_hopeless(room.clients, cooperating, queue.goals_bytes, room.capacity_bytes)
    serving = _Serving(room, queue, cooperating, dead, settling, moment)
    for client in queue.first:
        serving.serve(client)
    for client in queue.growing:
        serving.serve_at_once(client)
    for client in queue.rest:
        serving.serve(client)
    outcome = serving.outcome
    outcome.events += failures
    _pay_out(room, serving.served, queue.goals_bytes, moment)
    give_ahead(room, serving.served, bounds, moment)
    waiting = outcome.unserved or outcome.deferred or any(client.coming for client in serving.served)
    calm = not waiting and not settling
    back_ns = bring_back(room, moment, calm=calm)
    if back_ns is not None:
        outcome.wake_at(back_ns)
    if calm:
        give_headroom(room, bounds, moment)
    keep_within_quotas(room)
    for client in room.clients:
        _keep_books(client, moment, outcome)
    return outcome


@dataclass(slots=True)
class _Outlook:
    """What is the same for all that are served, until a ceiling or a place changes."""

    coming_bytes: int  # what those that cooperate have beyond their newest grants
    offers: Offers | None = None  # None: nobody has asked yet
    wakes: bool = False  # it is noted when to decide again because that changes with time


class _Serving:
    """Goes through the queue, and tells others to make room."""

    def __init__(
        self, room: Room, queue: Queue, cooperating: Mapping[Client, None], dead: Dead, settling: bool, moment: Moment
    ) -> None:
        self.served: list[Client] = []  # for whom enough comes together
        self.outcome = Residency()
        self._room = room
        self._queue = queue
        self._cooperating = cooperating
        self._dead = dead
        self._settling = settling
        self._moment = moment
        self._reserved_bytes = 0
        self._left_bytes: int | None = None  # what the first that must wait leaves to later ones; None: none waits
        self._newcomers_wait = False  # whose memory cannot be moved
        self._hopeless: list[Client] = []  # for whom there is no room whoever makes some: what they have is of no use
        self._outlook: _Outlook | None = None
        self._outlook_of = (0, 0, 0)

    def serve(self, client: Client) -> None:
        """Gives the client room, or notes that it must wait."""
        if client in self.served:
            return
        if client.ruling == Ruling.NEXT:
            self._keep_room(client)
            return
        if self._must_wait_its_turn(client):
            self.outcome.deferred.append(client)
            return
        if self._must_wait_for_older(client):
            if client.swaps:
                self._keep_room(client)
            else:
                self.outcome.deferred.append(client)
            return
        missing_bytes = self._room.quota_missing_bytes(client, self._goal_bytes(client))
        if missing_bytes > 0:
            siblings = [c for c in self._room.clients if c.allocation == client.allocation]
            take_spare(self._room, siblings, missing_bytes)
            self.outcome.unserved.append(client)
            return
        need_bytes, have_bytes = self._need_bytes(client), self._have_bytes(client)
        if need_bytes == 0 or (need_bytes <= have_bytes and self._is_left(client, need_bytes)):
            self._take(client, need_bytes)
            return
        givers = self._givers_for(client)
        short_bytes = self._take_spare_of(givers, need_bytes - have_bytes)
        chosen = None
        if self._left_bytes is None and not self._settling:
            grows = client is self._moment.holder
            chosen = choose(givers, self._with_ahead(client, givers, short_bytes) if grows else short_bytes)
        if chosen is not None:
            self._make_leave(client, chosen)
            self._take(client, need_bytes)
            return
        self._wait(client, givers, short_bytes)

    def serve_at_once(self, client: Client) -> None:
        """Gives more to a client in its own quantum, if that takes nobody's turn; else it waits in the queue."""
        if self._settling or not client.eligible or self._must_wait_for_older(client):
            return
        need_bytes = self._need_bytes(client)
        givers = self._givers_for(client)
        givers.expired.clear()
        short_bytes = self._take_spare_of(givers, need_bytes - self._have_bytes(client))
        chosen = choose(givers, self._with_ahead(client, givers, short_bytes))
        if chosen is None or self._room.quota_missing_bytes(client, self._goal_bytes(client)) > 0:
            return
        begins_ns, arrived = client.place_ns, client.arrived
        self._make_leave(client, chosen)
        self._take(client, need_bytes)
        client.place_ns, client.arrived = begins_ns, arrived  # its quantum goes on

    def _look(self) -> _Outlook:
        """The outlook now. Whoever is given room gets into `served`, and whoever loses some gets another ceiling."""
        now_of = (self._room.changes, len(self.served), len(self._hopeless))
        if self._outlook is None or self._outlook_of != now_of:
            self._outlook = _Outlook(sum([client.charge_bytes - client.kept_bytes for client in self._cooperating]))
            self._outlook_of = now_of
        return self._outlook

    def _givers_for(self, client: Client) -> Givers:
        outlook = self._look()
        if outlook.offers is None:
            behind = [other for other in self._queue.all if other not in self._hopeless] + self._hopeless
            outlook.offers = offers_of(self._cooperating, behind, self.served, self._moment)
        return givers_for(client, outlook.offers, self._moment)

    def _wake_when_that_changes(self) -> None:
        outlook = self._look()
        if not outlook.wakes:
            outlook.wakes = True
            for time_ns in _changes_ns(self._room.clients, self._moment):
                self.outcome.wake_at(time_ns)

    def _goal_bytes(self, client: Client) -> int:
        return self._queue.goals_bytes[client.key]

    def _need_bytes(self, client: Client) -> int:
        return max(0, self._goal_bytes(client) - client.kept_bytes)

    def _have_bytes(self, client: Client) -> int:
        """What will be free for the client when all have followed their newest grants."""
        coming_bytes = self._look().coming_bytes
        if client not in self._cooperating:
            coming_bytes += client.charge_bytes - client.kept_bytes
        return self._room.free_bytes + self._dead.freeing_bytes + coming_bytes - self._reserved_bytes

    def _must_wait_its_turn(self, client: Client) -> bool:
        if not client.eligible:
            return True
        if self._settling and not (client.admitted and client.whole):
            return True
        return not client.admitted and not client.swaps and self._newcomers_wait

    def _must_wait_for_older(self, client: Client) -> bool:
        ghost_bytes = self._dead.ghost_bytes
        loaded_ns = older_loads_until(client, client.wish_bytes, self._room, self.served, ghost_bytes, self._moment)
        if loaded_ns is None:
            return False
        self.outcome.wake_at(loaded_ns)
        self._newcomers_wait = self._newcomers_wait or not client.swaps
        return True

    def _is_left(self, client: Client, need_bytes: int) -> bool:
        """Whether the client can have that beside the first one that waits. What it has itself may be counted on."""
        return self._left_bytes is None or need_bytes + client.body_bytes <= self._left_bytes

    def _take(self, client: Client, need_bytes: int) -> None:
        if self._left_bytes is not None:
            self._left_bytes -= need_bytes + client.body_bytes
        self._reserved_bytes += need_bytes
        self.served.append(client)
        if not client.swaps:
            client.grew_ns = self._moment.now_ns  # younger ones see that it loads
        elif not client.coming and client is not self._moment.holder:
            client.place_ns, client.arrived = None, False  # its quantum begins anew

    def _take_spare_of(self, givers: Givers, short_bytes: int) -> int:
        """Takes headroom back. Gives what is still short then."""
        if short_bytes <= 0 or not givers.spare:
            return short_bytes
        spare = sum([client.spare_bytes for client in givers.spare])
        if short_bytes - spare > givers.body_bytes():  # not enough: who loads keeps what it will use at once
            givers.spare = [other for other in givers.spare if not uses_headroom(other, self._moment)]
            spare = sum([client.spare_bytes for client in givers.spare])
        take_spare(self._room, givers.spare, short_bytes)
        return short_bytes - spare

    def _with_ahead(self, client: Client, givers: Givers, short_bytes: int) -> int:
        """Where others must leave anyway, those that wait give what the client will ask for next, too."""
        if short_bytes <= 0:
            return short_bytes
        left_bytes = sum_of(givers.idle) + sum_of(givers.waiting) - short_bytes
        return short_bytes + max(0, min(ahead_bytes(client, self._moment.policy), left_bytes))

    def _make_leave(self, client: Client, chosen: Sequence[tuple[Client, int]]) -> None:
        if chosen and not client.coming:
            self.outcome.hand_overs += 1
        for giver, size_bytes in chosen:
            self._room.set_ceiling(giver, giver.ceiling_bytes - size_bytes)
            if giver.place_ns is not None and giver.demand:
                giver.evicted_ns = self._moment.now_ns
            if has_had_quantum(giver, self._moment):
                giver.due_ns = None
            giver.place_ns, giver.arrived, giver.has_left = None, False, True
            if giver.demand and giver.memory_wait_ns is None:
                giver.memory_wait_ns = self._moment.now_ns

    def _keep_room(self, client: Client) -> None:
        """Its gang does not come in yet, or who is older still loads: nobody who came later gets what it will need."""
        givers = self._givers_for(client)
        spare = sum([client.spare_bytes for client in givers.spare])
        self._wait(client, givers, self._need_bytes(client) - self._have_bytes(client) - spare)

    def _wait(self, client: Client, givers: Givers, short_bytes: int) -> None:
        """Nobody can give enough now. If that changes with time, the rest is kept for it."""
        self.outcome.unserved.append(client)
        client.coming = False
        if client.spare_bytes > 0:
            self._room.set_ceiling(client, client.served_bytes)
        self._wake_when_that_changes()
        ghost_bytes = max(0, self._dead.ghost_bytes - self._dead.freeing_bytes)
        in_time_bytes = ghost_bytes + expected_bytes(givers, short_bytes - ghost_bytes)
        if in_time_bytes >= short_bytes:
            left_bytes = in_time_bytes - short_bytes
            self._left_bytes = left_bytes if self._left_bytes is None else min(left_bytes, self._left_bytes)
        if not client.swaps or in_time_bytes < short_bytes <= in_time_bytes + self._unmovable_bytes():
            self._newcomers_wait = True
        elif in_time_bytes < short_bytes and client.hopeless:
            self._hopeless.append(client)
            self._tell_hopeless(client)

    def _unmovable_bytes(self) -> int:
        return sum(client.kept_bytes for client in self._room.clients if not client.swaps)

    def _tell_hopeless(self, client: Client) -> None:
        """Says, once, that a client waits for what nobody can give up."""
        if "memory-held" in client.told:
            return
        client.told.add("memory-held")
        text = f"{client.client} waits for memory that cannot leave the card: {held_words(client, self._room.clients)}"
        event = PublishEvent("memory-held", text, client.allocation, client.client, self._goal_bytes(client))
        self.outcome.events.append(event)


def _changes_ns(clients: Sequence[Client], moment: Moment) -> list[int]:
    """When clients will be able to make room that cannot now."""
    times_ns = []
    for client in clients:
        if not client.swaps:
            continue
        if not client.demand and not client.allocation_waits:
            times_ns.append(idle_from_ns(client, moment.policy))
        if client.place_ns is not None:
            times_ns.append(quantum_ends_ns(client, moment))
        if client.evicted_ns is not None:
            times_ns.append(client.evicted_ns + moment.quantum_ns)
        if client.allocation_waits:
            times_ns.append(max(client.progress_ns, client.memory_wait_ns or 0) + moment.policy.standing_ns)
    return [time_ns for time_ns in times_ns if time_ns > moment.now_ns]


def _pay_out(room: Room, served: Sequence[Client], goals_bytes: Mapping[str, int], moment: Moment) -> None:
    """Promises what is free to those that are served, in their order: all that one needs, or a step of it."""
    held_bytes = 0
    for client in served:
        goal_bytes = goals_bytes[client.key]
        free_bytes = max(0, room.free_bytes - held_bytes)
        most_bytes = client.charge_bytes + free_bytes
        if goal_bytes <= most_bytes:
            room.set_ceiling(client, goal_bytes)
            client.coming = False
            if client.allocation_waits and client.memory_wait_ns is not None:
                client.stood_ns += moment.now_ns - client.memory_wait_ns
            client.memory_wait_ns = None
            client.grew_ns = moment.now_ns
            continue
        client.coming = True
        step_bytes = min(most_bytes, client.needed_bytes) - client.ceiling_bytes
        if step_bytes < client.needed_bytes - client.ceiling_bytes:
            step_bytes -= step_bytes % moment.policy.credit_bytes
        if client.swaps and step_bytes > 0:
            room.set_ceiling(client, client.ceiling_bytes + step_bytes)
        held_bytes += goal_bytes - client.charge_bytes


def _keep_books(client: Client, moment: Moment, outcome: Residency) -> None:
    """Notes since when the client has memory and a place, and whether it leaves when it should."""
    if not client.spoken:
        return
    if client.needed_bytes == 0 and client.kept_bytes == 0:
        client.admitted_ns = None
    elif client.admitted_ns is None:
        client.admitted_ns = moment.now_ns
    if not client.whole or client.kept_bytes == 0 or client.must_leave:
        client.place_ns, client.arrived = None, False
    elif client.place_ns is None:
        client.place_ns, client.arrived = moment.now_ns, client.resident_bytes >= client.needed_bytes
        client.placed_bytes = client.needed_bytes
        client.evicted_ns = None
    elif has_had_quantum(client, moment):
        client.due_ns = None
    leaves = client.swaps and client.resident_bytes > max(client.ceiling_bytes, client.staying_bytes)
    if not leaves:
        client.leaving_since_ns = None
    elif client.leaving_since_ns is None:
        client.leaving_since_ns = moment.now_ns
    if client.leaving_since_ns is not None and not overdue(client, moment):
        outcome.wake_at(client.leaving_since_ns + moment.policy.leave_limit_ns)
