"""Whose an allocation is, and when it is over."""

from nvshare.device_plugin.checkpoint import Entry
from nvshare.device_plugin.joining import Held, absent, join, newest_of_each_share, superseded
from nvshare.device_plugin.records import Pod, Record
from nvshare.device_plugin.shares import Share

A, B = Share("GPU-0", 0), Share("GPU-1", 0)


def made(name: str, at: int, *shares: Share, started: int = 0, pod: Pod | None = None) -> Record:
    return Record(name, shares or (A,), at, started, pod)


def has(pod: str, container: str, *shares: Share) -> Held:
    return Held("default", pod, container, frozenset(shares or (A,)))


def test_an_allocation_is_its_containers_who_has_just_these_shares() -> None:
    records = [made("one", 1, A, B), made("two", 2, Share("GPU-0", 1))]
    held = [has("web", "app", A, B), has("web", "side", Share("GPU-0", 1))]
    assert join(records, held, []) == {
        "one": Pod("default", "web", "", "app"),
        "two": Pod("default", "web", "", "side"),
    }


def test_an_allocation_whose_shares_nobody_has_is_nobodys() -> None:
    assert join([made("one", 1)], [has("web", "app", B)], []) == {}


def test_the_checkpoint_adds_the_uid() -> None:
    entry = Entry("uid-1", "app", frozenset({A}), "one")
    assert join([made("one", 1)], [has("web", "app")], [entry])["one"] == Pod("default", "web", "uid-1", "app")


def test_an_init_container_that_had_the_same_shares_is_of_the_same_pod() -> None:
    records = [made("init", 1), made("app", 2)]
    joined = join(records, [has("web", "app")], [])
    assert joined == {"init": Pod("default", "web"), "app": Pod("default", "web", "", "app")}


def test_the_checkpoint_names_the_init_container() -> None:
    entries = [Entry("uid-1", "init", frozenset({A}), "init"), Entry("uid-1", "app", frozenset({A}), "app")]
    joined = join([made("init", 1), made("app", 2)], [has("web", "app")], entries)
    assert joined["init"].container == "init"


def test_an_init_container_with_fewer_shares_is_of_the_pod_that_has_them_all() -> None:
    joined = join([made("init", 1, A), made("app", 2, A, B)], [has("web", "app", A, B)], [])
    assert joined["init"] == Pod("default", "web")


def test_init_and_app_container_are_both_in_force_before_any_of_them_has_started() -> None:
    assert superseded([made("init", 1), made("app", 2)]) == set()


def test_they_stay_in_force_when_the_pod_has_started() -> None:
    assert superseded([made("init", 1, started=3), made("app", 2, started=3)]) == set()


def test_ids_allocated_again_after_a_start_are_a_new_allocation_and_the_old_one_is_over() -> None:
    pod = Pod("default", "db-0", "", "app")
    records = [made("old", 1, started=2, pod=pod), made("new", 5)]
    assert superseded(records) == {"old"}


def test_a_statefulsets_pod_made_again_with_the_same_name_and_shares_has_the_new_allocation() -> None:
    pod = Pod("default", "db-0", "uid-1", "app")
    records = [made("old", 1, started=2, pod=pod), made("new", 5)]
    assert join(records, [has("db-0", "app")], []) == {"new": Pod("default", "db-0", "", "app")}


def test_a_statefulsets_pod_made_again_with_other_shares_leaves_the_old_allocation_absent() -> None:
    pod = Pod("default", "db-0", "", "app")
    records = [made("old", 1, A, started=2, pod=pod), made("new", 5, B)]
    assert absent(records, [has("db-0", "app", B)]) == {"old"}


def test_an_allocation_of_one_pod_is_absent_when_another_one_has_its_shares() -> None:
    records = [made("old", 1, started=2, pod=Pod("default", "web"))]
    assert absent(records, [has("other", "app")]) == {"old"}


def test_what_is_known_of_a_pod_stays_while_it_has_the_shares() -> None:
    pod = Pod("default", "web", "uid-1", "init")
    assert join([made("one", 1, A, pod=pod)], [has("web", "app", A, B)], [])["one"] == pod


def test_of_two_pods_that_are_both_said_to_have_the_shares_none_is_believed() -> None:
    """A kubelet may still list a pod that has ended."""
    assert join([made("one", 1)], [has("ended", "app"), has("web", "app")], []) == {}


def test_containers_that_run_one_after_the_other_on_the_same_shares_count_once() -> None:
    records = [made("init", 1, A), made("app", 2, A, B), made("side", 3, Share("GPU-0", 5))]
    assert [one.id for one in newest_of_each_share(records)] == ["app", "side"]
