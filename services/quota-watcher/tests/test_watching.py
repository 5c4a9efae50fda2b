"""List-and-watch against the objects of an API server, over any cut, refusal and repetition, in modelled time."""

import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvshare.fake_api_server.objects import pod
from nvshare.fake_api_server.resources import PODS, Target
from nvshare.fake_api_server.statuses import ApiError
from nvshare.fake_api_server.store import Store
from nvshare.quota_watcher.listing import Change, Gone, Seen
from nvshare.quota_watcher.pods import parse_pod
from nvshare.quota_watcher.watching import List, ListAndWatch, Policy, Wait, Watch

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALL = Target(PODS)
CORES = "nvshare.com/gpu-core-limit"


def one(name: str) -> Target:
    return Target(PODS, "default", name)


@dataclass
class Follower:
    """The machine, performed against a store. A stream gives what happened since the last step, then stays open."""

    store: Store = field(default_factory=Store)
    machine: ListAndWatch = field(default_factory=lambda: ListAndWatch(Policy(page_size=2), random.Random(1)))
    clock: float = 0.0
    answers_again_at: float = 0.0
    open_from: str | None = None
    changes: list[Change] = field(default_factory=list)
    asked: Counter[type] = field(default_factory=Counter)

    def step(self) -> None:
        """One request and its answer, or one look at the open stream."""
        if self.open_from is None:
            step = self.machine.next_step()
            self.asked[type(step)] += 1
            if isinstance(step, Wait):
                self.clock += step.seconds
            elif self.clock < self.answers_again_at:
                self.machine.failed()
            elif isinstance(step, List):
                self._list(step)
            else:
                self._open(step)
        else:
            self.look()

    def _list(self, step: List) -> None:
        try:
            page = self.store.page(ALL, limit=step.limit, continue_token=step.continue_token)
        except ApiError as error:
            self.machine.refused(error.code)
            return
        pods = [parse_pod(item) for item in page["items"]]
        metadata = page["metadata"]
        self.changes += self.machine.page(pods, metadata["resourceVersion"], metadata.get("continue", ""))

    def _open(self, step: Watch) -> None:
        self.open_from = step.version
        self.look()

    def look(self, *, twice: bool = False, at_most: int | None = None) -> None:
        """The events that came over the open stream meanwhile."""
        assert self.open_from is not None
        try:
            events = list(self.store.events_after(ALL, self.open_from, lambda _: True))
        except ApiError as error:
            self.open_from = None
            self.machine.refused(error.code)
            return
        for kind, item in events[:at_most]:
            for _ in range(2 if twice else 1):
                self.changes += self.machine.event(kind, parse_pod(item))
            self.open_from = item["metadata"]["resourceVersion"]

    def cut(self) -> None:
        if self.open_from is not None:
            self.open_from = None
            self.machine.failed()

    def end(self, lived_seconds: float) -> None:
        if self.open_from is not None:
            self.open_from = None
            self.machine.ended(lived_seconds)

    def gone(self, code: int = 410) -> None:
        """An ERROR event."""
        if self.open_from is not None:
            self.open_from = None
            self.machine.refused(code)

    def catch_up(self) -> None:
        """Until a stream is open and nothing is left in it."""
        for _ in range(1000):
            if self.open_from is not None:
                self.look()
                if self.open_from is not None:
                    return
            self.step()
        raise AssertionError("it never catches up")

    @property
    def known(self) -> dict[str, str]:
        """Versions of the known pods by UID."""
        return {uid: pod.version for uid, pod in self.machine.listing.pods.items()}

    @property
    def true(self) -> dict[str, str]:
        return {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in self.store.all(PODS)}

    def add(self, name: str) -> str:
        return str(self.store.create(Target(PODS, "default"), pod(name), NOW)["metadata"]["uid"])

    def remove(self, name: str) -> None:
        self.store.delete(one(name), NOW)

    def gone_uids(self) -> Counter[str]:
        return Counter(change.pod.uid for change in self.changes if isinstance(change, Gone))


@pytest.fixture
def follower() -> Follower:
    return Follower()


# What happens, and to whom: what changes at the server, and what goes wrong on the way.
happenings = st.lists(
    st.tuples(
        st.sampled_from(["add", "change", "remove", "make again"]),
        st.sampled_from("abcde"),
    )
    | st.tuples(
        st.sampled_from(["step", "look", "look twice", "look once", "cut", "end", "410", "500", "compact", "dead"]),
        st.just(""),
    ),
    max_size=60,
)


@given(happenings)
def test_whatever_goes_wrong_on_the_way_the_pods_are_known_in_the_end(steps: list[tuple[str, str]]) -> None:
    follower = Follower()
    for number, (what, name) in enumerate(steps):
        exists = any(item["metadata"]["name"] == name for item in follower.store.all(PODS))
        match what:
            case "add" if not exists:
                follower.add(name)
            case "change" if exists:
                follower.store.patch(one(name), {"metadata": {"annotations": {CORES: str(number)}}})
            case "remove" if exists:
                follower.remove(name)
            case "make again" if exists:
                follower.remove(name)
                follower.add(name)
            case "step":
                follower.step()
            case "look" | "look twice" | "look once" if follower.open_from is not None:
                follower.look(twice=what == "look twice", at_most=1 if what == "look once" else None)
            case "cut":
                follower.cut()
            case "end":
                follower.end(lived_seconds=0.0)
            case "410" | "500":
                follower.gone(int(what))
            case "compact":
                follower.store.compact()
            case "dead":
                follower.answers_again_at = follower.clock + 3.0
            case _:
                pass
    follower.catch_up()
    assert follower.known == follower.true
    seen = {change.pod.uid for change in follower.changes if isinstance(change, Seen)}
    assert follower.gone_uids() == Counter(seen - follower.true.keys()), "each that was seen and deleted goes once"


def test_a_deletion_that_a_compaction_hid_is_found_by_the_next_list(follower: Follower) -> None:
    uid = follower.add("a")
    follower.add("b")
    follower.catch_up()
    follower.cut()
    follower.remove("a")
    follower.store.compact()
    follower.catch_up()
    assert follower.gone_uids() == {uid: 1}


def test_a_pod_made_again_under_its_name_is_another_one(follower: Follower) -> None:
    old = follower.add("a")
    follower.catch_up()
    follower.cut()
    follower.remove("a")
    new = follower.add("a")
    follower.store.compact()
    follower.catch_up()
    assert follower.gone_uids() == {old: 1}
    assert set(follower.known) == {new}


def test_e18_a_list_that_was_not_read_to_its_end_removes_nothing(follower: Follower) -> None:
    for name in "abcde":
        follower.add(name)
    follower.catch_up()
    follower.gone()
    for _ in range(3):  # wait, and two of three pages
        follower.step()
    follower.answers_again_at = follower.clock + 60.0
    for _ in range(10):
        follower.step()
    assert (len(follower.known), follower.gone_uids()) == (5, {})


def test_a_list_whose_pages_always_expire_is_read_in_one(follower: Follower) -> None:
    for name in "abcde":
        follower.add(name)
    for number in range(10):
        follower.step()
        follower.add(f"later-{number}")
        follower.store.compact()
        if follower.machine.watching:
            break
    assert follower.machine.watching


def test_a_deletion_while_pages_expired_is_found(follower: Follower) -> None:
    uid = follower.add("a")
    for name in "bcd":
        follower.add(name)
    follower.step()  # the page with a
    follower.remove("a")
    follower.store.compact()
    follower.catch_up()
    assert (follower.known, follower.gone_uids()) == (follower.true, {uid: 1})


def test_what_is_known_is_no_news(follower: Follower) -> None:
    follower.add("a")
    follower.catch_up()
    follower.add("b")
    follower.look(twice=True)
    follower.gone()
    follower.catch_up()
    assert len(follower.changes) == 2


def test_a_page_that_fails_is_asked_for_again(follower: Follower) -> None:
    for name in "abc":
        follower.add(name)
    follower.step()
    follower.machine.refused(500)
    assert isinstance(follower.machine.next_step(), Wait)
    again = follower.machine.next_step()
    assert isinstance(again, List)
    assert again.continue_token


def test_bookmarks_bring_the_version_forward(follower: Follower) -> None:
    follower.catch_up()
    follower.machine.bookmark("later")
    follower.end(lived_seconds=300.0)
    step = follower.machine.next_step()
    assert isinstance(step, Watch)
    assert step.version == "later"


def test_a_stream_that_ended_in_time_is_followed_by_the_next_at_once(follower: Follower) -> None:
    follower.catch_up()
    follower.end(lived_seconds=300.0)
    assert isinstance(follower.machine.next_step(), Watch)


def test_watches_of_many_watchers_do_not_end_together() -> None:
    timeouts = set()
    for seed in range(20):
        machine = ListAndWatch(Policy(), random.Random(seed))
        machine.page([], "1", "")
        step = machine.next_step()
        assert isinstance(step, Watch)
        timeouts.add(step.timeout_seconds)
    assert len(timeouts) > 10
    assert all(290 <= timeout <= 580 for timeout in timeouts)


def test_a_server_that_always_says_gone_is_asked_less_and_less(follower: Follower) -> None:
    follower.catch_up()
    while follower.clock < 60.0:
        follower.gone()
        follower.step()
    assert follower.asked[List] < 100


def test_a_server_that_ends_each_stream_at_once_is_asked_less_and_less(follower: Follower) -> None:
    while follower.clock < 60.0:
        follower.catch_up()
        follower.end(lived_seconds=0.01)
    assert follower.asked[Watch] < 100


def test_a_version_that_never_works_is_not_asked_for_for_ever(follower: Follower) -> None:
    follower.catch_up()
    lists = follower.asked[List]
    for _ in range(5):
        follower.gone(500)
        while follower.open_from is None:
            follower.step()
    assert follower.asked[List] > lists


def test_a_refusal_that_says_when_to_come_again_is_obeyed(follower: Follower) -> None:
    follower.machine.refused(429, retry_after_seconds=7.0)
    assert follower.machine.next_step() == Wait(7.0)
    assert isinstance(follower.machine.next_step(), List)
    follower.machine.refused(429, retry_after_seconds=86_400.0)
    assert follower.machine.next_step() == Wait(60.0)


@given(st.integers(0, 10_000), st.booleans())
def test_b9_a_server_that_was_dead_for_a_minute_is_followed_again_within_2_s(seed: int, compacted: bool) -> None:
    follower = Follower(machine=ListAndWatch(Policy(), random.Random(seed)))
    follower.add("a")
    follower.catch_up()
    follower.cut()
    follower.answers_again_at = 60.0
    follower.store.patch(one("a"), {"metadata": {"annotations": {CORES: "30"}}})
    if compacted:
        follower.store.compact()
    follower.catch_up()
    assert follower.known == follower.true
    assert follower.clock <= 60.0 + 2.0
