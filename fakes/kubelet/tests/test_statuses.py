"""The status of a pod, by what its containers did."""

import pytest

from nvshare.fake_kubelet.pods import Container, Kind, Pod
from nvshare.fake_kubelet.statuses import ContainerRecord, Ended, PodRecord, Started, Waiting, phase, status

WELL, BADLY, STARTED = Ended(0, "t0", "t1", "id"), Ended(143, "t0", "t1", "id"), Started("t0", "id")
POD = Pod("p", "u", (Container("first", kind=Kind.INIT), Container("main")))


def record(first: ContainerRecord, main: ContainerRecord, *, finished: bool = False) -> PodRecord:
    return PodRecord(POD, {"first": first, "main": main}, "t0", finished)


DONE = ContainerRecord(WELL)


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (record(ContainerRecord(STARTED), ContainerRecord()), "Pending"),
        (record(DONE, ContainerRecord()), "Pending"),
        (record(DONE, ContainerRecord(STARTED)), "Running"),
        (record(DONE, ContainerRecord(Waiting("CrashLoopBackOff"), BADLY)), "Running"),
        (record(DONE, ContainerRecord(WELL), finished=True), "Succeeded"),
        (record(DONE, ContainerRecord(BADLY), finished=True), "Failed"),
        (record(ContainerRecord(BADLY), ContainerRecord(), finished=True), "Failed"),
    ],
)
def test_the_phase(pod: PodRecord, expected: str) -> None:
    assert phase(pod) == expected


def test_a_pod_that_was_not_admitted_says_why() -> None:
    pod = PodRecord(POD, {"first": ContainerRecord(), "main": ContainerRecord()}, "t0", True, ("Reason", "why"))

    document = status(pod, "t9", "10.0.0.1")

    assert (document["phase"], document["reason"], document["message"]) == ("Failed", "Reason", "why")


def test_a_restart_is_counted_and_the_last_end_kept() -> None:
    main = ContainerRecord().now(STARTED).now(BADLY).now(Waiting("CrashLoopBackOff")).now(STARTED)

    (shown,) = status(record(DONE, main), "t9", "")["containerStatuses"]

    assert shown["restartCount"] == 1
    assert shown["state"] == {"running": {"startedAt": "t0"}}
    assert shown["lastState"]["terminated"]["exitCode"] == 143
    assert shown["lastState"]["terminated"]["signal"] == 15


def test_a_start_that_failed_is_no_restart() -> None:
    assert ContainerRecord().now(Waiting("RunContainerError")).now(STARTED).restarts == 0


def test_conditions_of_others_stay() -> None:
    scheduled = {"type": "PodScheduled", "status": "True"}
    pod = PodRecord(POD, {"first": DONE, "main": ContainerRecord(STARTED)}, "t0", foreign_conditions=(scheduled,))

    conditions = {one["type"]: one["status"] for one in status(pod, "t9", "")["conditions"]}

    assert conditions == {"PodScheduled": "True", "Initialized": "True", "ContainersReady": "True", "Ready": "True"}
