"""What the program is told of its memory: as of cuMemAlloc's, and what keeps memory on the card."""

import pytest
from libnvshare.tests.data.conftest import MIB, Run, ScriptedRelay
from libnvshare.tests.data.moving import bring_back, move

# Asks everything about an address 4 KiB into a block of 3 MiB, after another block.
QUESTIONS = """
        A = driver.CUpointer_attribute
        gpu = Gpu()
        other, held = gpu.allocate(3 * MIB), gpu.allocate(3 * MIB)

        def ask(name, address):
            result, value = driver.cuPointerGetAttribute(getattr(A, "CU_POINTER_ATTRIBUTE_" + name), address)
            return int(value) if result == driver.CUresult.CUDA_SUCCESS and value is not None else result.name

        def named(name):
            return ask(name, held + 4096)
"""


def test_e3_pointer_attributes_are_those_of_cumemalloc(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        QUESTIONS
        + """
        names = '''MEMORY_TYPE DEVICE_POINTER HOST_POINTER SYNC_MEMOPS IS_MANAGED DEVICE_ORDINAL MAPPED RANGE_SIZE
            RANGE_START_ADDR IS_LEGACY_CUDA_IPC_CAPABLE ALLOWED_HANDLE_TYPES MEMPOOL_HANDLE'''.split()
        answers = {name: named(name) for name in names}
        answers["DEVICE_POINTER"] -= held
        answers["RANGE_START_ADDR"] -= held
        say(answers=answers, context=named("CONTEXT") == int(gpu.context),
            own=named("BUFFER_ID") != ask("BUFFER_ID", other), same=named("BUFFER_ID") == ask("BUFFER_ID", held),
            page=named("MAPPING_BASE_ADDR") % (2 * MIB))
        """
    )
    relay.client_with_plan()
    assert program.said() == {
        "answers": {
            "MEMORY_TYPE": 2,
            "DEVICE_POINTER": 4096,
            "HOST_POINTER": "CUDA_ERROR_INVALID_VALUE",
            "SYNC_MEMOPS": 0,
            "IS_MANAGED": 0,
            "DEVICE_ORDINAL": 0,
            "MAPPED": 1,
            "RANGE_SIZE": 3 * MIB,
            "RANGE_START_ADDR": 0,
            "IS_LEGACY_CUDA_IPC_CAPABLE": 1,
            "ALLOWED_HANDLE_TYPES": 0,
            "MEMPOOL_HANDLE": 0,
        },
        "context": True,
        "own": True,
        "same": True,
        "page": 0,
    }
    program.end()


def test_e3_several_attributes_at_once_are_the_same(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        QUESTIONS
        + """
        wanted = [A.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, A.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
                  A.CU_POINTER_ATTRIBUTE_RANGE_SIZE]
        known = ok(driver.cuPointerGetAttributes(len(wanted), wanted, held))
        ok(driver.cuMemFree(held))
        freed = ok(driver.cuPointerGetAttributes(len(wanted), wanted, held))
        say(known=[int(value) for value in known], freed=[int(value) for value in freed])
        """
    )
    relay.client_with_plan()
    assert program.said() == {"known": [2, 0, 3 * MIB], "freed": [0, -2, 0]}
    program.end()


def test_e3_the_range_of_an_address_is_its_allocation(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        QUESTIONS
        + """
        start, size_bytes = ok(driver.cuMemGetAddressRange(held + 4096))
        handle = error_of(driver.cuMemRetainAllocationHandle(held))
        ok(driver.cuMemFree(held))
        say(range=[int(start) - held, size_bytes], handle=handle, freed=named("MEMORY_TYPE"),
            no_range=error_of(driver.cuMemGetAddressRange(held)))
        """
    )
    relay.client_with_plan()
    assert program.said() == {
        "range": [0, 3 * MIB],
        "handle": "CUDA_ERROR_INVALID_VALUE",
        "freed": "CUDA_ERROR_INVALID_VALUE",
        "no_range": "CUDA_ERROR_NOT_FOUND",
    }
    program.end()


def test_a_block_that_another_device_may_read_is_pinned_until_it_is_freed(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        QUESTIONS
        + """
        ok(driver.cuPointerSetAttribute(1, A.CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, held))
        say(synchronous=named("SYNC_MEMOPS"))
        hear()
        ok(driver.cuMemFree(held))
        say(freed=True)
        hear()
        """
    )
    client = relay.client_with_plan()
    assert program.said() == {"synchronous": 1}
    report = client.report_where(lambda report: report.pinned_bytes > 0)
    assert 3 * MIB <= report.pinned_bytes <= report.resident_bytes
    assert report.pinned_reason == "1 block prepared for RDMA"
    since = len(client.reports)
    program.tell()
    program.said()
    client.report_where(lambda report: (report.pinned_bytes, report.pinned_reason) == (0, ""), since)
    program.tell()
    program.end()


@pytest.mark.parametrize(
    ("allocate", "mib", "reason"),
    [
        ("driver.cuMemAllocManaged(4 * MIB, 1)", 4, "2 managed allocations"),
        ("exportable()", 4098, "2 exportable handles of cuMemCreate"),
        ("compressible()", 4, "2 handles of cuMemCreate"),
    ],
)
def test_what_only_the_driver_could_move_is_pinned_with_its_reason(
    allocate: str, mib: int, reason: str, relay: ScriptedRelay, run: Run
) -> None:
    program = run(
        f"""
        gpu = Gpu()
        prop = driver.CUmemAllocationProp()
        prop.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        prop.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE

        def exportable():
            prop.requestedHandleTypes = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
            return driver.cuMemCreate(4098 * MIB, prop, 0)  # more than an extent may have

        def compressible():
            prop.allocFlags.compressionType = 1
            return driver.cuMemCreate(4 * MIB, prop, 0)

        held = [ok({allocate}) for _ in range(2)]
        say(held=True)
        hear()
        """
    )
    client = relay.client_with_plan()
    program.said()
    client.report_where(lambda report: (report.pinned_bytes, report.pinned_reason) == (2 * mib * MIB, reason))
    program.tell()
    program.end()


def test_a_peer_reaches_memory_from_before_and_after_it_was_let_in(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        first = Gpu(0)
        before = first.allocate(4 * MIB)
        second = Gpu(1)
        ok(driver.cuCtxEnablePeerAccess(first.context, 0))
        first.use()
        after = first.allocate(64 * MIB)
        for held in (before, after):
            ok(driver.cuMemsetD8(held, 7, 4 * MIB))
        first.synchronize()
        second.use()
        own = second.allocate(4 * MIB)
        sums = []
        for held in (before, after):
            ok(driver.cuMemcpyDtoD(own, held, 4 * MIB))
            sums.append(sum(second.read(own, 16)))
        say(sums=sums)
        """,
        NVSHARE_EMULATOR_DEVICES="2",
    )
    client = relay.client()
    first = client.gpu()
    client.grant(first)
    client.grant(client.report_where(lambda report: report.gpu != first).gpu)
    assert program.said() == {"sums": [112, 112]}
    program.end()


def test_a_capture_begins_only_when_the_memory_is_there(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        stream = ok(driver.cuStreamCreate(1))
        ok(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))
        ok(driver.cuStreamEndCapture(stream))
        say(done=True)
        """
    )
    client = relay.client()
    client.gpu()
    assert program.silent(0.1)
    client.grant(may_launch=False)  # a capture launches nothing
    program.said()
    program.end()


def test_e3_the_answers_are_the_same_while_the_memory_is_away(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        QUESTIONS
        + """
        names = "MEMORY_TYPE CONTEXT BUFFER_ID RANGE_SIZE RANGE_START_ADDR DEVICE_ORDINAL MAPPED".split()
        while True:
            start, size_bytes = ok(driver.cuMemGetAddressRange(held + 4096))
            say(answers=[named(name) for name in names] + [int(start), size_bytes])
            hear()
        """
    )
    client = relay.client_with_plan()
    there = program.said()
    assert move(client, 0).resident_bytes == 0
    program.tell()
    assert program.said() == there
    bring_back(client)
    program.tell()
    assert program.said() == there


def test_a_pinned_block_stays_while_the_others_leave(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        QUESTIONS
        + """
        large = gpu.allocate(64 * MIB)
        ok(driver.cuPointerSetAttribute(1, A.CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, large))
        say(pinned=True)
        hear()
        """
    )
    client = relay.client_with_plan()
    program.said()
    client.report_where(lambda report: report.pinned_bytes > 0)
    left = move(client, 64 * MIB)
    assert left.resident_bytes == left.pinned_bytes == 64 * MIB < left.needed_bytes


def test_what_is_to_be_pinned_is_brought_back_first(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        QUESTIONS
        + """
        say(held=True)
        hear()
        ok(driver.cuPointerSetAttribute(1, A.CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, held))
        say(pinned=True)
        """
    )
    client = relay.client_with_plan()
    program.said()
    move(client, 0)
    program.tell()
    assert program.silent(0.2)
    bring_back(client)
    assert program.said() == {"pinned": True}
    program.end()
