"""Whose a process on the card is, and what is said about one that uses it without nvshare."""

import pytest
from services.scheduler.tests.conftest import Desk, MakeDesk

from nvshare.bus.quantities import parse_bytes
from nvshare.scheduler.model import Allocation, MemorySampled, Owner, ProcessMemory
from nvshare.scheduler.owners import parse_owner, unmanaged_words

GIB = parse_bytes("1GiB")
UID = "8f0c1d2e-3a4b-4c5d-8e6f-0123456789ab"
SLICE_UID = UID.replace("-", "_")  # systemd takes a hyphen for a step in the path
CONTAINER = "3e5f" * 16


@pytest.mark.parametrize(
    "cgroup",
    [
        f"0::/kubepods.slice/kubepods-burstable-pod{SLICE_UID}.slice/cri-containerd-{CONTAINER}.scope\n",
        f"0::/../../kubepods-pod{SLICE_UID}.slice/crio-{CONTAINER}.scope\n",
        f"0::/kubepods/besteffort/pod{UID}/{CONTAINER}\n",
        f"12:memory:/kubepods/pod{UID}/{CONTAINER}\n1:name=systemd:/kubepods/pod{UID}/{CONTAINER}\n",
    ],
    ids=["systemd", "systemd, seen from another pod", "cgroupfs", "cgroup v1"],
)
def test_the_pod_and_the_container_are_read_from_the_cgroup(cgroup: str) -> None:
    assert parse_owner("python\n", cgroup) == Owner("python", UID, CONTAINER)


def test_a_container_without_kubernetes_has_no_pod() -> None:
    assert parse_owner("python\n", f"0::/system.slice/docker-{CONTAINER}.scope\n") == Owner("python", "", CONTAINER)


@pytest.mark.parametrize("cgroup", ["", "0::/\n", "0::/user.slice/user-1000.slice/session-3.scope\n", "\0pod-\n"])
def test_a_process_outside_of_containers_has_neither(cgroup: str) -> None:
    assert parse_owner("python\n", cgroup) == Owner("python")


def test_a_command_cannot_write_to_the_terminal() -> None:
    assert parse_owner("\x1b[31mred\n", "").command == "[31mred"


def test_a_pod_is_named_where_nvshare_knows_it() -> None:
    owner = Owner("python", UID, CONTAINER)
    allocations = [Allocation("a", pod="default/train", pod_uid=UID), Allocation("b")]
    assert unmanaged_words(77, 20 * GIB, owner, allocations) == (
        "process 77 (python) of pod default/train in container 3e5f3e5f3e5f has 20.0 GiB on the card without nvshare"
    )


def test_another_pod_is_named_by_its_uid() -> None:
    assert f"process 77 of pod {UID} has" in unmanaged_words(77, GIB, Owner("", UID), [Allocation("a")])


def sample(desk: Desk, *processes: ProcessMemory) -> None:
    used_bytes = sum(process.used_bytes for process in processes)
    total_bytes = desk.arbiter.state.card.total_bytes
    desk.take(desk.arbiter.handle(MemorySampled(desk.now_ns, total_bytes, used_bytes, processes), desk.now_ns))


def test_an_unmanaged_process_is_told_once_with_its_pod(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    for _ in range(3):
        sample(desk, ProcessMemory(77, GIB, owner=Owner("python", UID, CONTAINER)))
    [event] = [event for event in desk.events if event.kind == "unmanaged-process"]
    assert f"process 77 (python) of pod {UID}" in event.text
    assert event.size_bytes == GIB


def test_it_is_no_longer_a_problem_when_it_is_gone(make_desk: MakeDesk) -> None:
    desk = make_desk()
    desk.join("a")
    sample(desk, ProcessMemory(77, GIB))
    assert [stranger.pid for stranger in desk.arbiter.state.card.strangers] == [77]
    sample(desk)
    assert desk.arbiter.state.card.strangers == []
