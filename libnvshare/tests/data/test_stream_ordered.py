"""Stream-ordered memory: out of the arena, freed and used again in the order of streams."""

from libnvshare.tests.data.conftest import MIB, Run, ScriptedRelay
from libnvshare.tests.data.moving import bring_back, move

# A stream with a second of work in front of a free.
BUSY = """
        gpu = Gpu()
        one, other = ok(driver.cuStreamCreate(1)), ok(driver.cuStreamCreate(1))
        gpu.spin(MS)
        gpu.synchronize()
        held = ok(driver.cuMemAllocAsync(20 * MIB, one))
        gpu.spin(1000 * MS, one)
        ok(driver.cuMemFreeAsync(held, one))
"""


def test_its_data_survives_the_way_out_and_in(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        held = ok(driver.cuMemAllocAsync(20 * MIB, 0))
        ok(driver.cuMemsetD8Async(held, 6, 20 * MIB, 0))
        say(held=True)
        hear()
        say(last=gpu.read(int(held) + 20 * MIB - 1, 1)[0])
        """
    )
    client = relay.client_with_plan()
    program.said()
    away = move(client, 0)
    assert (away.footprint_bytes, away.needed_bytes, away.resident_bytes) == (20 * MIB, 20 * MIB, 0)
    program.tell()
    assert program.silent(0.1)
    bring_back(client)
    assert program.said() == {"last": 6}
    program.end()


def test_it_may_be_freed_while_it_is_away(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        held = ok(driver.cuMemAllocAsync(20 * MIB, 0))
        say(held=True)
        hear()
        ok(driver.cuMemFreeAsync(held, 0))
        say(freed=True)
        hear()
        """
    )
    client = relay.client_with_plan()
    program.said()
    move(client, 0)
    since = len(client.reports)
    program.tell()
    assert program.said() == {"freed": True}
    client.report_where(lambda report: (report.footprint_bytes, report.needed_bytes) == (0, 0), since)
    program.tell()
    program.end()


def test_it_is_used_again_at_once_on_the_stream_that_freed_it_and_nowhere_else(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        BUSY
        + """
        elsewhere = ok(driver.cuMemAllocAsync(20 * MIB, other))
        again = ok(driver.cuMemAllocAsync(19 * MIB, one))
        busy = error_of(driver.cuStreamQuery(one))
        say(elsewhere=int(elsewhere) == int(held), again=int(again) == int(held), busy=busy)
        """
    )
    relay.client_with_plan()
    assert program.said() == {"elsewhere": False, "again": True, "busy": "CUDA_ERROR_NOT_READY"}
    program.end()


def test_its_memory_is_given_back_when_the_stream_has_come_to_the_free(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        BUSY
        + """
        say(busy=error_of(driver.cuStreamQuery(one)), twice=error_of(driver.cuMemFreeAsync(held, one)))
        hear()
        """
    )
    client = relay.client_with_plan()
    assert program.said() == {"busy": "CUDA_ERROR_NOT_READY", "twice": "CUDA_ERROR_INVALID_VALUE"}
    client.report_where(lambda report: (report.footprint_bytes, report.needed_bytes) == (0, 20 * MIB))
    client.report_where(lambda report: (report.footprint_bytes, report.needed_bytes) == (0, 0), 4)
    program.tell()
    program.end()


def test_what_waits_for_room_gets_that_of_a_free_that_is_to_come(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        BUSY
        + """
        say(waited=True)
        found = ok(driver.cuMemAllocAsync(24 * MIB, other))
        say(busy=error_of(driver.cuStreamQuery(one)))
        """
    )
    relay.client_with_plan(resident_bytes=40 * MIB)
    program.said()
    assert program.said() == {"busy": "CUDA_SUCCESS"}
    program.end()


def test_an_allocation_costs_the_same_behind_thousands_of_frees_that_are_to_come(
    relay: ScriptedRelay, run: Run
) -> None:
    program = run(
        """
        import ctypes
        gpu = Gpu()
        memory = int(ok(driver.cuMemHostAlloc(4, 0)))
        word = ctypes.c_uint32.from_address(memory)
        word.value = 0
        held = ok(driver.cuStreamCreate(1))

        def least_ns():
            took = []
            for _ in range(60):
                since_ns = now_ns()
                block = ok(driver.cuMemAllocAsync(MIB, held))
                took.append(now_ns() - since_ns)
                blocks.append(block)
            return sorted(took)[10]

        blocks = []
        for _ in range(1000):  # so that marks are far apart: a stream holds a thousand operations
            gpu.spin(1000, held)
        ok(driver.cuStreamWaitValue32(held, memory, 1, driver.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_EQ))
        before_ns = least_ns()
        small = [ok(driver.cuMemAllocAsync(512, held)) for _ in range(8000)]
        for block in small:
            ok(driver.cuMemFreeAsync(block, held))
        behind_ns = least_ns()
        word.value = 1
        ok(driver.cuStreamSynchronize(held))
        say(before_ns=before_ns, behind_ns=behind_ns)
        """
    )
    relay.client_with_plan()
    words = program.said()
    assert words["behind_ns"] < 4 * words["before_ns"], words
    program.end()


def test_a_pool_tells_what_is_used_of_it(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        prop = driver.CUmemPoolProps()
        prop.allocType = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        prop.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        pool = ok(driver.cuMemPoolCreate(prop))
        A = driver.CUmemPool_attribute

        def used():
            names = (A.CU_MEMPOOL_ATTR_USED_MEM_CURRENT, A.CU_MEMPOOL_ATTR_USED_MEM_HIGH)
            return [int(ok(driver.cuMemPoolGetAttribute(pool, name))) // MIB for name in names]

        one = ok(driver.cuMemAllocFromPoolAsync(20 * MIB, pool, 0))
        two = ok(driver.cuMemAllocFromPoolAsync(4 * MIB, pool, 0))
        both = used()
        P = driver.CUpointer_attribute
        handle = ok(driver.cuPointerGetAttribute(P.CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, one))
        capable = ok(driver.cuPointerGetAttribute(P.CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, one))
        ok(driver.cuMemFreeAsync(one, 0))
        ok(driver.cuStreamSynchronize(0))
        after = used()
        ok(driver.cuMemPoolSetAttribute(pool, A.CU_MEMPOOL_ATTR_USED_MEM_HIGH, driver.cuuint64_t(0)))
        say(both=both, after=after, reset=used(), of_pool=int(handle) == int(pool), capable=int(capable))
        """
    )
    relay.client_with_plan()
    assert program.said() == {"both": [24, 24], "after": [4, 24], "reset": [4, 4], "of_pool": True, "capable": 0}
    program.end()
