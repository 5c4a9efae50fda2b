"""Memory: what is counted, what waits, what is refused, and what the program is told."""

import pytest
from libnvshare.tests.data.conftest import GIB, MIB, Run, ScriptedRelay

# Runs `allocate`, which sets `held`, then `free`, each at the test's word, under an open plan.
ALLOCATION = """
    gpu = Gpu()
    stream = ok(driver.cuStreamCreate(0))
    prop = driver.CUmemAllocationProp()
    prop.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    prop.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    prop.location.id = 0
    held = {allocate}
    say(held=True)
    hear()
    {free}
    ok(driver.cuStreamSynchronize(stream))
    say(held=False)
    hear()
"""


@pytest.mark.parametrize(
    ("allocate", "free", "size_bytes"),
    [
        ("ok(driver.cuMemAlloc(64 * MIB))", "ok(driver.cuMemFree(held))", 64 * MIB),
        ("ok(driver.cuMemAllocPitch(1000, 65536, 4))[0]", "ok(driver.cuMemFree(held))", 64 * MIB),
        ("ok(driver.cuMemAllocManaged(64 * MIB, 1))", "ok(driver.cuMemFree(held))", 64 * MIB),
        ("ok(driver.cuMemAllocAsync(64 * MIB, stream))", "ok(driver.cuMemFreeAsync(held, stream))", 64 * MIB),
        ("ok(driver.cuMemAllocAsync(64 * MIB, stream))", "ok(driver.cuMemFree(held))", 64 * MIB),
        ("ok(driver.cuMemAlloc(64 * MIB))", "ok(driver.cuMemFreeAsync(held, stream))", 64 * MIB),
        ("ok(driver.cuMemCreate(64 * MIB, prop, 0))", "ok(driver.cuMemRelease(held))", 64 * MIB),
    ],
)
def test_the_footprint_grows_and_falls_with_every_family(
    allocate: str, free: str, size_bytes: int, relay: ScriptedRelay, run: Run
) -> None:
    program = run(ALLOCATION.format(allocate=allocate, free=free))
    client = relay.client_with_plan()
    program.said()
    client.report_where(lambda report: report.footprint_bytes == size_bytes)
    since = len(client.reports)
    program.tell()
    program.said()
    client.report_where(lambda report: report.footprint_bytes == 0, since)
    program.tell()
    program.end()


def test_what_the_driver_refuses_is_not_counted(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        say(error=error_of(driver.cuMemFree(12345)))
        say(error=error_of(driver.cuMemAlloc(8 << 30)))
        gpu.allocate(MIB)
        say(held=True)
        hear()
        """,
        NVSHARE_EMULATOR_MEMORY="4GiB",
    )
    client = relay.client_with_plan()
    assert program.said()["error"] == "CUDA_ERROR_INVALID_VALUE"
    assert program.said()["error"] == "CUDA_ERROR_OUT_OF_MEMORY"
    program.said()
    client.report_where(lambda report: report.footprint_bytes == MIB)
    program.tell()
    program.end()


def test_an_allocation_beyond_the_ceiling_waits_until_it_is_raised(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        gpu.allocate(64 * MIB)
        say(first=True)
        gpu.allocate(128 * MIB)
        say(second=True)
        """
    )
    client = relay.client_with_plan(resident_bytes=64 * MIB, headroom_bytes=64 * MIB)
    program.said()
    waiting = client.report_where(lambda report: report.allocation_waits and report.footprint_bytes > 0)
    assert (waiting.footprint_bytes, waiting.wanted_bytes) == (64 * MIB, 192 * MIB)
    assert program.silent(0.1)
    client.grant(resident_bytes=128 * MIB, headroom_bytes=MIB)  # still too little
    assert program.silent(0.1)
    client.grant(resident_bytes=192 * MIB, headroom_bytes=0)
    assert program.said() == {"second": True}
    program.end()


def test_an_allocation_beyond_the_limit_is_out_of_memory_and_the_program_lives(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        held = gpu.allocate(900 * MIB)
        first = error_of(driver.cuMemAlloc(200 * MIB))
        ok(driver.cuMemFree(held))
        gpu.allocate(200 * MIB)
        gpu.spin(MS)
        gpu.synchronize()
        say(first=first)
        """
    )
    relay.client_with_plan(limit_bytes=GIB)
    assert program.said() == {"first": "CUDA_ERROR_OUT_OF_MEMORY"}
    program.end()


def test_more_than_the_card_has_is_refused_at_once(relay: ScriptedRelay, run: Run) -> None:
    program = run("gpu = Gpu()\nsay(error=error_of(driver.cuMemAlloc(32 << 30)))")
    relay.client_with_plan(resident_bytes=0, headroom_bytes=0)
    assert program.said() == {"error": "CUDA_ERROR_OUT_OF_MEMORY"}
    program.end()


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("context = ok(driver.cuCtxCreate(None, 0, 0))", "ok(driver.cuCtxDestroy(context))"),
        ("gpu = Gpu()", "ok(driver.cuDevicePrimaryCtxRelease(0))"),
        ("gpu = Gpu()", "ok(driver.cuDevicePrimaryCtxReset(0))"),
    ],
)
def test_the_end_of_a_context_gives_its_bytes_back(begin: str, end: str, relay: ScriptedRelay, run: Run) -> None:
    program = run(
        f"""
        ok(driver.cuInit(0))
        {begin}
        ok(driver.cuMemAlloc(64 * MIB))
        ok(driver.cuMemsetD32(ok(driver.cuMemAlloc(64 * MIB)), 1, 16))
        say(held=True)
        hear()
        {end}
        say(held=False)
        hear()
        """
    )
    client = relay.client_with_plan()
    program.said()
    client.report_where(lambda report: report.footprint_bytes == 128 * MIB)
    since = len(client.reports)
    program.tell()
    program.said()
    client.report_where(lambda report: report.footprint_bytes == 0 and not report.demand, since)
    assert client.revoke().drain_us < 100_000  # nothing waits for what is gone
    program.tell()
    program.end()


def test_e13_driver_and_nvml_answer_with_the_limit(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        import pynvml
        gpu = Gpu()
        gpu.allocate(256 * MIB)
        free_bytes, total_bytes = ok(driver.cuMemGetInfo())
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        one = pynvml.nvmlDeviceGetMemoryInfo(handle)
        two = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        say(info=[free_bytes, total_bytes], total=ok(driver.cuDeviceTotalMem(gpu.device)),
            nvml=[[memory.free, memory.total, memory.used] for memory in (one, two)])
        """
    )
    relay.client_with_plan(limit_bytes=2 * GIB)
    left = 2 * GIB - 256 * MIB
    words = program.said()
    assert words["info"] == [left, 2 * GIB]
    assert words["total"] == 2 * GIB
    assert words["nvml"] == [[left, 2 * GIB, 256 * MIB]] * 2
    program.end()


def test_without_a_limit_the_answers_are_the_drivers(relay: ScriptedRelay, run: Run) -> None:
    ask = "gpu = Gpu()\nsay(info=ok(driver.cuMemGetInfo()), total=ok(driver.cuDeviceTotalMem(gpu.device)))"
    program = run(ask)
    relay.client_with_plan()
    managed = program.said()
    program.end()
    assert run(ask, preload="").said() == managed


def test_a_question_about_memory_waits_for_the_first_plan(relay: ScriptedRelay, run: Run) -> None:
    program = run("gpu = Gpu()\nsay(total=ok(driver.cuDeviceTotalMem(gpu.device)))")
    client = relay.client()
    client.gpu()
    assert program.silent(0.1)
    client.grant(limit_bytes=GIB)
    assert program.said() == {"total": GIB}
    program.end()


def test_a11_needed_bytes_are_whole_extents_and_the_footprint_is_exact(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        held = [gpu.allocate(1000), gpu.allocate(1000), gpu.allocate(21 * MIB)]
        say(held=True)
        hear()
        for each in held:
            ok(driver.cuMemFree(each))
        say(held=False)
        hear()
        """
    )
    client = relay.client_with_plan()
    program.said()
    client.report_where(
        lambda report: (
            (report.footprint_bytes, report.needed_bytes, report.resident_bytes)
            == (21 * MIB + 2000, 24 * MIB, 24 * MIB)
        )
    )
    since = len(client.reports)
    program.tell()
    program.said()
    client.report_where(
        lambda report: (report.footprint_bytes, report.needed_bytes, report.resident_bytes) == (0, 0, 0), since
    )
    program.tell()
    program.end()


def test_an_allocation_into_free_room_of_its_extents_needs_nothing_new(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        first = gpu.allocate(MIB)
        second = gpu.allocate(MIB // 2)
        say(distance=abs(int(second) - int(first)))
        """
    )
    relay.client_with_plan(resident_bytes=2 * MIB)
    assert program.said() == {"distance": MIB}
    program.end()


def test_what_waits_says_what_it_would_need(relay: ScriptedRelay, run: Run) -> None:
    program = run("gpu = Gpu()\ngpu.allocate(3 * MIB)\nsay(done=True)")
    client = relay.client_with_plan(resident_bytes=0)
    waiting = client.report_where(lambda report: report.allocation_waits)
    assert (waiting.wanted_bytes, waiting.wanted_needed_bytes) == (3 * MIB, 4 * MIB)
    client.grant(resident_bytes=4 * MIB)
    program.said()
    program.end()


def test_memory_that_is_freed_twice_or_unknown_is_an_error(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        held, other = gpu.allocate(MIB), gpu.allocate(MIB)
        inside = error_of(driver.cuMemFree(driver.CUdeviceptr(int(held) + 512)))
        ok(driver.cuMemFree(held))
        say(inside=inside, twice=error_of(driver.cuMemFree(held)), null=error_of(driver.cuMemFree(0)))
        """
    )
    relay.client_with_plan()
    invalid = "CUDA_ERROR_INVALID_VALUE"
    assert program.said() == {"inside": invalid, "twice": invalid, "null": "CUDA_SUCCESS"}
    program.end()


def test_freeing_waits_for_the_work_that_was_launched_before(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        one, two = gpu.allocate(MIB), gpu.allocate(MIB)
        stream = ok(driver.cuStreamCreate(1))
        gpu.spin(MS)
        gpu.synchronize()
        begin = now_ns()
        gpu.spin(100 * MS, stream)
        ok(driver.cuMemFree(one))
        waited_ns = now_ns() - begin
        ok(driver.cuMemFree(two))
        say(waited_ms=waited_ns / MS, idle=error_of(driver.cuStreamQuery(stream)))
        """
    )
    relay.client_with_plan()
    words = program.said()
    assert words["waited_ms"] >= 99
    assert words["idle"] == "CUDA_SUCCESS"
    program.end()


def test_a_block_that_is_freed_during_a_capture_is_reused_only_after_it(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        held = gpu.allocate(20 * MIB)
        stream = ok(driver.cuStreamCreate(1))
        ok(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
        gpu.spin(MS, stream)
        ok(driver.cuMemFree(held))
        during = gpu.allocate(20 * MIB)
        say(reused=int(during) == int(held))
        hear()
        ok(driver.cuStreamEndCapture(stream))
        say(ended=True)
        hear()
        """
    )
    client = relay.client_with_plan()
    assert program.said() == {"reused": False}
    client.report_where(lambda report: (report.footprint_bytes, report.needed_bytes) == (20 * MIB, 40 * MIB))
    since = len(client.reports)
    program.tell()
    program.said()
    client.report_where(lambda report: (report.footprint_bytes, report.needed_bytes) == (20 * MIB, 20 * MIB), since)
    program.tell()
    program.end()


def test_addresses_that_the_driver_does_not_take_back_are_never_used_again(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        held = gpu.allocate(20 * MIB)
        ok(driver.cuMemUnmap(held, 20 * MIB))  # behind the library's back
        ok(driver.cuMemFree(held))
        others = [gpu.allocate(20 * MIB) for _ in range(3)]
        for other in others:
            ok(driver.cuMemsetD8(other, 1, 20 * MIB))
        gpu.synchronize()
        say(reused=held in others)
        hear()
        """
    )
    client = relay.client_with_plan()
    assert program.said() == {"reused": False}
    client.report_where(lambda report: (report.footprint_bytes, report.pinned_bytes) == (60 * MIB, 20 * MIB))
    program.tell()
    program.end()
