"""What a client does when its relay goes away, talks nonsense, or is not there yet."""

import time

import pytest
from libnvshare.tests.control.conftest import DEADLINE_SECONDS, GPU, Program, Relay, Start


def test_after_an_outage_it_registers_again_and_keeps_its_grant(program: Program, relay: Relay) -> None:
    first = relay.registered()
    first.report()
    first.send_grant(first.grant(5, 6, 7))
    before = first.report_where(lambda report: report.epoch == 6)
    first.stream.close()
    program.hear("connected 0")

    second = relay.registered()
    assert second.nonce == first.nonce
    report = second.report()
    assert (report.generation, report.epoch) == (5, 6)
    assert report.sequence > before.sequence
    second.send_grant(second.grant(5, 6, 7))
    second.send_grant(second.grant(5, 7, 1))
    program.hear("connected 1")
    assert program.hear("grant .*") == "grant 0 5 7 1"
    assert program.log().count("lost the relay") == 1
    assert program.log().count("connected to the relay") == 2


@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 400 Bad Request\r\n", b"\0" * 8192, b"MSG a 1 999999\r\n", b"INFO {\r\n", b"PING\n"],
    ids=["foreign", "zeroes", "oversized", "json", "newline"],
)
def test_garbage_ends_the_connection_and_nothing_else(program: Program, relay: Relay, garbage: bytes) -> None:
    first = relay.registered()
    first.report()
    first.send(garbage)
    first.wait_for_end()
    assert relay.registered().report().malformed_messages == 1


def test_a_relay_that_does_not_say_who_the_client_is_is_no_relay(program: Program, relay: Relay) -> None:
    first = relay.accept()
    first.send(b'INFO {"server_id":"X"}\r\n')
    first.wait_for_end()
    relay.registered().report()
    assert "must be an allocation's socket" in program.log()


def test_a_relay_that_does_not_answer_is_tried_again(program: Program, relay: Relay) -> None:
    silent = relay.accept()
    silent.wait_for_end()
    relay.registered().report()


def test_a_relay_that_reads_nothing_is_left(program: Program, relay: Relay) -> None:
    first = relay.registered()
    first.report()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        first.send(b"PING\r\n" * 10_000_000)
    relay.registered().report()


def test_a_client_that_was_there_first_finds_the_relay_when_it_comes(start: Start, relay: Relay) -> None:
    assert relay.listener is not None
    relay.listener.close()
    relay.path.unlink()
    program = start()
    program.do(f"use {GPU}")
    program.do("state")
    assert program.hear("state .*") == "state 0 1"
    deadline = time.monotonic() + DEADLINE_SECONDS
    while "no relay at" not in program.log():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    relay.listen()
    relay.registered().report()
    program.hear("connected 1")
    program.do("state")
    assert program.hear("state .*") == "state 1 0"
    assert program.log().count("no relay at") == 1


def test_a_refusal_of_the_relay_is_said_once(program: Program, relay: Relay) -> None:
    connection = relay.registered()
    connection.report()
    connection.send(b"-ERR 'Permissions Violation'\r\n" * 3)
    connection.send(b"PING\r\n")
    assert connection.line() == "PONG"
    assert program.log().count("the relay refuses: 'Permissions Violation'") == 1
