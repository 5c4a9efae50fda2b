"""Caps: a client with slots has their length of busy time in each period, exact over time whatever it launches."""

import pytest
from libnvshare.tests.data.conftest import Client, Run, ScriptedRelay

pytestmark = pytest.mark.alone

MS = 1_000_000
PERIOD_US = 100_000


def capped(client: Client, length_us: int) -> int:
    """From now on the client has a slot of this length; gives where in a second the slots start, in µs."""
    start_us = 37_000
    epoch = client.grant(slot_start_us=start_us, slot_length_us=length_us, period_us=PERIOD_US, window_us=4000)
    client.report_where(lambda report: report.epoch == epoch)
    return start_us


def share(turns: list[list[int]], begin_ns: int, end_ns: int) -> float:
    busy_ns = sum(min(end, end_ns) - max(start, begin_ns) for start, end in turns if start < end_ns and end > begin_ns)
    return busy_ns / (end_ns - begin_ns)


def test_b6_who_keeps_the_card_busy_runs_in_its_slots(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        gpu.spin(MS)
        hear()
        begin_ns = now_ns()
        gpu.spin_for(MS // 2, 1)
        gpu.synchronize()
        say(turns=turns(begin_ns))
        """
    )
    client = relay.client_with_plan()
    start_us = capped(client, 30_000)
    program.tell()
    turns = program.said()["turns"]
    late_us = 1000 + 500  # a mark, a kernel
    whole = [
        turn
        for turn in turns
        if (turn[0] // 1000 - start_us) % PERIOD_US < late_us
        and 30_000 - late_us < (turn[1] // 1000 - start_us) % PERIOD_US < 30_000 + late_us
    ]
    assert len(whole) >= 3  # the others: a machine that was busy elsewhere
    assert share(turns, turns[1][0], turns[-1][0]) == pytest.approx(0.3, abs=0.03)
    # The time between the slots is nobody's work.
    assert client.reports[-1].busy_us < 500_000
    program.end()


@pytest.mark.parametrize("kernel", ["MS // 10", "5 * MS", "100 * MS"])
def test_b6_the_share_is_the_cap_s_part_of_the_share_alone(kernel: str, relay: ScriptedRelay, run: Run) -> None:
    program = run(
        f"""
        gpu = Gpu()
        gpu.spin(MS)
        for seconds in (0.5, 2.5):
            hear()
            begin_ns = now_ns()
            gpu.spin_for({kernel}, seconds)
            gpu.synchronize()
            say(turns=turns(begin_ns))
        """
    )
    client = relay.client_with_plan()
    program.tell()
    alone = program.said()["turns"]
    capped(client, 30_000)
    program.tell()
    turns = program.said()["turns"]
    solo = share(alone, alone[0][0], alone[-1][1])
    # From one start of work to another: a debt is paid by then.
    # On a machine that is busy elsewhere the kernels are less of the time, alone and with a cap; one that stands still
    # in a slot loses what is left of it.
    assert 0.2 * solo < share(turns, turns[1][0], turns[-1][0]) < 0.33
    program.end()


def test_b6_graphs_are_paid_for_as_kernels_are(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        gpu.spin(MS, stream)
        ok(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
        for _ in range(20):
            gpu.spin(MS, stream)
        graph = ok(driver.cuGraphInstantiate(ok(driver.cuStreamEndCapture(stream)), 0))
        hear()
        begin_ns = now_ns()
        while now_ns() < begin_ns + 2_000 * MS:
            ok(driver.cuGraphLaunch(graph, stream))
        ok(driver.cuStreamSynchronize(stream))
        say(turns=turns(begin_ns))
        """
    )
    client = relay.client_with_plan()
    capped(client, 30_000)
    program.tell()
    turns = program.said()["turns"]
    assert share(turns, turns[1][0], turns[-1][0]) == pytest.approx(0.3, abs=0.03)
    program.end()


def test_b6_two_streams_at_once_are_paid_for_once(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        streams = [ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)) for _ in range(2)]
        gpu.spin(MS)
        hear()
        begin_ns = now_ns()
        while now_ns() < begin_ns + 2_000 * MS:
            for stream in streams:
                gpu.spin(5 * MS, stream)
        gpu.synchronize()
        say(turns=turns(begin_ns))
        """
    )
    client = relay.client_with_plan()
    capped(client, 30_000)
    program.tell()
    turns = program.said()["turns"]
    begin_ns, end_ns = turns[1][0], turns[-1][0]
    assert share(turns, begin_ns, end_ns) == pytest.approx(0.3, abs=0.04)
    program.end()


def test_b5_who_stays_below_its_cap_is_not_delayed(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        gpu.spin(MS)
        hear()
        took_ns = []
        for turn in range(40):
            time.sleep(0.037)
            begin_ns = now_ns()
            gpu.spin(5 * MS)
            gpu.synchronize()
            took_ns.append(now_ns() - begin_ns)
        say(took_ns=sorted(took_ns))
        """
    )
    client = relay.client_with_plan()
    capped(client, 30_000)
    program.tell()
    took_ns = program.said()["took_ns"]
    assert took_ns[-4] < 12 * MS  # but for the busy machine's own pauses
    program.end()


def test_without_slots_any_more_what_was_owed_is_forgiven(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        gpu.spin(MS)
        hear()
        gpu.spin(900 * MS)
        gpu.synchronize()
        say(owes=True)
        hear()
        gpu.spin(MS)
        gpu.synchronize()
        say(ran=True)
        """
    )
    client = relay.client_with_plan()
    capped(client, 10_000)
    program.tell()
    assert program.said()["owes"]
    client.grant()
    program.tell()
    assert program.said()["ran"]  # it would have waited for nine seconds
    program.end()
