"""Memory that moves: what leaves the card and what comes back, when, and that the program never notices."""

from itertools import pairwise

import pytest
from libnvshare.tests.data.conftest import DRAINING, MIB, RUNNING, WAITING, Run, ScriptedRelay
from libnvshare.tests.data.moving import CHECKS, FILLED, bring_back, end_right, move

from nvshare.emulator import account


@pytest.mark.parametrize("sizes", ["[256, 64, 20, 2, 0.5]", "[2, 20] * 8", "[0.0625] * 300 + [2] * 40"])
def test_data_survives_the_way_out_and_in_at_the_same_addresses(sizes: str, relay: ScriptedRelay, run: Run) -> None:
    program = run(FILLED.format(sizes=sizes) + CHECKS)
    client = relay.client_with_plan()
    program.said()
    away = move(client, 0)
    assert away.resident_bytes == 0
    assert away.swaps
    assert away.swapped_out_bytes == away.needed_bytes >= away.footprint_bytes
    assert away.swap_out_us > 0
    program.tell("check")
    assert program.silent(0.1)
    back = bring_back(client)
    assert back.swapped_in_bytes == back.needed_bytes
    assert back.swap_in_us > 0
    assert program.said() == {"right": True}
    move(client, 0)
    bring_back(client)
    end_right(program)


def test_a5_only_as_much_leaves_as_the_target_asks_for(relay: ScriptedRelay, run: Run) -> None:
    program = run(FILLED.format(sizes="[64] * 8") + CHECKS)
    client = relay.client_with_plan()
    program.said()
    target_bytes = 300 * MIB
    away = move(client, target_bytes)
    assert target_bytes - 64 * MIB < away.resident_bytes <= target_bytes
    assert away.swapped_out_bytes == away.needed_bytes - away.resident_bytes
    more = move(client, 100 * MIB)
    assert more.swapped_out_bytes == more.needed_bytes - more.resident_bytes
    back = bring_back(client)
    assert back.swapped_in_bytes == back.swapped_out_bytes == more.swapped_out_bytes
    end_right(program)


def test_b2_that_host_memory_is_ready_is_reported_at_once(relay: ScriptedRelay, run: Run) -> None:
    program = run(FILLED.format(sizes="[64]") + CHECKS)
    client = relay.client_with_plan()
    program.said()
    client.grant(pool_bytes=64 * MIB)
    client.report_where(lambda report: report.pool_bytes >= 64 * MIB)
    before, ready = next(pair for pair in pairwise(client.reports) if pair[1].pool_bytes >= 64 * MIB)
    assert ready.monotonic_ns - before.monotonic_ns < 900_000_000, "that was the heartbeat"
    end_right(program)


def test_memory_comes_back_in_the_steps_that_the_target_allows(relay: ScriptedRelay, run: Run) -> None:
    program = run(FILLED.format(sizes="[64] * 4") + CHECKS)
    client = relay.client_with_plan()
    program.said()
    move(client, 0)
    program.tell("check")
    for target_bytes in (64 * MIB, 128 * MIB, 200 * MIB):
        since = len(client.reports)
        client.grant(resident_bytes=target_bytes)
        step = client.report_where(lambda report: report.resident_bytes > target_bytes - 64 * MIB, since)  # noqa: B023
        assert step.resident_bytes <= target_bytes
        assert step.state == WAITING
    assert program.silent(0.05)
    bring_back(client)
    assert program.said() == {"right": True}
    program.tell("end")
    program.end()


@pytest.mark.parametrize(
    "call",
    ["gpu.spin(MS)", "gpu.read(blocks[0][0], 64)", "ok(driver.cuMemcpyHtoD(blocks[0][0], bytes(64), 64))"],
)
def test_launches_and_copies_wait_while_a_part_is_away(call: str, relay: ScriptedRelay, run: Run) -> None:
    program = run(FILLED.format(sizes="[64, 64]") + f"    hear()\n    {call}\n    say(passed=True)\n")
    client = relay.client_with_plan()
    program.said()
    move(client, 64 * MIB)
    client.grant(resident_bytes=64 * MIB)  # may launch, but a part of its memory is away
    program.tell()
    assert program.silent(0.1)
    client.grant()
    assert program.said() == {"passed": True}
    program.end()


def test_the_card_has_the_memory_that_left(relay: ScriptedRelay, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVSHARE_EMULATOR_DIR", str(relay.path.parent / "cards"))
    mapped = "    gpu, mapped = Gpu(), SleepingMemory([300, 20])\n    mapped.wake()\n"
    program = run(mapped + FILLED.format(sizes="[256, 256]") + CHECKS)
    client = relay.client_with_plan()
    program.said()
    before_bytes = account.totals().used_bytes
    away = move(client, 0)
    assert before_bytes - account.totals().used_bytes == away.swapped_out_bytes
    bring_back(client)
    assert account.totals().used_bytes == before_bytes
    program.tell("end")
    program.end()


def test_a_client_may_keep_its_memory_while_it_waits_for_its_turn(relay: ScriptedRelay, run: Run) -> None:
    program = run(FILLED.format(sizes="[64]") + CHECKS)
    client = relay.client_with_plan()
    program.said()
    waiting = client.revoke()
    assert waiting.resident_bytes == waiting.needed_bytes
    assert waiting.swapped_out_bytes == 0
    bring_back(client)
    end_right(program)


SLOW_LINK = {"NVSHARE_EMULATOR_LINK_BYTES_PER_SECOND": str(256 * MIB)}


def test_a_target_that_rises_on_the_way_out_turns_it_round(relay: ScriptedRelay, run: Run) -> None:
    program = run(FILLED.format(sizes="[64] * 8") + CHECKS, **SLOW_LINK)
    client = relay.client_with_plan()
    program.said()
    client.grant(may_launch=False, resident_bytes=0)
    client.report_where(lambda report: 0 < report.swapped_out_bytes < report.needed_bytes)
    back = bring_back(client)
    assert back.swapped_in_bytes == back.swapped_out_bytes < back.needed_bytes
    end_right(program)


def test_a_target_that_falls_on_the_way_in_turns_it_round(relay: ScriptedRelay, run: Run) -> None:
    program = run(FILLED.format(sizes="[64] * 6") + CHECKS, **SLOW_LINK)
    client = relay.client_with_plan()
    program.said()
    move(client, 0)
    client.grant()
    client.report_where(lambda report: 0 < report.swapped_in_bytes < report.needed_bytes)
    move(client, 0)
    bring_back(client)
    end_right(program)


@pytest.mark.parametrize("then", ["", "ok(driver.cuStreamDestroy(stream))"], ids=["", "on a stream that is gone"])
def test_nothing_moves_before_what_was_launched_has_ended(then: str, relay: ScriptedRelay, run: Run) -> None:
    program = run(
        FILLED.format(sizes="[64]")
        + f"""
    import ctypes
    stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
    flag = int(ok(driver.cuMemHostAlloc(4, 0)))
    word = ctypes.c_uint32.from_address(flag)
    word.value = 0
    ok(driver.cuStreamWaitValue32(stream, flag, 1, driver.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_EQ))
    gpu.launch("fill", blocks[0][0], blocks[0][1] // 4, STRIDE, 7, 1000, stream=stream)
    {then}
    say(launched=True)
    hear()
    word.value = 1
    hear()
    say(right=sums() == expected(7))
    """
    )
    client = relay.client_with_plan()
    program.said()
    program.said()
    since = len(client.reports)
    epoch = client.grant(may_launch=False, resident_bytes=0)
    client.report_where(lambda report: report.epoch == epoch and report.state == DRAINING, since)
    assert program.silent(0.2)
    assert all(report.resident_bytes == report.needed_bytes for report in client.reports[since:])
    program.tell()
    away = client.report_where(lambda report: report.epoch == epoch and report.resident_bytes == 0, since)
    assert away.state == WAITING
    assert away.drain_us > 200_000
    bring_back(client)
    program.tell()
    assert program.said() == {"right": True}
    program.end()


def test_memory_may_be_freed_while_it_is_away(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        FILLED.format(sizes="[64] * 4")
        + """
    hear()
    for address, _ in blocks[1:]:
        ok(driver.cuMemFree(address))
    del blocks[1:]
    say(freed=True)
    hear()
    say(right=sums() == expected(5))
    """
    )
    client = relay.client_with_plan()
    program.said()
    before = move(client, 0)
    program.tell()
    program.said()
    freed = client.report_where(lambda report: report.footprint_bytes == 65 * MIB)
    assert freed.needed_bytes < before.needed_bytes
    back = bring_back(client)
    assert back.swapped_in_bytes == back.needed_bytes < before.needed_bytes
    program.tell()
    assert program.said() == {"right": True}
    program.end()


def test_an_allocation_waits_until_all_memory_is_back(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        FILLED.format(sizes="[64]")
        + """
    hear()
    blocks.append((gpu.allocate(64 * MIB), 64 * MIB))
    fill(5)
    say(right=sums() == expected(5))
    """
    )
    client = relay.client_with_plan()
    program.said()
    move(client, 0)
    program.tell()
    waiting = client.report_where(lambda report: report.allocation_waits and report.footprint_bytes > MIB)
    assert waiting.wanted_bytes == waiting.footprint_bytes + 64 * MIB
    assert waiting.wanted_needed_bytes >= waiting.needed_bytes + 60 * MIB
    assert program.silent(0.1)
    client.grant()
    assert program.said() == {"right": True}
    program.end()


def test_e1_after_memory_came_back_the_speed_is_full_and_the_window_is_not_shrunk(
    relay: ScriptedRelay, run: Run
) -> None:
    program = run(
        FILLED.format(sizes="[64]")
        + """
    while hear() == "spin":
        since_ns = now_ns()
        gpu.spin_for(MS, 0.5)
        gpu.synchronize()
        busy_ns = sum(end - max(start, since_ns) for start, end in turns(since_ns))
        say(share=busy_ns / (now_ns() - since_ns))
    """
    )
    client = relay.client_with_plan()
    program.said()
    program.tell("spin")
    before = program.said()["share"]
    window_us = client.reports[-1].window_us
    move(client, 0)
    bring_back(client)
    program.tell("spin")
    after = program.said()["share"]
    assert after > 0.9 * before
    assert client.reports[-1].window_us == window_us
    program.tell("end")
    program.end()


def test_a_grant_that_covers_the_footprint_of_one_that_runs_takes_nothing_away(relay: ScriptedRelay, run: Run) -> None:
    """A scheduler of before knows nothing of extents: what it counts is less than what they take."""
    program = run(FILLED.format(sizes="[10]") + CHECKS)
    client = relay.client_with_plan()
    program.said()
    epoch = client.grant(resident_bytes=11 * MIB)
    report = client.report_where(lambda report: report.epoch == epoch)
    assert report.resident_bytes > 11 * MIB
    assert report.state == RUNNING
    end_right(program)
