"""What the arbiter knows about one client, and what follows from it alone.

A client is charged with the most that it may have on the card: with each grant that it may still follow, with what it
says that it has there, and, until it has spoken to this life of the scheduler, with what the relay's journal says that
an earlier life promised it. Its footprint, which a quota limits, is what its program counts; what it needs is what the
footprint takes on the card when all of it is there. A client whose library cannot move memory has all of it there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nvshare.scheduler.activity import ACTIVITY_STEPS, STEP_NS, Account, Activity
from nvshare.scheduler.model import ClientState, Grant, Link, Peer, Report, Ruling, Slot

_MOST_PROMISES = 16
_MAY_RUN = (Ruling.NONE, Ruling.IN)
_MUST_LEAVE = (Ruling.OUT, Ruling.NEXT)


@dataclass(slots=True)
class Promise:
    """What one sent grant allows, kept until a report shows a later grant in force."""

    epoch: int
    ceiling_bytes: int
    may_launch: bool


@dataclass(slots=True, eq=False)
class Client:
    """One living process on this GPU."""

    key: str  # names it among the clients of its GPU
    allocation: str
    client: str
    pid: int
    order: int  # of its registration; breaks ties
    link: Link = Link.CONNECTED
    journaled: bool = False
    disconnected_ns: int = 0  # when its connection went last
    journal_resident_bytes: int = 0
    journal_promised_bytes: int = 0
    listed_bytes: int | None = None  # what the driver shows of it; None: the driver does not list our processes

    footprint_bytes: int = 0  # believed: what its program counts
    wanted_bytes: int = 0  # the footprint that it asks for, at least what it has
    needed_bytes: int = 0  # what its footprint takes on the card when all of it is there
    wish_bytes: int = 0  # what it needs on the card to go on: with what it asks for, at least all that it has
    resident_bytes: int = 0  # what it says that it has on the card
    staying_bytes: int = 0  # of it, what cannot leave: what is pinned, and what its host memory could not hold

    state: ClientState = ClientState.UNSPECIFIED  # as it says
    demand: bool = False  # wants the GPU
    allocation_waits: bool = False  # a thread of it waits for memory
    swaps: bool = False  # its library can move memory
    leaving: bool = False  # it gives this GPU up
    reachable: bool = False  # a decision for it makes sense now: it has spoken, stays, and would get a grant

    report: Report | None = None
    reported_ns: int = 0  # when the last report came in
    agreed: bool = False  # it has reported a grant of this generation

    granted: Grant | None = None  # the newest sent
    granted_ns: int = 0  # when it was sent last
    first_epoch: int = 0  # of the first grant; who was missing for a while has followed older ones
    allowed_bytes: int = 0  # the largest ceiling of all grants, with those that the journal knows
    promises: list[Promise] = field(default_factory=list)  # the one in force and all later ones

    ceiling_bytes: int = 0  # decided: the most that it may have on the card, its target; see `set_ceiling`
    charge_bytes: int = 0  # the most that it may have on the card
    kept_bytes: int = 0  # what it will be charged with when it has followed its newest grant
    served_bytes: int = 0  # what it needs on the card, with the wish that it has been promised
    spare_bytes: int = 0  # headroom that it does not use
    body_bytes: int = 0  # what it uses, or waits with, and could move out
    may_launch: bool = False  # decided
    keeps_busy: bool = False  # its work keeps the card busy
    use: float = 1.0  # the share of the card that it uses, and may want more than by some head-room; 1: all
    use_seen_ns: int = 0  # when it last used about so much
    less_use: float = 0.0  # the most that it used since
    timeslice_us: int = 0  # decided: its hardware time slice; 0: the driver's own
    slot: Slot | None = None  # decided: its turn in each period; None: it may run at any time
    rested_ns: int = 0  # when its work last left the card some rest
    slots_part: float = 1.0  # the least that its slots left it of the time between its last two reports
    slot_part_reported: float = 1.0  # what they left it when it last reported
    activity: Activity = field(default_factory=Activity)  # when its work was in flight
    account: Account | None = None  # what its slots paid of that time; None: it has none
    paid_permille: int = 0  # decided: of such time, what its slots pay for; 0: all
    admitted_ns: int | None = None  # since when it has memory, or a promise of some
    began_ns: int | None = None  # since when it has memory, or asks for its first
    refused: bool = False  # its wish is refused because others block each other, until it no longer waits
    beyond_ns: int | None = None  # since when its wish is beyond its limit
    place_ns: int | None = None  # since when it has a place: all of its memory is promised; None: it has none
    placed_bytes: int = 0  # what it needed when it got that place
    arrived: bool = False  # in that place: all of its memory was on the card
    evicted_ns: int | None = None  # when it lost its place at the end of its quantum; None: it has one, or had none
    has_left: bool = False  # some of its memory was told to leave the card, at any time
    hopeless: bool = False  # decided: what it needs does not fit beside what cannot leave the card now
    fits_since_ns: int | None = None  # since when all that is away, its memory too, would fit and nobody waits
    coming: bool = False  # decided: others make room for it
    leaving_since_ns: int | None = None  # since when it should leave and nothing of it has left
    failed_ns: int | None = None  # when that had lasted for too long; None: it leaves when it should

    gang: str = ""  # the gang that the coordinator counts it in
    ruling: Ruling = Ruling.NONE  # what the coordinator says about it
    gang_since_ns: int = 0  # its gang's place in the queue

    memory_wait_ns: int | None = None  # since when it waits for memory
    due_ns: int | None = None  # since when it waits for a whole quantum; None: it had one, or does not wait
    turn_wait_ns: int | None = None  # since when it wants the GPU and does not hold the lock
    demanded_ns: int | None = None  # when it wanted the GPU last
    grew_ns: int = 0  # when its footprint or its wish grew last
    progress_ns: int = 0  # when it launched last
    stood_ns: int = 0  # how long its allocations waited for the memory that they got
    pool_grew_ns: int = 0  # when its pinned host memory became more last, or should have begun to
    overhead_bytes: int = 0  # on the card beside its footprint: contexts and modules
    resident_moved: bool = True  # since the last memory sample began
    moved_ns: int = 0  # when that was heard last
    most_resident_bytes: int = 0  # since the last memory sample
    most_charged_bytes: int = 0  # since the last memory sample
    revoked_ns: int = 0  # when its lock was taken away last, or it first spoke
    told: set[str] = field(default_factory=set)  # kinds of events that are published once for a client

    @property
    def spoken(self) -> bool:
        """Whether it has reported to this life of the scheduler."""
        return self.report is not None

    def wants_the_card(self, now_ns: int, contested_ns: int) -> bool:
        """Whether it wants the GPU, or did so less than `contested_ns` ago."""
        return self.demand or (self.demanded_ns is not None and now_ns - self.demanded_ns < contested_ns)

    @property
    def on_gpu(self) -> bool:
        """Whether it uses this GPU, or may: it spoke about it, or the journal knows that an earlier scheduler dealt
        with it."""
        return self.journaled or (self.report is not None and not self.gone)

    @property
    def gone(self) -> bool:
        """Whether it gave this GPU up and has nothing there."""
        return self.leaving and self.resident_bytes == 0

    def staying_of(self, needed_bytes: int) -> int:
        """What could not leave the card if it needed `needed_bytes`. What is away already has its host memory, and
        nobody pins what is not on the card."""
        if self.report is None or not self.report.swaps:
            return needed_bytes
        host_bytes = max(self.report.host_room_bytes, self.needed_bytes - self.resident_bytes)
        return max(min(self.report.pinned_bytes, self.resident_bytes), needed_bytes - host_bytes, 0)

    def footprint_within(self, size_bytes: int) -> int:
        """The footprint that it may come to when it is promised `size_bytes` on the card."""
        if size_bytes >= self.wish_bytes:
            return self.wanted_bytes + size_bytes - self.wish_bytes
        return self.footprint_bytes + max(0, size_bytes - self.needed_bytes)

    @property
    def journal_bytes(self) -> int:
        """What the journal says that it may have: the more of resident and promised."""
        return max(self._believed(self.journal_resident_bytes), self.journal_promised_bytes)

    @property
    def admitted(self) -> bool:
        """Whether it has memory, or a promise of some."""
        return self.admitted_ns is not None

    @property
    def whole(self) -> bool:
        """Whether its newest grant has room for all of its memory."""
        return self.ceiling_bytes >= self.needed_bytes

    @property
    def can_run(self) -> bool:
        """Whether nothing but its turn keeps it from running: its memory is promised, or it asks for none."""
        runs = self.report is not None and self.ruling in _MAY_RUN and self.ceiling_bytes >= self.needed_bytes
        return runs and (self.admitted_ns is not None or self.wish_bytes == 0)

    @property
    def eligible(self) -> bool:
        """Whether no gang keeps it from running."""
        return self.ruling in _MAY_RUN

    @property
    def must_leave(self) -> bool:
        """Whether it makes room for who waits, although it wants the GPU."""
        return self.ruling in _MUST_LEAVE

    @property
    def asks_for_memory(self) -> bool:
        """Whether it needs more than its newest grant allows, and has not been refused."""
        return self.reachable and not self.refused and self.wish_bytes > self.ceiling_bytes

    def silent_since(self, silent_ns: int) -> int:
        """The time from which on its silence says that it is stopped."""
        return self.reported_ns + silent_ns

    def is_silent(self, now_ns: int, silent_ns: int) -> bool:
        """Whether it is connected and has not spoken for so long that it must be stopped (SIGSTOP)."""
        return now_ns >= self.reported_ns + silent_ns and self.spoken and self.link == Link.CONNECTED

    def may_still_launch(self, settling: bool) -> bool:
        """Whether it may launch under a grant that it may still follow, or still has work in flight.

        A client that an earlier scheduler dealt with, and that has not spoken, may hold the lock: while everything
        settles it is waited for.
        """
        if self.report is None:
            return self.journaled and settling
        if self.report.leaving or self.report.state == ClientState.STUCK:
            return False
        if any(promise.may_launch for promise in self.promises):
            return True
        return self.report.state in (ClientState.RUNNING, ClientState.DRAINING)

    def is_lost(self, now_ns: int, drain_limit_ns: int) -> bool:
        """Whether it has been without a connection for so long that the others go on without it."""
        return self.link != Link.CONNECTED and now_ns >= self.disconnected_ns + drain_limit_ns

    def holds_now(self) -> bool:
        """Whether the newest word to it says that it may launch; before the first word of this generation, whether
        it says so itself."""
        if self.report is None or self.report.leaving:
            return False
        if self.granted is not None:
            return self.granted.may_launch
        return self.report.state == ClientState.RUNNING

    def heard(self, report: Report, generation: int, now_ns: int) -> None:
        """Takes over a report that is newer than the last one."""
        before = self.report
        before_resident_bytes = self.resident_bytes
        self.most_charged_bytes = max(self.most_charged_bytes, self.charge_bytes)
        self.report = report
        slot = self.granted.slot if self.granted is not None else None
        part = slot.part if slot is not None else 1.0
        self.slots_part, self.slot_part_reported = min(part, self.slot_part_reported), part
        self._weigh()
        if abs(report.activity_end_ns - now_ns) < ACTIVITY_STEPS * STEP_NS:  # else: another clock
            self.activity.heard(report.activity, report.activity_end_ns // STEP_NS)
        if self.account is not None:
            self.account.pace.heard(report.launches, report.busy_us, now_ns)
        self.reported_ns = now_ns
        if report.generation == generation and self.granted is not None and report.epoch >= self.first_epoch:
            self.agreed = True
            self.promises = [promise for promise in self.promises if promise.epoch >= report.epoch]
        if before is None:
            self.has_left = report.swapped_out_bytes > 0
            self.grew_ns = self.progress_ns = self.revoked_ns = now_ns
            self.ceiling_bytes = max(self.resident_bytes, 0 if self.agreed else self.journal_bytes)
        self._account()
        if before is not None:
            wish = max(before.wanted_bytes, before.footprint_bytes)
            if report.footprint_bytes > before.footprint_bytes or self.wanted_bytes > wish:
                self.grew_ns = now_ns
            if report.pool_bytes > before.pool_bytes:
                self.pool_grew_ns = now_ns
            if report.launches != before.launches:
                self.progress_ns = now_ns
        if self.wish_bytes == 0:
            self.began_ns = None
        elif self.began_ns is None:
            self.began_ns = now_ns
        if self.resident_bytes != before_resident_bytes:
            self.resident_moved, self.moved_ns = True, now_ns
            self.most_resident_bytes = max(self.most_resident_bytes, self.resident_bytes)
        work_ended = before is not None and before.state == ClientState.STUCK and report.state != ClientState.STUCK
        if self.resident_bytes < before_resident_bytes or work_ended:
            self.leaving_since_ns = self.failed_ns = None
            self.told.discard("client-stays")
        if self.demand:
            self.demanded_ns = now_ns
            if self.turn_wait_ns is None:
                self.turn_wait_ns = now_ns
        else:
            self.turn_wait_ns = None
        if not report.allocation_waits:
            self.refused = False
        if self.place_ns is not None and not self.arrived and self.resident_bytes >= self.needed_bytes:
            self.place_ns, self.arrived = now_ns, True
        self.told.discard("client-silent")
        if self.agreed and self._has_drained(report):
            self.told.discard("client-stuck")

    def heard_of(self, peer: Peer, now_ns: int) -> None:
        """Takes over what the relay says. Who has memory from an earlier life of the scheduler keeps its place before
        all that come now."""
        if peer.link != Link.CONNECTED and self.link == Link.CONNECTED:
            self.disconnected_ns = now_ns
        self.link = peer.link
        if not self.spoken:
            self.journaled = peer.journaled
        self.journal_resident_bytes = peer.journal_resident_bytes
        self.journal_promised_bytes = peer.journal_promised_bytes
        self.allowed_bytes = max(self.allowed_bytes, peer.journal_promised_bytes)
        self._weigh()
        if not self.spoken and self.journal_bytes > 0 and self.admitted_ns is None:
            self.admitted_ns = now_ns

    def sent(self, grant: Grant, now_ns: int) -> None:
        """Remembers a grant that goes out now, for the first time or again."""
        if self.granted is None:
            self.first_epoch = grant.epoch
        ready_bytes = self.report.pool_bytes if self.report else 0
        if grant.pool_bytes > ready_bytes >= (self.granted.pool_bytes if self.granted else 0):
            self.pool_grew_ns = now_ns
        self.granted = grant
        if grant.ceiling_bytes > self.allowed_bytes:
            self.allowed_bytes = grant.ceiling_bytes
            self._weigh()
        self.granted_ns = now_ns
        if grant.sequence == 1:
            self.promises.append(Promise(grant.epoch, grant.ceiling_bytes, grant.may_launch))
        if len(self.promises) > _MOST_PROMISES:
            # A stopped client answers nothing: its oldest two count as one that allows all that either does.
            oldest, second = self.promises[:2]
            ceiling_bytes = max(oldest.ceiling_bytes, second.ceiling_bytes)
            merged = Promise(second.epoch, ceiling_bytes, oldest.may_launch or second.may_launch)
            self.promises[:2] = [merged]
        self._account()

    def set_ceiling(self, ceiling_bytes: int) -> None:
        """Decides the most that it may have on the card."""
        self.ceiling_bytes = ceiling_bytes
        self._account()

    def shown(self, listed_bytes: int | None) -> None:
        """Takes over what the driver shows of it; None: the driver does not list our processes."""
        self.listed_bytes = listed_bytes
        self._weigh()

    def _weigh(self) -> None:
        """Decides what to believe of its report. Called when that, or what it is judged by, has changed."""
        if self.report is not None:
            self._believe(self.report)
        self._account()

    def _believe(self, report: Report) -> None:
        self.state, self.swaps, self.leaving = report.state, report.swaps, report.leaving
        self.demand = report.demand and not report.leaving
        self.allocation_waits = report.allocation_waits and not report.leaving
        self.reachable = not report.leaving and self.link == Link.CONNECTED
        needed_bytes = report.needed_bytes or report.footprint_bytes
        if report.swaps:
            # What is in host memory the driver cannot show, and nobody else is charged for it.
            self.footprint_bytes, self.needed_bytes = report.footprint_bytes, needed_bytes
            self.resident_bytes = self._believed(report.resident_bytes)
        else:
            self.footprint_bytes = self._believed(report.footprint_bytes)
            self.needed_bytes = self.resident_bytes = self._believed(needed_bytes)
        self.wanted_bytes = max(report.wanted_bytes, self.footprint_bytes)
        self.wish_bytes = max(report.wanted_needed_bytes or report.wanted_bytes, self.needed_bytes)
        self.staying_bytes = min(self.resident_bytes, self.staying_of(self.needed_bytes))

    def _account(self) -> None:
        """Sums up what it may have. Called when its ceiling, its promises, or what is believed of it has changed."""
        ceiling_bytes = self.ceiling_bytes
        self.charge_bytes = self.resident_bytes
        if not self.leaving:
            promised_bytes = 0 if self.agreed else self.journal_bytes
            ceilings_bytes = [promise.ceiling_bytes for promise in self.promises]
            self.charge_bytes = max(self.resident_bytes, ceiling_bytes, promised_bytes, *ceilings_bytes)
        self.kept_bytes = max(self.staying_bytes, ceiling_bytes)
        self.served_bytes = self.wish_bytes if self.wish_bytes <= ceiling_bytes else self.needed_bytes
        used_bytes = max(self.served_bytes, self.staying_bytes)
        self.spare_bytes = max(0, self.kept_bytes - used_bytes)
        self.body_bytes = max(0, min(self.kept_bytes, used_bytes) - self.staying_bytes) if self.swaps else 0

    def _believed(self, said_bytes: int) -> int:
        """What it may truly have of what it says: what it was ever allowed, or what the driver shows."""
        return said_bytes if self.listed_bytes is None else min(said_bytes, max(self.allowed_bytes, self.listed_bytes))

    def _has_drained(self, report: Report) -> bool:
        """Whether it is quiet by the newest word to it. One that is stuck may say in between that it runs."""
        newest = self.granted
        withdrawn = newest is not None and not newest.may_launch and report.epoch == newest.epoch
        return withdrawn and report.state == ClientState.WAITING


def key_of(allocation: str, client: str) -> str:
    """Names a client among those of its GPU."""
    return f"{allocation}/{client}"
