"""The numbers that the arbiter decides by, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from nvshare.scheduler.model import TimeSharing

MIB = 1 << 20
GIB = 1 << 30
MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of an arbiter. Times in ns, memory in bytes."""

    protocol: int = 1
    build: str = "unknown"

    reserve_bytes: int = 256 * MIB
    """Never promised: room for what the driver itself allocates while programs run."""

    step_bytes: int = 64 * MIB
    """Memory is promised in steps of this (design section 4: each step costs a round trip)."""

    headroom_bytes: int = GIB
    """The most headroom that a client gets when memory is plentiful."""

    credit_bytes: int = 512 * MIB
    """Room that becomes free is passed on in steps of this, so that one client's way out overlaps the next one's way
    in: small against a swap, large against the cost of a message."""

    overcommit_percent: int = 0
    """All that clients need together may not pass this share of the capacity; 0: no cap."""

    link_bytes_per_second: int = 20_000_000_000
    """How fast memory moves, until it was measured."""

    quantum_swaps: int = 40
    """The automatic quantum is so many times the time of a swap: a fortieth is lost."""

    least_quantum_swaps: int = 5
    """It is never less than this, however many wait."""

    quiet_quantum_ns: int = 2 * SECOND_NS
    """The automatic quantum where next to nothing has to move."""

    pinned_bytes_per_second: int = 3_000_000_000
    """How fast host memory is pinned at least, where it can be."""

    pool_limit_ns: int = 5 * SECOND_NS
    """A quantum goes on until the client's pool is ready, but no longer than this and the time of pinning it."""

    pool_stall_ns: int = 2 * SECOND_NS
    """A pool that has not grown for so long (two reports) is not waited for."""

    idle_ns: int = 500 * MILLISECOND_NS
    """A client that wanted nothing for so long may lose its place to who waits: about what moving it costs."""

    standing_ns: int = 200 * MILLISECOND_NS
    """A client whose allocation waits, and that launches nothing for so long, makes no use of its place."""

    calm_ns: int = 5 * SECOND_NS
    """What is away comes back by itself when it has fitted for so long."""

    leave_limit_ns: int = 5 * SECOND_NS
    """A client that should make room, and of which nothing left for so long, is not counted on."""

    distrust_ns: int = 30 * SECOND_NS
    """And it is asked again after so long."""

    arrival_limit_ns: int = 10 * SECOND_NS
    """The quantum of a client that does not bring its memory in starts after so long all the same."""

    ghost_tolerance_bytes: int = 16 * MIB
    """Less than this left of a dead client is the driver's own coming and going."""

    ghost_falling_ns: int = 5 * SECOND_NS
    """A dead client's memory that has not become less for so long is not waited for when others block each other."""

    ghost_lasting_ns: int = 30 * SECOND_NS
    """After so long what no process has any more counts as the driver's own."""

    loading_quiet_ns: int = SECOND_NS
    """A client loads until it has not grown for so long."""

    loading_limit_ns: int = 30 * SECOND_NS
    """After so long a client that still grows is not waited for any more."""

    movable_quiet_ns: int = 600 * MILLISECOND_NS
    """The same for a client whose memory can be moved: to be wrong costs a swap, not a deadlock. PyTorch pauses for
    half a second before its first kernel of a kind (H200)."""

    movable_loading_limit_ns: int = 2 * SECOND_NS
    """And so long is it waited for at most, beside the time in which it waited for memory itself."""

    deadlock_ns: int = 200 * MILLISECOND_NS
    """A deadlock over memory is resolved when it has lasted for so long."""

    no_progress_ns: int = SECOND_NS
    """A client that waits for memory and has launched nothing for so long does not run."""

    idle_for_good_ns: int = 30 * SECOND_NS
    """A client that wanted nothing for so long is not expected to free memory."""

    settle_ns: int = 1500 * MILLISECOND_NS
    """After a restart living clients have so long to speak (they report once a second)."""

    silent_ns: int = 3 * SECOND_NS
    """A connected client that misses three reports is stopped."""

    drain_limit_ns: int = 30 * SECOND_NS
    """A revoked client that never says that it is quiet counts as stuck."""

    neighbour_active_ns: int = 10 * SECOND_NS
    """An idle holder gives its lock up when another client wanted the GPU in this time."""

    resend_ns: int = 200 * MILLISECOND_NS
    """A grant is sent again to a client that reports an older one so long after."""

    resend_unknown_ns: int = 20 * MILLISECOND_NS
    """The same for a client that reports no grant of this generation."""

    contested_ns: int = SECOND_NS
    """The window stays small for so long after another client wanted the GPU."""

    time_sharing: TimeSharing = TimeSharing.AUTO
    """How clients that use the card at the same time share its time: other ways than `AUTO` are for comparisons."""

    window_alone_us: int = 20_000
    window_contested_us: int = 4_000

    windows_per_slot: int = 8
    """A client has no more than this part of its slot in flight. Marks are a quarter of that apart: each one costs some
    microseconds of the card, 0.5 % at one each millisecond (H200)."""

    period_us: int = 100_000
    """How often a client has its slot."""

    longest_period_us: int = 200_000
    """The same where slots leave nothing of the period, as long as nobody waits too long for its own."""

    slot_wait_margin_us: int = 5_000
    """What the one before may take longer than its slot."""

    slot_contested_ns: int = 200 * MILLISECOND_NS
    """Who has wanted nothing for so long has no slot between those of others without a core limit."""

    steady_ns: int = 2 * SECOND_NS
    """Two with equal shares take turns by slots, too, if neither has rested for so long: somebody may wait for what one
    that rests does between, and it would wait for its slot."""

    most_in_turns: int = 4
    """So many clients at most take turns by slots without a limit: each hand-over costs up to a millisecond."""

    least_slot_share: float = 0.01
    """What best effort has of the card, all of it together, beside others where slots are all there is: 1 ms of 100."""

    busy_slice_us: int = 20_000
    """The mean hardware time slice of clients that all keep the card busy: a hundredth is lost to switches."""

    long_work_slice_us: int = 10_000
    """The same of clients with slots whose work is longer than these: each call ends within a slice, and the rest of
    that is lost to the other."""

    mixed_slice_us: int = 3_000
    """The same where weights differ and not all are busy, who would wait for long ones."""

    floor_slice_us: int = 1
    """Of the one best-effort client that yields: paused while another one has work."""

    yielding_turn_ns: int = SECOND_NS
    """How long one of several best-effort clients may launch, in the mean: while it drains at the end of that, who it
    yields to waits for a slice of the driver's, so few of a hundred bursts may meet it."""

    yielding_slice_us: int = 1_000
    """Of several best-effort clients that cannot take turns: short for those that they yield to, long beside a switch
    between them."""

    turn_wait_us: int = 100_000
    """Slices and slots are so short that nobody waits longer for its turn on the card (requirement B8),"""

    turn_wait_each_us: int = 12_000
    """or, of many clients, longer than this for each of the others."""

    switch_us: int = 200
    """What a switch between two clients takes (H200)."""

    busy_permille: int = 800
    """A client whose work is on the card for this share of the time keeps it busy."""

    idle_permille: int = 500
    """And does so until it falls below this."""

    restless_permille: int = 970
    """A client whose work is on the card for this share of the time leaves it no rest."""

    restful_permille: int = 900
    """And does so until it falls below this."""

    less_use_ns: int = 3 * SECOND_NS
    """A client that has used less of the card for so long leaves what it does not use to others of its allocation."""

    long_work_ns: int = 500 * MILLISECOND_NS
    """A client that wants the GPU and launches nothing for so long has long work in flight, or pays for it: what it
    reports as busy time says nothing (a report's span is as long)."""

    activity_span_ns: int = 500 * MILLISECOND_NS
    """What slots pay for is decided anew when so much more is known about when work was in flight,"""

    activity_late_ns: int = 300 * MILLISECOND_NS
    """without the last of it: what runs then may not have ended before the clients' reports."""

    activity_patience_ns: int = 2 * SECOND_NS
    """A client that has not said for so long when its work was in flight counts as if it had none."""

    overlap_least: float = 1.1
    """Clients' work in 10 ms that comes to less than this did not run at the same time: where one slot follows another
    the libraries see the end of a kernel up to a millisecond late."""

    driver_slice_us: int = 2_000
    """The driver's own time slice (H200)."""

    own_part_gain: float = 0.5
    """How fast what a client had of its busy time is followed,"""

    most_given_back: float = 0.25
    """and how much less, or more, it pays at most to settle what it has paid too much, or too little."""

    longest_part_of_slot: float = 0.5
    """A client whose calls take more of its slot in the mean may run beside the next one."""

    most_overpaid_ns: int = 250 * MILLISECOND_NS
    """More is forgotten."""

    least_paid: float = 0.05
    """Of its busy time a client pays for this much at least, even while it is paused."""

    paid_change_permille: int = 10
    """What slots pay for changes by so much at least: each change is a grant."""

    clock_difference_ns: int = SECOND_NS
    """A client whose clock differs by more cannot follow slots."""

    early_report_ns: int = 2 * SECOND_NS
    """A report may overtake the relay's word about its sender by so much."""

    early_reports: int = 256
    """So many such reports are kept."""

    shortest_quantum_ns: int = 10 * MILLISECOND_NS
    longest_quantum_ns: int = 3600 * SECOND_NS
    longest_max_wait_ns: int = 86_400 * SECOND_NS

    sample_ns: int = SECOND_NS
    sample_after_death_ns: int = 5 * MILLISECOND_NS
    sample_with_ghosts_ns: int = 100 * MILLISECOND_NS
    death_watch_ns: int = 2 * SECOND_NS
    """How often the card's memory is read: always, this long after a death, and while dead clients hold memory."""

    def longest_turn_wait_us(self, clients: int) -> int:
        """How long one of so many clients may wait for its turn on the card."""
        return max(self.turn_wait_us, self.turn_wait_each_us * (clients - 1))
