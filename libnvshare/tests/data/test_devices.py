"""Several devices in one process: each has its own lock (E11, A3)."""

import pytest
from libnvshare.tests.data.conftest import Client, Program, Run, ScriptedRelay
from libnvshare.tests.data.moving import bring_back, move

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


def done_only_with(client: Client, program: Program, second: str) -> None:
    """What the program does next waits until the client is granted its second device."""
    program.tell()
    assert program.silent(0.1)
    client.grant(second)
    assert program.said() == {"done": True}


# A block of the first device, with known bytes, and one of the second, whose memory is then away.
BETWEEN = """
    one, two = Gpu(0), Gpu(1)
    two.use()
    target = two.allocate(4 * MIB)
    one.use()
    source = one.allocate(4 * MIB)
    ok(driver.cuMemsetD8(source, 7, 4 * MIB))
    one.synchronize()
    say(ready=True)
    {calls}
    say(done=True)
    hear()
    say(ended=error_of(driver.cuCtxSynchronize()))
    two.use()
    say(copied=two.read(target + 4 * MIB - 2, 2) == bytes([7, 7]))
"""


def two_devices(relay: ScriptedRelay, run: Run, calls: str) -> tuple[Program, Client, str]:
    """A program with memory on two devices; the UUID of the second one."""
    program = run(BETWEEN.format(calls=calls), NVSHARE_EMULATOR_DEVICES="2")
    client = relay.client()
    first = client.gpu()
    client.grant(first)
    second = client.report_where(lambda report: report.gpu != first).gpu
    client.grant(second)
    assert program.said() == {"ready": True}
    return program, client, second


def test_e11_memory_stays_while_a_copy_that_another_device_does_is_in_flight(relay: ScriptedRelay, run: Run) -> None:
    program, client, second = two_devices(
        relay,
        run,
        "one.spin(300 * MS); ok(driver.cuMemcpyPeerAsync(target, two.context, source, one.context, 4 * MIB, 0))",
    )
    assert program.said() == {"done": True}
    since = len(client.reports)
    client.grant(second, may_launch=False, resident_bytes=0)
    client.report_where(lambda report: report.gpu == second and report.resident_bytes == 0, since)
    program.tell()
    assert program.said() == {"ended": "CUDA_SUCCESS"}
    client.grant(second)
    assert program.said() == {"copied": True}
    program.end()


def test_e11_a_copy_between_devices_waits_for_the_memory_of_both(relay: ScriptedRelay, run: Run) -> None:
    program, client, second = two_devices(
        relay, run, "hear(); ok(driver.cuMemcpyDtoDAsync(target, source, 4 * MIB, 0))"
    )
    client.grant(second, may_launch=False, resident_bytes=0)
    client.report_where(lambda report: report.gpu == second and report.swapped_out_bytes > 0)
    done_only_with(client, program, second)
    program.tell()
    assert program.said() == {"ended": "CUDA_SUCCESS"}
    assert program.said() == {"copied": True}
    program.end()


def test_e11_a_device_gets_access_to_another_ones_memory_when_that_is_there(relay: ScriptedRelay, run: Run) -> None:
    program, client, second = two_devices(relay, run, "hear(); ok(driver.cuCtxEnablePeerAccess(two.context, 0))")
    client.grant(second, may_launch=False, resident_bytes=0)
    client.report_where(lambda report: report.gpu == second and report.swapped_out_bytes > 0)
    done_only_with(client, program, second)
    program.tell()
    assert program.said() == {"ended": "CUDA_SUCCESS"}
    program.said()
    program.end()


def test_e11_memory_stays_while_a_copy_on_a_stream_of_its_device_is_in_flight_whichever_is_current(
    relay: ScriptedRelay, run: Run
) -> None:
    program, client, second = two_devices(
        relay,
        run,
        """two.use()
    stream = ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
    one.use()
    one.spin(300 * MS)
    event = ok(driver.cuEventCreate(0))
    ok(driver.cuEventRecord(event, 0))
    ok(driver.cuStreamWaitEvent(stream, event, 0))
    ok(driver.cuMemcpyPeerAsync(target, two.context, source, one.context, 4 * MIB, stream))
    two.use()""",
    )
    assert program.said() == {"done": True}
    since = len(client.reports)
    client.grant(second, may_launch=False, resident_bytes=0)
    client.report_where(lambda report: report.gpu == second and report.resident_bytes == 0, since)
    program.tell()
    assert program.said() == {"ended": "CUDA_SUCCESS"}
    client.grant(second)
    assert program.said() == {"copied": True}
    program.end()


# Copies that the emulated driver does not have: what counts is that it is not asked while the memory is away.
UNKNOWN_COPIES = {
    "to an array": "cuMemcpyDtoA_v2(None, ctypes.c_size_t(0), ctypes.c_uint64(int(target)), ctypes.c_size_t(64))",
    "in a batch": "cuMemcpy3DBatchAsync_v2(ctypes.c_size_t(1), operation, ctypes.c_uint64(0), None)",
}


@pytest.mark.parametrize("copy", UNKNOWN_COPIES)
def test_e11_a_copy_waits_for_the_memory_that_it_names_whichever_device_is_current(
    copy: str, relay: ScriptedRelay, run: Run
) -> None:
    program, client, second = two_devices(
        relay,
        run,
        f"""
    import ctypes, struct
    operands = b"".join(struct.pack("<ii4Q", 1, 0, int(address), 64, 1, 0) for address in (source, target))
    operation = operands + struct.pack("<3Qii", 64, 1, 1, 0, 0)
    hear()
    one.use()
    assert ctypes.CDLL(None).{UNKNOWN_COPIES[copy]} != 0
    """,
    )
    client.grant(second, may_launch=False, resident_bytes=0)
    client.report_where(lambda report: report.gpu == second and report.swapped_out_bytes > 0)
    done_only_with(client, program, second)
    program.tell()
    program.said()


def test_a3_a_graph_that_was_captured_on_two_devices_needs_both_locks(relay: ScriptedRelay, run: Run) -> None:
    program, client, second = two_devices(
        relay,
        run,
        """
    streams, events = [], []
    for gpu in (one, two):
        gpu.use()
        streams.append(ok(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)))
        events.append(ok(driver.cuEventCreate(0)))
    one.use()
    ok(driver.cuStreamBeginCapture(streams[0], driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
    one.spin(MS, streams[0])
    ok(driver.cuEventRecord(events[0], streams[0]))
    two.use()
    ok(driver.cuStreamWaitEvent(streams[1], events[0], 0))
    two.spin(MS, streams[1])
    ok(driver.cuEventRecord(events[1], streams[1]))
    one.use()
    ok(driver.cuStreamWaitEvent(streams[0], events[1], 0))
    graph = ok(driver.cuGraphInstantiate(ok(driver.cuStreamEndCapture(streams[0])), 0))
    say(captured=True)
    hear()
    ok(driver.cuGraphLaunch(graph, streams[0]))""",
    )
    assert program.said() == {"captured": True}
    client.revoke(second)
    done_only_with(client, program, second)
    program.tell()
    program.said()


# A green context of a device, its stream, and the context to make current.
GREEN = """
    def green_context(device):
        resource = ok(driver.cuDeviceGetDevResource(device, driver.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM))
        description = ok(driver.cuDevResourceGenerateDesc([resource], 1))
        flags = driver.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM
        green = ok(driver.cuGreenCtxCreate(description, device, flags))
        stream = ok(driver.cuGreenCtxStreamCreate(green, driver.CUstream_flags.CU_STREAM_NON_BLOCKING, 0))
        return green, stream, ok(driver.cuCtxFromGreenCtx(green))
"""


def test_a_launch_on_a_stream_of_a_green_context_waits_for_the_lock_of_its_device(
    relay: ScriptedRelay, run: Run
) -> None:
    program, client, second = two_devices(
        relay,
        run,
        GREEN
        + """
    _, stream, _ = green_context(two.device)
    hear()
    one.use()
    ok(driver.cuMemsetD8Async(target, 7, 4 * MIB, stream))
    ok(driver.cuStreamSynchronize(stream))
    """,
    )
    client.revoke(second)
    done_only_with(client, program, second)
    program.tell()
    program.said()


def test_memory_of_a_green_context_outlives_it_and_moves(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        GREEN
        + """
    gpu = Gpu()
    green, stream, context = green_context(gpu.device)
    ok(driver.cuCtxSetCurrent(context))
    held = gpu.allocate(20 * MIB)
    ok(driver.cuMemsetD8Async(held, 6, 20 * MIB, stream))
    ok(driver.cuStreamSynchronize(stream))
    gpu.use()
    ok(driver.cuStreamDestroy(stream))
    ok(driver.cuGreenCtxDestroy(green))
    say(destroyed=True)
    hear()
    say(last=gpu.read(held + 20 * MIB - 1, 1)[0])
    """
    )
    client = relay.client_with_plan()
    program.said()
    move(client, 0)
    bring_back(client)
    program.tell()
    assert program.said() == {"last": 6}
    program.end()
