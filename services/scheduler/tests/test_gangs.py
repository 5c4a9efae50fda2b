"""The coordinator of gangs by itself: claims and a time in, rulings out (A3, E11)."""

from dataclasses import replace

from nvshare.scheduler.gangs import Coordinator, GangPolicy, Phase, Rulings
from nvshare.scheduler.model import Ruling
from nvshare.scheduler.places import Claim, GpuClaims
from nvshare.scheduler.policy import GIB, SECOND_NS

QUANTUM_NS = 10 * SECOND_NS
POLICY = GangPolicy()


class Node:
    """Two GPUs of 16 GiB, their clients' claims, and the coordinator. Time stands still until `rule` says otherwise."""

    def __init__(self, serial: bool = False, gpus: int = 2) -> None:
        self.coordinator = Coordinator()
        self.serial = serial
        self.ghost_bytes = 0
        self.claims: dict[str, dict[str, Claim]] = {f"GPU-{index}": {} for index in range(gpus)}
        self.now_ns = 0
        self.ruled = Rulings({})

    def put(self, gpu: int, key: str, gang: str = "", needed_gib: int = 12, **changes: object) -> None:
        """A client that wants to run and has no place, but for the changes."""
        usual = Claim(key, gang, demand=True, waiting_ns=self.now_ns, needed_bytes=needed_gib * GIB)
        self.claims[f"GPU-{gpu}"][key] = replace(usual, **changes)  # type: ignore[arg-type]

    def put_gang(self, name: str, gpus: tuple[int, ...] = (0, 1), **changes: object) -> None:
        """One client of the gang on each of the GPUs."""
        for gpu in gpus:
            self.put(gpu, f"{name}-{gpu}", name, **changes)  # type: ignore[arg-type]

    def change(self, key: str, **changes: object) -> None:
        """Claims of this client, or of each of this gang, come out different."""
        for claims in self.claims.values():
            for claim in claims.values():
                if key in (claim.key, claim.gang):
                    claims[claim.key] = replace(claim, **changes)  # type: ignore[arg-type]

    def place(self, key: str) -> None:
        """The client, or each of the gang, gets its place, and runs."""
        self.change(key, placed=True, ends_ns=self.now_ns + QUANTUM_NS, waiting_ns=None, quiet=False)

    def leave(self, key: str) -> None:
        """The client, or each of the gang, loses its place, and waits for it."""
        self.change(key, placed=False, waiting_ns=self.now_ns, quiet=True)

    def rule(self, after_ns: int = 0) -> dict[str, Ruling]:
        """What each member is told, by key, `after_ns` from now."""
        self.now_ns += after_ns
        gpus = [
            GpuClaims(gpu, self.serial, 16 * GIB, QUANTUM_NS, tuple(claims.values()), self.ghost_bytes)
            for gpu, claims in self.claims.items()
        ]
        self.ruled = self.coordinator.rule(gpus, self.now_ns)
        return {member.key: member.ruling for members in self.ruled.members.values() for member in members}

    def gang(self, name: str, after_ns: int = 0) -> Ruling:
        """What all clients of the gang are told; they must be told the same."""
        rulings = {ruling for key, ruling in self.rule(after_ns).items() if key.startswith(f"{name}-")}
        assert len(rulings) == 1, rulings
        return rulings.pop()

    @property
    def kinds(self) -> set[str]:
        return {event.kind for _, event in self.ruled.events}


def running_and_waiting(serial: bool = False) -> Node:
    """Gang `one` runs on both GPUs since now; gang `two` waits for them."""
    node = Node(serial)
    node.put_gang("one")
    assert node.gang("one") == Ruling.IN
    node.place("one")
    node.put_gang("two")
    assert node.gang("two") == Ruling.NEXT
    return node


def test_a3_clients_that_are_in_no_gang_are_told_nothing() -> None:
    node = Node()
    node.put(0, "a")
    node.put(1, "b")
    assert node.rule() == {}


def test_a_gang_on_a_single_gpu_is_none() -> None:
    node = Node()
    node.put(0, "one-a", "one", needed_gib=4)
    node.put(0, "one-b", "one", needed_gib=4)
    assert node.rule() == {}


def test_e11_of_two_gangs_that_do_not_fit_together_the_second_gets_no_gpu() -> None:
    node = running_and_waiting()
    assert node.rule() == {"one-0": Ruling.IN, "one-1": Ruling.IN, "two-0": Ruling.NEXT, "two-1": Ruling.NEXT}


def test_e11_two_gangs_that_have_begun_on_one_gpu_each_are_sorted_out() -> None:
    """Before they were gangs: their first work was theirs alone."""
    node = Node()
    node.put_gang("one")
    node.put_gang("two")
    node.place("one-0")
    node.place("two-1")
    assert set(node.rule().values()) == {Ruling.PAUSED}
    node.change("one-0", quiet=True)
    node.change("two-1", quiet=True)
    assert node.rule() == {"one-0": Ruling.IN, "one-1": Ruling.IN, "two-0": Ruling.NEXT, "two-1": Ruling.NEXT}


def test_e11_two_gangs_with_room_for_both_run_side_by_side() -> None:
    node = Node()
    node.put_gang("one", needed_gib=8)
    node.put_gang("two", needed_gib=8)
    assert set(node.rule().values()) == {Ruling.IN}
    node.place("one")
    node.place("two")
    assert set(node.rule(10 * QUANTUM_NS).values()) == {Ruling.IN}


def test_a_gang_keeps_its_places_for_a_quantum_from_when_all_of_it_is_there() -> None:
    node = Node()
    node.put_gang("one")
    node.rule()
    node.change("one", resident_bytes=GIB)
    assert node.gang("one", 3 * SECOND_NS) == Ruling.IN
    node.place("one")
    node.rule()
    node.put_gang("two")
    assert node.gang("one", QUANTUM_NS - 1) == Ruling.IN
    assert node.gang("one", 1) == Ruling.PAUSED


def test_a_gang_leaves_only_when_all_of_it_is_quiet_and_the_next_comes_in_at_once() -> None:
    node = running_and_waiting()
    assert node.gang("one", QUANTUM_NS) == Ruling.PAUSED
    assert node.gang("two") == Ruling.NEXT
    node.change("one-0", quiet=True)
    assert node.gang("one") == Ruling.PAUSED
    node.change("one-1", quiet=True)
    assert node.rule() == {"one-0": Ruling.NEXT, "one-1": Ruling.NEXT, "two-0": Ruling.IN, "two-1": Ruling.IN}


def test_a_gang_that_wants_nothing_leaves_at_once_for_one_that_waits() -> None:
    node = running_and_waiting()
    node.change("one", demand=False, quiet=True)
    node.rule()
    assert node.rule() == {"one-0": Ruling.OUT, "one-1": Ruling.OUT, "two-0": Ruling.IN, "two-1": Ruling.IN}


def test_a4_a_gang_that_wants_nothing_stays_while_nobody_needs_the_room() -> None:
    node = Node()
    node.put_gang("one", needed_gib=8)
    node.rule()
    node.place("one")
    node.change("one", demand=False, quiet=True)
    node.put(0, "a", needed_gib=8)
    assert node.gang("one", 10 * QUANTUM_NS) == Ruling.IN


def test_a_gang_of_which_one_rank_works_on_the_host_wants_all_its_gpus() -> None:
    node = running_and_waiting()
    node.change("one-1", demand=False, quiet=True)
    assert node.gang("one", QUANTUM_NS - 1) == Ruling.IN


def test_e11_ranks_that_were_stopped_on_both_sides_of_a_collective_may_catch_up() -> None:
    """One has launched its part, the other was stopped before: the first can never be quiet."""
    node = running_and_waiting()
    node.rule(QUANTUM_NS)
    node.change("one-1", quiet=True)
    assert node.gang("one", POLICY.patience_ns - 1) == Ruling.PAUSED
    assert node.gang("one", 1) == Ruling.IN
    assert node.gang("two") == Ruling.NEXT
    node.change("one", quiet=False)
    assert node.gang("one", POLICY.breath_ns) == Ruling.PAUSED
    node.change("one", quiet=True)
    node.rule()
    assert node.gang("two") == Ruling.IN


def test_a_gang_that_does_not_come_to_rest_in_five_seconds_is_given_its_grant_back_and_that_is_said() -> None:
    node = running_and_waiting()
    node.rule(QUANTUM_NS)
    assert node.gang("one", POLICY.drain_limit_ns - 1) == Ruling.PAUSED
    assert node.gang("one", 1) == Ruling.IN
    assert node.kinds == {"gang-kept"}
    assert node.gang("one", QUANTUM_NS - 1) == Ruling.IN
    assert node.gang("one", 1) == Ruling.PAUSED


def test_a_gang_whose_room_does_not_become_free_gives_up_what_it_got_and_that_is_said() -> None:
    """A client in no gang that does not leave the second GPU: others may have the first one meanwhile."""
    node = Node()
    node.put(1, "stuck")
    node.place("stuck")
    node.put_gang("one")
    assert node.gang("one", QUANTUM_NS) == Ruling.IN
    node.place("one-0")
    node.put(0, "other")
    node.rule()
    assert node.gang("one", POLICY.assembly_limit_ns) == Ruling.PAUSED
    assert "gang-gave-up" in node.kinds
    node.change("one-0", quiet=True)
    assert node.gang("one") == Ruling.OUT
    node.leave("one-0")
    node.place("other")
    assert node.gang("one", QUANTUM_NS) == Ruling.IN


def test_a_client_in_no_gang_keeps_its_quantum_before_a_gang_that_waits() -> None:
    node = Node()
    node.put(1, "a")
    node.place("a")
    node.put_gang("one")
    assert node.gang("one", QUANTUM_NS - 1) == Ruling.NEXT
    assert node.ruled.wake_ns == QUANTUM_NS
    assert node.gang("one", 1) == Ruling.IN


def test_who_has_waited_for_longer_than_a_gang_goes_first() -> None:
    node = running_and_waiting()
    node.put(0, "a", waiting_ns=0)
    node.change("two", waiting_ns=1)
    node.coordinator.turns["two"].waiting_ns = 1
    node.rule(QUANTUM_NS)
    node.change("one", quiet=True)
    assert node.gang("two") == Ruling.NEXT
    node.place("a")
    assert node.gang("two", QUANTUM_NS) == Ruling.IN


def test_a_gang_leaves_both_gpus_for_a_client_that_needs_one() -> None:
    node = Node()
    node.put_gang("one")
    node.rule()
    node.place("one")
    node.rule()
    node.put(1, "a")
    assert node.gang("one", QUANTUM_NS) == Ruling.PAUSED
    node.change("one", quiet=True)
    assert node.gang("one") == Ruling.NEXT


def test_a_gang_does_not_leave_for_one_that_could_not_come_in_yet() -> None:
    """Gang `far` also needs the third GPU, which is not free before its client's quantum is over."""
    node = Node(gpus=3)
    node.put_gang("one")
    node.rule()
    node.place("one")
    node.rule()
    node.put(2, "a")
    node.put_gang("far", gpus=(1, 2))
    node.now_ns = QUANTUM_NS - 1
    node.place("a")
    assert node.gang("one", 1) == Ruling.IN
    assert node.gang("one", QUANTUM_NS) == Ruling.PAUSED


def test_a_rank_that_starts_later_is_brought_in_with_those_that_run() -> None:
    node = Node(gpus=3)
    node.put_gang("one")
    node.rule()
    node.place("one")
    node.rule()
    node.put(2, "one-2", "one")
    assert node.gang("one", 5 * SECOND_NS) == Ruling.IN


def test_a_gang_ends_with_its_clients() -> None:
    node = running_and_waiting()
    for claims in node.claims.values():
        claims.pop("one-0", None)
    node.rule()
    assert "one" not in node.coordinator.turns
    assert node.gang("two", QUANTUM_NS) == Ruling.IN


def test_a_gang_that_is_found_whole_after_a_restart_has_a_quantum() -> None:
    node = Node()
    node.put_gang("one")
    node.place("one")
    node.put_gang("two")
    assert node.gang("one") == Ruling.IN
    assert node.gang("one", QUANTUM_NS) == Ruling.PAUSED


def test_nobody_leaves_because_of_memory_that_a_dead_client_has_not_given_back_yet() -> None:
    node = Node()
    node.put_gang("one")
    node.rule()
    node.place("one")
    node.rule()
    node.ghost_bytes = 8 * GIB
    node.put_gang("two", needed_gib=4)
    assert node.gang("one", SECOND_NS) == Ruling.IN
    assert node.gang("two") == Ruling.NEXT
    node.ghost_bytes = 0
    assert node.gang("two") == Ruling.IN


def test_a_gang_that_could_never_be_together_is_none_and_that_is_said_once() -> None:
    node = Node()
    node.put_gang("one", needed_gib=17)
    assert node.rule() == {}
    assert node.kinds == {"gang-too-large"}
    node.rule()
    assert node.kinds == set()


def test_a_gang_that_has_no_room_beside_what_cannot_leave_the_card_waits_and_holds_nobody_up() -> None:
    node = Node()
    node.put_gang("one", needed_gib=8, stays_bytes=6 * GIB)
    node.put_gang("two", needed_gib=12)
    node.put_gang("three", needed_gib=8)
    ruled = node.rule()
    assert {ruled["one-0"], ruled["two-0"], ruled["three-0"]} == {Ruling.IN, Ruling.OUT}
    assert ruled["two-0"] == Ruling.OUT


def test_e11_in_serial_mode_a_gang_holds_both_locks_or_none() -> None:
    node = Node(serial=True)
    node.put_gang("one", needed_gib=1)
    node.put_gang("two", needed_gib=1)
    assert node.rule() == {"one-0": Ruling.IN, "one-1": Ruling.IN, "two-0": Ruling.NEXT, "two-1": Ruling.NEXT}
    node.place("one")
    node.rule()
    assert node.gang("one", QUANTUM_NS) == Ruling.PAUSED
    node.leave("one")
    assert node.rule() == {"one-0": Ruling.NEXT, "one-1": Ruling.NEXT, "two-0": Ruling.IN, "two-1": Ruling.IN}


def test_the_coordinator_asks_to_be_woken_for_each_of_its_own_deadlines() -> None:
    node = running_and_waiting()
    assert node.ruled.wake_ns == QUANTUM_NS
    node.rule(QUANTUM_NS)
    assert node.ruled.wake_ns == node.now_ns + POLICY.patience_ns
    node.change("one-0", quiet=True)
    node.rule(POLICY.patience_ns)
    assert node.coordinator.turns["one"].phase == Phase.BREATHING
    assert node.ruled.wake_ns == node.now_ns + POLICY.breath_ns
