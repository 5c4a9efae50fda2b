"""Which grants a client applies, and what it does with messages that it cannot use."""

from libnvshare.tests.control.conftest import OTHER_GPU, Program, Relay


def test_a_grant_is_applied_and_the_next_report_names_it(program: Program, relay: Relay) -> None:
    connection = relay.registered()
    connection.report()
    connection.send_grant(connection.grant(3, 17, 1))
    program.hear("grant 0 3 17 1")
    report = connection.report_where(lambda report: report.epoch != 0)
    assert (report.generation, report.epoch) == (3, 17)


def test_a_grant_that_is_not_newer_is_dropped(program: Program, relay: Relay) -> None:
    connection = relay.registered()
    connection.report()
    for order in [(3, 17, 2), (3, 17, 2), (3, 17, 1), (3, 16, 9), (2, 99, 9), (3, 17, 3), (4, 1, 1)]:
        connection.send_grant(connection.grant(*order))
    assert program.hear("grant .*") == "grant 0 3 17 2"
    assert program.hear("grant .*") == "grant 0 3 17 3"
    assert program.hear("grant .*") == "grant 0 4 1 1"


def test_a_message_for_somebody_else_is_counted_and_not_applied(program: Program, relay: Relay) -> None:
    connection = relay.registered()
    connection.report()
    foreign_client = connection.grant(1, 1, 1)
    foreign_client.client = "1-0123456789abcdef"
    connection.send_grant(foreign_client)
    connection.send_grant(connection.grant(1, 1, 1, OTHER_GPU))
    connection.send_grant(connection.grant(1, 1, 1), connection.subject("grant", OTHER_GPU))
    connection.send_grant(connection.grant(1, 1, 1), connection.subject("report"))
    connection.send_grant(connection.grant(9, 9, 9))
    assert program.hear("grant .*") == "grant 0 9 9 9"
    assert connection.report_where(lambda report: report.epoch == 9).malformed_messages == 4


def test_what_is_no_grant_is_counted_and_said_once(program: Program, relay: Relay) -> None:
    connection = relay.registered()
    connection.report()
    for _ in range(3):
        connection.send(f"MSG {connection.subject('grant')} 1 2\r\n\xff\xff\r\n".encode("latin-1"))
    connection.send_grant(connection.grant(1, 1, 1))
    assert connection.report_where(lambda report: report.epoch == 1).malformed_messages == 3
    assert program.log().count("it is no grant") == 1


def test_fields_of_a_later_version_are_counted_and_the_rest_is_applied(program: Program, relay: Relay) -> None:
    connection = relay.registered()
    connection.report()
    payload = connection.grant(1, 1, 1).SerializeToString() + bytes.fromhex("a00601 a80602")
    connection.send(f"MSG {connection.subject('grant')} 1 {len(payload)}\r\n".encode() + payload + b"\r\n")
    program.hear("grant 0 1 1 1")
    report = connection.report_where(lambda report: report.epoch == 1)
    assert (report.unknown_messages, report.malformed_messages) == (2, 0)


def test_a_ping_is_answered(program: Program, relay: Relay) -> None:
    connection = relay.registered()
    connection.report()
    connection.send(b"PING\r\n")
    assert connection.line() == "PONG"


def test_a_later_info_of_the_server_changes_nothing(program: Program, relay: Relay) -> None:
    connection = relay.registered()
    connection.report()
    connection.send(b'INFO {"server_id":"X","max_payload":1024}\r\nPING\r\n')
    assert connection.line() == "PONG"
