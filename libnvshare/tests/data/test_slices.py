"""Hardware time slices: what a grant asks for is set on the process's own compute groups, verified, and put back."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from libnvshare.tests.data.conftest import Run, ScriptedRelay

OWN_US = 2048
COMPUTE, COPY = 1, 9  # engines

Follow = Callable[..., dict[str, Any]]

READS_ITS_SLICE = """
gpu = Gpu()
gpu.synchronize()
while hear():
    say(slice_us=timeslice_us())
"""


@pytest.fixture
def follow(programs: Path) -> Follow:
    """What became of the last `follow` of these lines, with a kernel driver that the test program plays
    (programs/channels.c)."""

    def run(*lines: str) -> dict[str, Any]:
        done = subprocess.run(
            [str(programs / "channels")], input="\n".join(lines), capture_output=True, text=True, timeout=20
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    return run


@pytest.mark.parametrize("size_bytes", [32, 48])
def test_the_slice_of_a_grant_is_set_on_compute_groups_alone(size_bytes: int, follow: Follow) -> None:
    answer = follow(
        "for 0", f"make 7 70 1 {COMPUTE} {size_bytes}", f"make 7 70 2 {COPY} {size_bytes}", "follow 0 20000"
    )
    assert answer["kernel"] == {"1": 20_000, "2": OWN_US}
    assert (answer["slice_us"], answer["failure"]) == (20_000, "")


def test_each_device_has_its_own_groups_and_later_ones_are_known_by_what_they_are_under(follow: Follow) -> None:
    made = ("for 0", f"make 7 70 1 {COMPUTE} 48", "for 1", f"make 7 71 2 {COMPUTE} 48", "for -1")
    answer = follow(*made, f"make 7 71 3 {COMPUTE} 48", f"make 7 70 4 {COMPUTE} 48", "follow 1 500")
    assert answer["kernel"] == {"1": OWN_US, "2": 500, "3": 500, "4": OWN_US}


def test_a_group_that_is_made_later_gets_the_slice_too(follow: Follow) -> None:
    answer = follow("for 0", f"make 7 70 1 {COMPUTE} 48", "follow 0 500", f"make 7 70 2 {COMPUTE} 48", "follow 0 500")
    assert answer["kernel"] == {"1": 500, "2": 500}


def test_where_nothing_changed_nothing_is_set_again(follow: Follow) -> None:
    answer = follow("for 0", f"make 7 70 1 {COMPUTE} 48", "follow 0 500", "follow 0 500", "follow 0 500")
    assert answer["sets"] == 1


def test_a_slice_that_was_lost_is_set_again(follow: Follow) -> None:
    made = ("for 0", f"make 7 70 1 {COMPUTE} 48", "follow 0 500", "forget")
    assert follow(*made, "time 49", "follow 0 500")["kernel"] == {"1": OWN_US}
    answer = follow(*made, "time 51", "follow 0 500")
    assert (answer["kernel"], answer["slice_us"]) == ({"1": 500}, 500)
    assert follow(*made, "time 51", "follow 0 500", "forget", "time 51", "follow 0 500")["kernel"] == {"1": 500}


def test_one_that_is_kept_is_read_less_and_less_often(follow: Follow) -> None:
    made = ("for 0", f"make 7 70 1 {COMPUTE} 48", "follow 0 500", "time 51", "follow 0 500", "forget")
    answer = follow(*made, "time 99", "follow 0 500")
    assert answer["kernel"] == {"1": OWN_US}, "it was read after 51 ms, and is read again after 151"
    assert answer["sets"] == 1


def test_without_a_slice_in_the_grant_the_driver_s_own_is_back(follow: Follow) -> None:
    answer = follow("for 0", f"make 7 70 1 {COMPUTE} 48", "follow 0 500", "follow 0 0")
    assert answer["kernel"] == {"1": OWN_US}
    assert answer["slice_us"] == 0


@pytest.mark.parametrize(("mood", "made"), [("deaf", 0), ("lies", 1)])
def test_a_kernel_driver_that_does_not_follow_is_left_alone(mood: str, made: int, follow: Follow) -> None:
    answer = follow(
        "for 0", f"make 7 70 1 {COMPUTE} 48", f"kernel {mood}", "follow 0 500", "kernel well", "follow 0 700"
    )
    assert answer["kernel"] == {"1": OWN_US}
    assert answer["slice_us"] == 0
    assert "kernel driver" in answer["failure"]
    assert answer["sets"] == made


def test_a_group_that_could_not_be_made_is_none(follow: Follow) -> None:
    answer = follow("for 0", "fail 7 70 1", "follow 0 500")
    assert (answer["slice_us"], answer["sets"]) == (0, 0)
    assert "no channel group" in answer["failure"]


@pytest.mark.parametrize("ended", [1, 70, 7])
def test_a_group_goes_with_itself_its_device_or_its_client(ended: int, follow: Follow) -> None:
    answer = follow("for 0", f"make 7 70 1 {COMPUTE} 48", "follow 0 500", f"end 7 {ended}", "follow 0 700")
    assert answer["kernel"] == {"1": 500}, "a handle that is another object's by now is not touched"
    assert answer["failure"] == "no channel group of the process was seen"


def test_a_descriptor_that_is_another_file_s_by_now_is_not_spoken_to(follow: Follow) -> None:
    answer = follow("for 0", f"make 7 70 1 {COMPUTE} 48", "close", "follow 0 500")
    assert (answer["kernel"], answer["sets"]) == ({"1": OWN_US}, 0)


def test_the_emulated_card_has_the_slice_of_the_grant_and_the_report_says_so(relay: ScriptedRelay, run: Run) -> None:
    program = run(READS_ITS_SLICE)
    client = relay.client_with_plan()
    client.report_where(lambda report: report.launches == 0 and report.epoch == 1)
    program.tell()
    own_us = program.said()["slice_us"]
    epoch = client.grant(timeslice_us=20_000)
    report = client.report_where(lambda report: report.epoch == epoch and report.timeslice_us > 0)
    assert (report.timeslice_us, report.timeslice_failure) == (20_000, "")
    program.tell()
    assert program.said()["slice_us"] == 20_000
    client.revoke(timeslice_us=20_000)
    program.tell()
    assert program.said()["slice_us"] == own_us, "one that was revoked drains at its own slice"


def test_slices_that_are_switched_off_are_left_alone_and_the_report_says_why(relay: ScriptedRelay, run: Run) -> None:
    program = run(READS_ITS_SLICE, NVSHARE_SLICES="0")
    client = relay.client_with_plan(timeslice_us=20_000)
    report = client.report_where(lambda report: report.timeslice_failure != "")
    assert report.timeslice_us == 0
    assert "NVSHARE_SLICES" in report.timeslice_failure
    program.tell()
    assert program.said()["slice_us"] != 20_000
