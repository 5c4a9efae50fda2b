"""The status of a node, for people and as JSON."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from nvshare.cli.status import memory_words, render_status, status_document, wait_words
from nvshare.v1.client_pb2 import (
    CLIENT_STATE_RUNNING,
    CLIENT_STATE_STUCK,
    CLIENT_STATE_WAITING,
    MODE_AUTO,
    MODE_SERIAL,
    WAIT_MEMORY,
    WAIT_NONE,
    WAIT_SCHEDULER,
    WAIT_TURN,
    Wait,
)
from nvshare.v1.control_pb2 import (
    TIME_SHARING_AUTO,
    TIME_SHARING_SLOTS,
    ClientStatus,
    GpuStatus,
    MemoryHolder,
    StatusReply,
)
from nvshare.v1.node_pb2 import LINK_CONNECTED, LINK_DISCONNECTED, PRIORITY_LATENCY_CRITICAL, Allocation

GIB = 2**30


@pytest.fixture
def reply() -> StatusReply:
    """A GPU in serial mode: one client runs, one waits for its turn, one for memory, one lost its connection."""
    clients = [
        ClientStatus(
            allocation="run-1",
            client="11-aa",
            name="training",
            pid=11,
            state=CLIENT_STATE_RUNNING,
            link=LINK_CONNECTED,
            may_launch=True,
            footprint_bytes=7 * GIB,
            resident_bytes=7 * GIB,
            headroom_bytes=GIB,
            hand_overs=3,
            version="0.1.0",
            build="v0.1.0-1-gabc",
        ),
        ClientStatus(name="inference", pid=12, state=CLIENT_STATE_WAITING, wait=WAIT_TURN, wait_us=1_500_000),
        ClientStatus(
            name="sweep", pid=13, state=CLIENT_STATE_WAITING, wait=WAIT_MEMORY, wait_us=250_000, wanted_bytes=4 * GIB
        ),
        ClientStatus(name="quiet", pid=14, state=CLIENT_STATE_STUCK, link=LINK_DISCONNECTED),
    ]
    gpu = GpuStatus(
        uuid="GPU-1234",
        name="NVIDIA Emulated GPU",
        mode=MODE_SERIAL,
        quantum_us=500_000,
        capacity_bytes=16 * GIB,
        promised_bytes=8 * GIB,
        total_bytes=16 * GIB,
        used_bytes=7 * GIB,
        clients=clients,
        problems=["a process without a client uses 1.0 GiB"],
        holders=[MemoryHolder(pid=77, client="9-bb", bytes=GIB)],
    )
    return StatusReply(
        node="box",
        version="0.2.0",
        build="v0.2.0",
        relay_version="0.1.0",
        relay_build="v0.1.0",
        gpus=[gpu],
        allocations=[Allocation(id="run-1", name="training"), Allocation(id="run-2", name="later")],
    )


def shown(reply: StatusReply) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(render_status(reply))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_e9_each_waiting_client_shows_what_it_really_waits_for_and_how_long(reply: StatusReply) -> None:
    text = shown(reply)
    assert "turn, 1.5 s" in text
    assert "memory (4.0 GiB), 0.2 s" in text


def test_e16_where_a_quota_is_from_and_since_when_is_said(reply: StatusReply) -> None:
    assert "in force since" not in shown(reply)
    share = reply.allocations[0]
    share.quota_source, share.quota_since_unix_ns = "pod", 1_700_000_000 * 10**9
    assert "training: quota from its pod's annotations, in force since 2023-11-14 22:13:20 UTC" in shown(reply)


def test_what_nobody_was_given_of_the_gpu_s_time_has_no_column(reply: StatusReply) -> None:
    head = next(line for line in shown(reply).splitlines() if "waits for" in line)
    assert not {"cores", "weight", "priority"} & set(head.split())


def test_what_somebody_was_given_of_the_gpu_s_time_has_a_column(reply: StatusReply) -> None:
    share = reply.allocations[0]
    share.core_limit_percent, share.core_burst, share.weight = 30, True, 400
    share.priority = PRIORITY_LATENCY_CRITICAL
    lines = shown(reply).splitlines()
    head = next(line for line in lines if "waits for" in line)
    row = next(line for line in lines if "training" in line)
    assert head.split()[-3:] == ["cores", "weight", "priority"]
    assert row.split()[-5:] == ["30", "%,", "burst", "400", "latency-critical"]


def test_how_a_gpu_s_time_is_shared_is_said_where_it_is_not_the_usual_way(reply: StatusReply) -> None:
    reply.gpus[0].time_sharing = TIME_SHARING_AUTO
    assert "time sharing" not in shown(reply)
    reply.gpus[0].time_sharing = TIME_SHARING_SLOTS
    assert "time sharing: slots" in shown(reply)
    assert status_document(reply)["gpus"][0]["time_sharing"] == "slots"


def cell(**fields: Any) -> str:
    return memory_words(ClientStatus(**fields))


def test_the_table_says_where_a_client_s_memory_is_and_whether_it_moves() -> None:
    needed = {"footprint_bytes": 12 * GIB, "needed_bytes": 12 * GIB}
    assert cell() == ""
    assert cell(**needed, resident_bytes=12 * GIB, target_bytes=13 * GIB) == "on the card: 12.0 GiB"
    assert cell(**needed, resident_bytes=3 * GIB, target_bytes=3 * GIB) == "away: 3.0 of 12.0 GiB on the card"
    assert cell(**needed, resident_bytes=3 * GIB, target_bytes=12 * GIB) == "moving in: 3.0 of 12.0 GiB"
    assert cell(**needed, resident_bytes=9 * GIB, target_bytes=4 * GIB) == "moving out: 9.0 of 12.0 GiB, to 4.0 GiB"


def test_a_client_whose_library_moves_nothing_is_on_the_card() -> None:
    assert cell(footprint_bytes=2 * GIB, resident_bytes=2 * GIB) == "on the card: 2.0 GiB"


def test_what_is_pinned_what_failed_and_what_is_ready_have_lines_with_the_reason(reply: StatusReply) -> None:
    client = reply.gpus[0].clients[0]
    client.pinned_bytes, client.pinned_reason = GIB, "1 block exported by cuIpcGetMemHandle"
    client.pool_bytes, client.host_room_bytes = 6 * GIB, 20 * GIB
    client.swap_failures, client.swap_failure = 2, "no host memory"
    client.timeslice_failure = "switched off"
    text = shown(reply)
    for words in (
        "training: 1.0 GiB cannot leave the card: 1 block exported by cuIpcGetMemHandle",
        "training: 6.0 GiB of host memory ready to move to of 20.0 GiB that it could have",
        "training: memory could not be moved 2 times, the last time: no host memory",
        "training: keeps the driver's time slices: switched off",
    ):
        assert words in text


def test_who_runs_in_slots_or_with_slices_of_its_own_is_seen(reply: StatusReply) -> None:
    first, second, *_ = reply.gpus[0].clients
    first.slot_length_us, first.period_us, first.paid_permille = 95_000, 190_000, 520
    second.timeslice_us = 1
    assert "training: runs for 95 ms of each 190 ms" in shown(reply)
    assert "training: pays for 52 % of its time on the card" in shown(reply)
    assert "inference: has hardware time slices of 0.001 ms" in shown(reply)


def test_a6_the_quantum_in_force_says_whether_it_follows_the_swap_time(reply: StatusReply) -> None:
    gpu = reply.gpus[0]
    gpu.mode, gpu.quantum_us, gpu.quantum_auto, gpu.max_wait_us = MODE_AUTO, 12_340_000, True, 30_000_000
    assert "auto, quantum 12.3 s (auto, max wait 30 s)" in shown(reply)


def test_a6_a_quantum_that_is_shorter_than_it_was_set_says_why(reply: StatusReply) -> None:
    gpu = reply.gpus[0]
    gpu.quantum_us, gpu.fixed_quantum_us, gpu.max_wait_us = 9_750_000, 10_000_000, 30_000_000
    assert "quantum 9.75 s (of 10 s: max wait 30 s)" in shown(reply)


def test_hand_overs_moved_bytes_and_the_cap_are_shown(reply: StatusReply) -> None:
    gpu = reply.gpus[0]
    gpu.hand_overs, gpu.swapped_bytes, gpu.overcommit_bytes = 5, 40 * GIB, 32 * GIB
    text = shown(reply)
    assert "5 hand-overs, 40.0 GiB moved out and in" in text
    assert "7.0 GiB of at most 32.0 GiB promised in all" in text


def test_an_ordinary_table_fits_a_terminal_of_120_columns(reply: StatusReply) -> None:
    reply.gpus[0].clients[0].swapped_out_bytes = 40 * GIB
    del reply.gpus[0].problems[:]
    assert max(map(len, shown(reply).splitlines())) <= 120


def test_the_table_shows_memory_hand_overs_and_mode(reply: StatusReply) -> None:
    text = shown(reply)
    for words in ("training", "running", "7.0 GiB", "serial, quantum 0.5 s", "8.0 GiB of 16.0 GiB promised"):
        assert words in text


def test_e15_e16_the_builds_of_library_and_services_are_shown(reply: StatusReply) -> None:
    text = shown(reply)
    for words in ("0.1.0 (v0.1.0-1-gabc)", "scheduler 0.2.0 (v0.2.0)", "relay 0.1.0 (v0.1.0)"):
        assert words in text


def test_the_sums_of_the_node_arena_are_shown_where_there_is_one(reply: StatusReply) -> None:
    assert "arena" not in shown(reply)
    reply.arena_bytes, reply.arena_reserved_bytes, reply.arena_made_bytes = 64 * GIB, 12 * GIB, 3 * GIB
    assert "node arena: 12.0 GiB of 64.0 GiB reserved, 3.0 GiB made" in shown(reply)


def test_a_client_without_a_connection_is_told_apart(reply: StatusReply) -> None:
    assert "disconnected" in shown(reply)


def test_problems_holders_and_allocations_without_clients_are_named(reply: StatusReply) -> None:
    text = shown(reply)
    assert "a process without a client uses 1.0 GiB" in text
    assert "1.0 GiB by pid 77 of 9-bb" in text
    assert "allocations without a client: later (run-2)" in text


def test_a_name_cannot_change_the_tables_form(reply: StatusReply) -> None:
    reply.gpus[0].clients[0].name = "[red]x[/"
    assert "[red]x[/" in shown(reply)


def test_a_value_of_a_newer_version_is_shown_as_a_number(reply: StatusReply) -> None:
    reply.gpus[0].clients[0].state = 99  # type: ignore[assignment]  # what a newer peer may send
    reply.gpus[0].mode = 98  # type: ignore[assignment]
    assert "state 99" in shown(reply)
    assert status_document(reply)["gpus"][0]["mode"] == "98"


def test_json_has_every_field_under_its_name_in_the_contract(reply: StatusReply) -> None:
    document = json.loads(json.dumps(status_document(reply)))
    assert document["gpus"][0]["mode"] == "serial"
    client = document["gpus"][0]["clients"][1]
    assert client["wait"] == "turn"
    assert client["wait_us"] == 1_500_000
    assert client["footprint_bytes"] == 0
    assert set(client) == {field.name for field in ClientStatus.DESCRIPTOR.fields}


@pytest.mark.parametrize(("wait", "words"), [(WAIT_NONE, ""), (WAIT_SCHEDULER, "scheduler, 2.0 s")])
def test_waits_in_words(wait: Wait, words: str) -> None:
    assert wait_words(wait, 2_000_000, 0) == words
