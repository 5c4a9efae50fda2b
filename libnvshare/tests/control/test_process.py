"""The control thread in somebody else's process: signals, fork, the end, and races."""

import re
import signal
from pathlib import Path

from libnvshare.tests.control.conftest import GPU, OTHER_GPU, Program, Relay, Start

SHUT_DOWN = 108  # ESHUTDOWN


def test_the_thread_takes_no_signal_of_the_program(program: Program, relay: Relay) -> None:
    relay.registered().report()
    tasks = Path(f"/proc/{program.process.pid}/task").iterdir()
    (status,) = [(task / "status").read_text() for task in tasks if (task / "comm").read_text().strip() == "nvshare"]
    blocked = int(re.findall(r"^SigBlk:\s*(\w+)", status, re.MULTILINE)[0], 16)
    # SIGKILL and SIGSTOP cannot be blocked; 32 and 33 are the C library's own.
    may_come = {signal.SIGKILL, signal.SIGSTOP, 32, 33}
    assert {number for number in range(1, 65) if not blocked >> (number - 1) & 1} == may_come


def test_a_forked_child_is_another_client(program: Program, relay: Relay) -> None:
    parent = relay.registered()
    parent_report = parent.report()
    program.do("fork")
    program.hear("child began")
    child = relay.registered()
    child_report = child.report()
    assert child.nonce != parent.nonce
    assert child_report.pid != parent_report.pid
    assert child_report.sequence == 1
    assert parent.report().pid == parent_report.pid


def test_a_forked_child_does_not_hide_its_parents_end(program: Program, relay: Relay) -> None:
    parent = relay.registered()
    parent.report()
    program.do("fork")
    program.hear("child began")
    child = relay.registered()
    child.report()
    program.process.kill()
    parent.wait_for_end()
    assert child.report().sequence > 1


def test_who_leaves_says_so_for_every_device(program: Program, relay: Relay) -> None:
    program.do(f"use {OTHER_GPU}")
    connection = relay.registered()
    connection.report(OTHER_GPU)
    program.do("leave")
    program.hear("left .*")
    connection.report_where(lambda report: report.leaving)
    assert connection.report(OTHER_GPU).leaving
    connection.wait_for_end()
    program.do("start")
    assert program.hear("start .*") == f"start {SHUT_DOWN}"


def test_leaving_without_a_relay_does_not_hold_the_program(start: Start, relay: Relay) -> None:
    relay.path.unlink()
    program = start()
    program.do(f"use {GPU}")
    program.do("leave")
    assert int(program.hear("left .*").split()[1]) < 1_000  # 50 ms, on a machine that may be busy


def test_threads_do_not_race(thread_program: Path, relay: Relay, tmp_path: Path) -> None:
    program = Program(thread_program, relay.path, tmp_path / "stderr")
    program.do(f"use {GPU}")
    connection = relay.registered()
    connection.report()
    for epoch in range(1, 20):
        connection.send_grant(connection.grant(1, epoch, 1))
        program.do("storm 0 1000")
        program.do("state")
        program.hear(f"grant 0 1 {epoch} 1")
    connection.stream.close()
    program.hear("connected 0")
    relay.registered().report_where(lambda report: report.epoch == 19)
    program.do("leave")
    program.hear("left .*")
    program.end()
    assert "ThreadSanitizer" not in program.log()
