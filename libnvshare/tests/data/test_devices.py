"""Several devices in one process: each has its own lock (E11, A3)."""

from libnvshare.tests.data.conftest import Run, ScriptedRelay

TWO_DEVICES = """
    one, two = Gpu(0), Gpu(1)
    def launch(gpu):
        gpu.use()
        gpu.spin(MS)
        gpu.synchronize()
    while word := hear():
        {calls}
        say(done=word)
"""


def test_e11_a_launch_waits_for_the_lock_of_its_own_device_only(relay: ScriptedRelay, run: Run) -> None:
    calls = "launch(one if word == 'one' else two)"
    program = run(TWO_DEVICES.format(calls=calls), NVSHARE_EMULATOR_DEVICES="2")
    client = relay.client_with_plan_after(program, "one")
    first = client.gpu()
    program.tell("two")
    second = client.report_where(lambda report: report.gpu != first).gpu
    assert program.silent(0.1)
    program_waits_since = len(client.reports)
    client.grant(second)
    assert program.said() == {"done": "two"}
    client.revoke(first)
    program.tell("two")
    assert program.said() == {"done": "two"}
    program.tell("one")
    assert program.silent(0.1)
    client.report_where(lambda report: report.gpu == first and report.demand, program_waits_since)
    client.grant(first)
    assert program.said() == {"done": "one"}


def test_a3_a_peer_copy_needs_both_locks(relay: ScriptedRelay, run: Run) -> None:
    calls = """
        if word == 'copy':
            one.use()
            ok(driver.cuMemcpyPeer(target, two.context, source, one.context, 64))
        elif word == 'allocate':
            one.use(); source = one.allocate(4096)
            two.use(); target = two.allocate(4096)
        else:
            launch(one if word == 'one' else two)
    """
    program = run(TWO_DEVICES.format(calls=calls.strip("\n ")), NVSHARE_EMULATOR_DEVICES="2")
    client = relay.client_with_plan_after(program, "one")
    first = client.gpu()
    program.tell("two")
    second = client.report_where(lambda report: report.gpu != first).gpu
    client.grant(second)
    program.said()
    program.tell("allocate")
    program.said()
    for closed in (first, second):
        client.revoke(closed)
        program.tell("copy")
        assert program.silent(0.1)
        client.grant(closed)
        assert program.said() == {"done": "copy"}
