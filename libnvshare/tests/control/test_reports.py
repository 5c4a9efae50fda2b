"""How a client registers with the relay, and what it reports when."""

import re
import time

from libnvshare.tests.control.conftest import GPU, OTHER_GPU, PID, Program, Relay

from nvshare.v1.client_pb2 import Report

SECOND_NS = 1_000_000_000


def test_a_client_registers_with_its_nonce(program: Program, relay: Relay) -> None:
    connect = relay.accept().register()
    assert re.fullmatch("[0-9a-f]{16}", str(connect.pop("name")))
    assert connect == {
        "verbose": False,
        "pedantic": False,
        "headers": True,
        "no_responders": False,
        "protocol": 1,
        "lang": "c",
        "version": "0.1.0",
    }
    program.hear("connected 1")


def test_it_subscribes_to_its_grants_before_its_first_report(program: Program, relay: Relay) -> None:
    connection = relay.registered()
    assert connection.line() == f"SUB {connection.subject('grant')} 1"
    assert connection.line().startswith(f"PUB {connection.subject('report')} ")


def test_a_report_says_who_it_is_from(program: Program, relay: Relay) -> None:
    before_ns = time.monotonic_ns()
    connection = relay.registered()
    report = connection.report()
    assert before_ns < report.monotonic_ns < time.monotonic_ns()
    report.monotonic_ns = 0
    assert report == Report(
        gpu=GPU,
        client=f"{PID}-{connection.nonce}",
        sequence=1,
        state=1,  # type: ignore[arg-type]  # WAITING
        pid=program.process.pid,
        name="control_program",
        version="0.1.0",
        build="test-build",
        protocol=1,
    )


def test_without_a_change_a_report_comes_each_second(program: Program, relay: Relay) -> None:
    connection = relay.registered()
    first, second = connection.report(), connection.report()
    assert second.sequence == first.sequence + 1
    assert second.monotonic_ns - first.monotonic_ns >= SECOND_NS


def test_a_change_is_reported_at_once(program: Program, relay: Relay) -> None:
    connection = relay.registered()
    first = connection.report()
    program.do("bytes 0 123456789")
    second = connection.report()
    assert second.footprint_bytes == 123456789
    assert second.monotonic_ns - first.monotonic_ns < SECOND_NS


def test_each_device_has_its_own_subjects_and_sequence(program: Program, relay: Relay) -> None:
    connection = relay.registered()
    connection.report()
    program.do(f"use {OTHER_GPU}")
    assert connection.line() == f"SUB {connection.subject('grant', OTHER_GPU)} 2"
    assert connection.report(OTHER_GPU).sequence == 1
    connection.send_grant(connection.grant(1, 1, 1, OTHER_GPU), connection.subject("grant", OTHER_GPU))
    program.hear("grant 1 1 1 1")


def test_a_storm_of_pokes_stays_below_what_the_relay_allows(program: Program, relay: Relay) -> None:
    connection = relay.registered()
    first = connection.report()
    program.do("storm 0 1000000")
    program.do("bytes 0 77")
    last = connection.report_where(lambda report: report.footprint_bytes == 77)
    seconds = (last.monotonic_ns - first.monotonic_ns) / SECOND_NS
    assert last.sequence <= 65 + 250 * seconds


def test_the_data_plane_is_called_when_it_asked_for_it(program: Program, relay: Relay) -> None:
    relay.registered().report()
    before = time.monotonic()
    program.do("tick 20")
    first = int(program.hear(r"ticked \d+").split()[1])
    while int(program.hear(r"ticked \d+").split()[1]) < first + 10:
        pass
    assert time.monotonic() - before < 2.0  # far below ten heartbeats
