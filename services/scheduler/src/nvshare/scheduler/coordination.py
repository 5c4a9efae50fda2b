"""What the coordinator of the gangs has to tell the arbiters of a node. Pure.

After each event of an arbiter the coordinator looks at all of them. The arbiters for which its word has changed hear
of it as an event of their own, and it looks again, until nothing changes any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nvshare.scheduler.arbiter import Arbiter
from nvshare.scheduler.claims import gang_of, gpu_claims
from nvshare.scheduler.gangs import Coordinator
from nvshare.scheduler.model import GangsRuled, PublishEvent

_MOST_ROUNDS = 4  # what a ruling makes the arbiters see differently settles in two


class Coordination:
    """The coordinator, and what it has told whom. Without `gangs` every GPU decides for itself."""

    def __init__(self, *, gangs: bool = True) -> None:
        self.wake_ns: int | None = None  # when to ask for news although nothing happened
        self._coordinator = Coordinator() if gangs else None
        self._ruled: dict[str, GangsRuled] = {}
        self._events: list[tuple[str, PublishEvent]] = []

    def news(self, arbiters: Mapping[str, Arbiter], now_ns: int) -> Iterator[tuple[str, GangsRuled]]:
        """What the arbiters (by their GPU) are to hear. Each is told before the next is asked for."""
        if self._coordinator is None or not self._anybody_is_tied(arbiters):
            self.wake_ns = None
            return
        for _ in range(_MOST_ROUNDS):
            claims = [gpu_claims(arbiter.state, now_ns, arbiter.policy) for arbiter in arbiters.values()]
            known = [claim for claim in claims if claim is not None]
            if len(known) < len(claims):
                return  # what was said last holds
            rulings = self._coordinator.rule(known, now_ns)
            self.wake_ns = rulings.wake_ns
            self._events += rulings.events
            words = {gpu: GangsRuled(members) for gpu, members in rulings.members.items()}
            changed = {gpu: word for gpu, word in words.items() if word != self._ruled.get(gpu, GangsRuled())}
            if not changed:
                return
            self._ruled |= changed
            yield from changed.items()

    def take_events(self) -> list[tuple[str, PublishEvent]]:
        """What happened to gangs since the last call, with the GPU that each is about."""
        events, self._events = self._events, []
        return events

    def _anybody_is_tied(self, arbiters: Mapping[str, Arbiter]) -> bool:
        """Whether there is, or was until now, anything to coordinate."""
        return any(ruled.rulings for ruled in self._ruled.values()) or any(
            gang_of(client, arbiter.state) for arbiter in arbiters.values() for client in arbiter.state.clients.values()
        )
