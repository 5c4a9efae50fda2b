"""Memory that the program makes and maps itself (cuMemCreate, cuMemMap): it moves, and the program never notices."""

import textwrap
from pathlib import Path

import pytest
from libnvshare.tests.data.conftest import GIB, MIB, Run, ScriptedRelay
from libnvshare.tests.data.moving import CHECKS, DATA, bring_back, end_right, mapped, move, started

from nvshare.emulator import library_directory


@pytest.mark.parametrize("mib", [2, 64])
def test_what_a_program_maps_survives_the_way_out_and_in(mib: int, relay: ScriptedRelay, run: Run) -> None:
    program, client = started(relay, run, mapped(mib) + CHECKS)
    away = move(client, 0)
    assert away.resident_bytes == away.pinned_bytes == 0
    assert away.footprint_bytes == (mib + 1) * MIB
    program.tell("check")
    assert program.silent(0.05)
    bring_back(client)
    assert program.said() == {"right": True}
    move(client, 0)
    bring_back(client)
    end_right(program)


def test_a5_a_large_handle_leaves_in_part(relay: ScriptedRelay, run: Run) -> None:
    program, client = started(relay, run, mapped(512) + CHECKS)
    away = move(client, 300 * MIB)
    assert 200 * MIB < away.resident_bytes <= 300 * MIB
    bring_back(client)
    end_right(program)


def test_an_expandable_segment_grows_and_shrinks_under_a_neighbour(relay: ScriptedRelay, run: Run) -> None:
    """As PyTorch's: its memory leaves and comes back at every size, also when a piece is added while it is away."""
    program, client = started(
        relay,
        run,
        DATA
        + """
    segments = [ExpandableSegment(8 << 30, 20 * MIB), ExpandableSegment(1 << 30, 2 * MIB)]
    say(ready=True)
    while (word := hear()) != "end":
        for segment in segments:
            segment.grow(4) if word == "grow" else segment.shrink(3)
        blocks = [(segment.address, segment.size_bytes) for segment in segments]
        fill(7)
        gpu.synchronize()
        say(changed=True)
        hear()
        say(right=sums() == expected(7), mib=sum(segment.size_bytes for segment in segments) // MIB)
    """,
    )
    mib = 0
    for word, change in [("grow", 88), ("grow", 88), ("shrink", -66), ("grow", 88), ("shrink", -66)]:
        since = len(client.reports)
        move(client, 0)
        program.tell(word)
        waits = program.silent(0.02)
        client.grant()
        assert waits
        assert program.said() == {"changed": True}
        mib += change
        client.report_where(lambda report: report.footprint_bytes == (mib + 1) * MIB, since)  # noqa: B023
        move(client, 10 * MIB)
        program.tell()
        bring_back(client)
        assert program.said() == {"right": True, "mib": mib}
    program.tell("end")
    program.end()


def test_sleeping_memory_is_given_back_and_wakes_at_the_same_addresses(relay: ScriptedRelay, run: Run) -> None:
    """As vLLM's sleep mode: all is unmapped and released, also while it is away, and made anew later."""
    program, client = started(
        relay,
        run,
        DATA
        + """
    memory = SleepingMemory([64, 20, 2])
    blocks = memory.blocks
    say(ready=True)
    while (word := hear()) != "end":
        if word == "sleep":
            memory.sleep()
        elif word == "wake":
            memory.wake()
            fill(9)
            gpu.synchronize()
        say(right=word != "check" or sums() == expected(9))
    """,
    )

    def asks(word: str) -> None:
        program.tell(word)
        assert program.said() == {"right": True}

    for _ in range(2):
        since = len(client.reports)
        asks("wake")
        client.report_where(lambda report: report.footprint_bytes == 87 * MIB, since)
        move(client, 30 * MIB)
        bring_back(client)
        asks("check")
        away = move(client, 0)
        since = len(client.reports)
        asks("sleep")
        slept = client.report_where(lambda report: report.footprint_bytes == MIB, since)
        assert slept.needed_bytes == away.needed_bytes - 86 * MIB
        bring_back(client)
    program.tell("end")
    program.end()


def test_memory_may_be_released_on_its_way_out(relay: ScriptedRelay, run: Run) -> None:
    program, client = started(
        relay,
        run,
        DATA
        + """
    memory = SleepingMemory([32, 32, 300, 32])
    blocks = memory.blocks
    memory.wake()
    fill(5)
    gpu.synchronize()
    say(filled=True)
    hear()
    memory.sleep()
    say(asleep=True)
    hear()
    memory.wake()
    fill(9)
    say(right=sums() == expected(9))
    """,
        NVSHARE_EMULATOR_LINK_BYTES_PER_SECOND=str(GIB),
    )
    since = len(client.reports)
    client.grant(may_launch=False, resident_bytes=0)
    client.report_where(lambda report: 0 < report.swapped_out_bytes < report.needed_bytes, since)
    program.tell()
    assert program.said() == {"asleep": True}
    client.report_where(lambda report: report.footprint_bytes == MIB and report.needed_bytes < 64 * MIB, since)
    bring_back(client)
    program.tell()
    assert program.said() == {"right": True}
    program.end()


# What is done at the test's word while the memory is away, and what must hold then, with the memory back.
AWAY = {
    "a handle that is mapped elsewhere, too": (
        "attach(address + SIZE, SIZE, handle)",
        "blocks = [(address + SIZE, SIZE)]",
    ),
    "a first part of it": (
        "attach(address + SIZE, SIZE // 2, handle)",
        "assert gpu.read(address + SIZE, 4) == gpu.read(address, 4) == bytes([5, 0, 0, 0])",
    ),
    "another place instead": (
        "ok(driver.cuMemUnmap(address, SIZE)); attach(address + SIZE, SIZE, handle)",
        "blocks = [(address + SIZE, SIZE)]; assert error_of(driver.cuMemGetAddressRange(address)) != 'CUDA_SUCCESS'",
    ),
    "a handle that is released": (
        "ok(driver.cuMemRelease(handle))",
        "assert error_of(driver.cuMemRelease(handle)) == 'CUDA_ERROR_INVALID_VALUE'",
    ),
    "a handle that is retained": (
        "again = ok(driver.cuMemRetainAllocationHandle(address)); ok(driver.cuMemRelease(handle))",
        "assert int(again) == int(handle); attach(address + SIZE, SIZE, again)",
    ),
    "access that is taken and given": (
        """for flags in (0, 1, 3):
        ok(driver.cuMemSetAccess(address, SIZE, access(flags=flags), 1))
        assert ok(driver.cuMemGetAccess(access()[0].location, address)) == flags""",
        "assert ok(driver.cuMemGetAccess(access()[0].location, address)) == 3",
    ),
}


@pytest.mark.parametrize(("meanwhile", "then"), AWAY.values(), ids=AWAY)
def test_what_changes_while_the_memory_is_away_holds_when_it_is_back(
    meanwhile: str, then: str, relay: ScriptedRelay, run: Run
) -> None:
    program, client = started(
        relay,
        run,
        mapped(64)
        + f"""
    hear()
    {meanwhile}
    say(done=True)
    hear()
    {then}
    say(right=sums() == expected(5))
    """,
    )
    move(client, 0)
    program.tell()
    assert program.said() == {"done": True}
    bring_back(client)
    move(client, 0)
    bring_back(client)
    program.tell()
    assert program.said() == {"right": True}
    program.end()


def test_access_that_was_taken_stays_taken(relay: ScriptedRelay, run: Run) -> None:
    program, client = started(
        relay,
        run,
        mapped(20)
        + """
    ok(driver.cuMemSetAccess(address, SIZE, access(flags=0), 1))
    hear()
    say(error=error_of(driver.cuMemcpyDtoH(bytearray(4), address, 4)))
    """,
    )
    move(client, 0)
    bring_back(client)
    program.tell()
    assert program.said()["error"] != "CUDA_SUCCESS"


def test_a_handle_without_a_mapping_keeps_its_data_on_the_way(relay: ScriptedRelay, run: Run) -> None:
    program, client = started(
        relay,
        run,
        mapped(20)
        + """
    ok(driver.cuMemUnmap(address, SIZE))
    hear()
    attach(address + SIZE, SIZE, handle)
    blocks = [(address + SIZE, SIZE)]
    say(right=sums() == expected(5))
    """,
    )
    move(client, 0)
    bring_back(client)
    program.tell()
    assert program.said() == {"right": True}
    program.end()


def test_memory_counts_until_it_has_neither_handle_nor_mapping(relay: ScriptedRelay, run: Run) -> None:
    program, client = started(
        relay,
        run,
        mapped(20)
        + """
    for step in (driver.cuMemRelease(handle), driver.cuMemUnmap):
        hear()
        step(address, SIZE) if callable(step) else ok(step)
        say(free=ok(driver.cuMemGetInfo())[0])
    """,
        NVSHARE_EMULATOR_MEMORY="4GiB",
    )
    epoch = client.grant(limit_bytes=GIB)
    client.report_where(lambda report: report.epoch == epoch)
    program.tell()
    assert program.said() == {"free": GIB - 21 * MIB}
    program.tell()
    assert program.said() == {"free": GIB - MIB}
    program.end()


def test_b1_a_handle_beyond_the_limit_is_out_of_memory(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        held = create(900 * MIB)
        say(error=error_of(driver.cuMemCreate(200 * MIB, properties(), 0)))
        """
    )
    relay.client_with_plan(limit_bytes=GIB)
    assert program.said() == {"error": "CUDA_ERROR_OUT_OF_MEMORY"}
    program.end()


# Everything that a program may ask or do wrong, on memory of 20 MiB that is mapped 2 MiB into a reservation.
ANSWERS = """
    A = driver.CUpointer_attribute
    gpu = Gpu()
    SIZE = 20 * MIB
    start, handle = reserve(4 * SIZE), create(SIZE, exportable=EXPORTABLE)
    address = start + 2 * MIB
    attach(address, SIZE, handle)

    def ask(name):
        result, value = driver.cuPointerGetAttribute(getattr(A, "CU_POINTER_ATTRIBUTE_" + name), address + 4096)
        return int(value) if result == driver.CUresult.CUDA_SUCCESS and value is not None else result.name

    def answers():
        names = '''CONTEXT MEMORY_TYPE HOST_POINTER SYNC_MEMOPS IS_MANAGED DEVICE_ORDINAL MAPPED RANGE_SIZE
            IS_LEGACY_CUDA_IPC_CAPABLE ALLOWED_HANDLE_TYPES MEMPOOL_HANDLE ACCESS_FLAGS MAPPING_SIZE'''.split()
        several = [A.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, A.CU_POINTER_ATTRIBUTE_RANGE_SIZE]
        base, size_bytes = ok(driver.cuMemGetAddressRange(address + 4096))
        asked = ok(driver.cuMemGetAllocationPropertiesFromHandle(handle))
        return {name: ask(name) for name in names} | {
            "offsets": [ask("DEVICE_POINTER") - address, ask("RANGE_START_ADDR") - start,
                        ask("MAPPING_BASE_ADDR") - address, int(base) - address, size_bytes],
            "several": [int(value) for value in ok(driver.cuPointerGetAttributes(2, several, address))],
            "properties": [int(asked.type), int(asked.location.type), asked.location.id],
            "types": int(asked.requestedHandleTypes),
            "granularity": ok(driver.cuMemGetAllocationGranularity(properties(), 0)),
            "access": int(ok(driver.cuMemGetAccess(access()[0].location, address))),
        }

    def refusals():
        return [error_of(answer) for answer in (
            driver.cuMemExportToShareableHandle(handle, FABRIC if EXPORTABLE else DESCRIPTOR, 0),
            driver.cuMemCreate(MIB, properties(), 0),
            driver.cuMemMap(address, SIZE, 0, handle, 0),
            driver.cuMemMap(address + SIZE, 2 * SIZE, 0, handle, 0),
            driver.cuMemMap(address + SIZE, MIB, 0, handle, 0),
            driver.cuMemMap(address + SIZE, 2 * MIB, 2 * MIB, handle, 0),
            driver.cuMemMap(start + 8 * SIZE, SIZE, 0, handle, 0),
            driver.cuMemMap(address + SIZE, SIZE, 0, handle, 1),
            driver.cuMemUnmap(address, 2 * MIB),
            driver.cuMemUnmap(address, 2 * SIZE),
            driver.cuMemUnmap(address + SIZE, SIZE),
            driver.cuMemSetAccess(address, 2 * MIB, access(), 1),
            driver.cuMemSetAccess(address, SIZE, access(99), 1),
            driver.cuMemGetAccess(access()[0].location, address + SIZE),
            driver.cuMemAddressFree(start, 4 * SIZE),
            driver.cuMemRetainAllocationHandle(address + SIZE),
            driver.cuMemFree(address),
            driver.cuIpcGetMemHandle(address),
        )]

    say(**answers(), refusals=refusals())
    hear()
    say(**answers())
    hear()
    ok(driver.cuMemUnmap(address, SIZE))
    ok(driver.cuMemRelease(handle))
    say(gone=[error_of(driver.cuMemMap(address, SIZE, 0, handle, 0)), error_of(driver.cuMemRelease(handle)),
              error_of(driver.cuMemAddressFree(start, 4 * SIZE)), ask("MEMORY_TYPE")])
"""


@pytest.mark.parametrize("exportable", [False, True])
def test_answers_are_the_drivers_on_the_card_and_away(exportable: bool, relay: ScriptedRelay, run: Run) -> None:
    source = f"EXPORTABLE = {exportable}\n" + textwrap.dedent(ANSWERS)
    native = run(source, preload="")
    plain = native.said()
    native.tell()
    native.said()
    native.tell()
    program = run(source)
    client = relay.client_with_plan()
    assert program.said() == plain
    move(client, 0)
    program.tell()
    assert program.said() == {name: answer for name, answer in plain.items() if name != "refusals"}
    program.tell()
    assert program.said() == native.said()
    program.end()


@pytest.mark.parametrize("calls", [{"unmap": 2, "access": 4}, {"unmap": 4, "access": 8}], ids=str)
def test_a_driver_that_fails_half_way_leaves_all_mappings_or_none(
    calls: dict[str, int], relay: ScriptedRelay, run: Run, programs: Path
) -> None:
    """Out: one mapping, or the library's own, is not undone. In: the access to one of two is not set."""
    program, client = started(
        relay,
        run,
        mapped(20)
        + f"""
    import ctypes
    faulty, wrapped = ctypes.CDLL("libcuda.so.1"), ctypes.CDLL(None)
    ok(driver.cuMemMap(address + SIZE, SIZE, 0, handle, 0))
    blocks.append((address + SIZE, SIZE))
    for start, size_bytes in blocks:  # by name: of the functions that fail the emulated GPU's resolver knows nothing
        description = access()[0]
        described = ctypes.c_void_p(description.getPtr())
        assert wrapped.cuMemSetAccess(ctypes.c_uint64(start), ctypes.c_size_t(size_bytes), described, 1) == 0
    say(ready=True)
    while (word := hear()) != "check":
        faulty.fail_calls(word.encode(), {calls}[word])
        say(failing=word)
    say(right=sums() == [expected(5)[0]] * 2)
    """,
        LD_LIBRARY_PATH=f"{programs / 'faulty'}:{library_directory()}",
    )
    program.said()
    failures = 0
    for word, way in (("unmap", move), ("access", lambda client, _: bring_back(client))):
        program.tell(word)
        assert program.said() == {"failing": word}
        moved = way(client, 0)
        assert moved.swap_failures > failures
        failures = moved.swap_failures
    program.tell("check")
    assert program.said() == {"right": True}
    program.end()


@pytest.mark.parametrize(
    ("outside", "reason"),
    [
        (
            "driver.cuPointerSetAttribute(1, driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, address)",
            "1 block prepared for RDMA",
        ),
        (
            "driver.cuMemGetHandleForAddressRange(address, SIZE, driver.CUmemRangeHandleType(1), 0)",
            "1 block with a dma-buf",
        ),
        ("driver.cuMemSetAccess(address, SIZE, host_access(), 1)", "1 handle that more than devices may access"),
    ],
)
def test_a_handle_that_somebody_else_may_reach_stays_until_it_ends(
    outside: str, reason: str, relay: ScriptedRelay, run: Run
) -> None:
    program, client = started(
        relay,
        run,
        mapped(20)
        + f"""
    def host_access():
        description = access()[0]
        description.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_HOST
        return [description]

    hear()
    ok({outside})
    say(reached=True)
    hear()
    ok(driver.cuMemUnmap(address, SIZE))
    ok(driver.cuMemRelease(handle))
    say(ended=True)
    hear()
    """,
    )
    move(client, 0)
    program.tell()
    assert program.silent(0.05)  # it is brought back first
    bring_back(client)
    assert program.said() == {"reached": True}
    client.report_where(lambda report: (report.pinned_bytes, report.pinned_reason) == (20 * MIB, reason))
    assert move(client, 20 * MIB).resident_bytes == 20 * MIB
    since = len(client.reports)
    program.tell()
    assert program.said() == {"ended": True}
    client.report_where(lambda report: (report.pinned_bytes, report.pinned_reason) == (0, ""), since)
    program.tell()
    program.end()


def test_a_handle_outlives_its_context(relay: ScriptedRelay, run: Run) -> None:
    program, client = started(
        relay,
        run,
        """
    ok(driver.cuInit(0))
    first = ok(driver.cuCtxCreate(None, 0, 0))
    address, handle = reserve(20 * MIB), create(20 * MIB)
    attach(address, 20 * MIB, handle)
    ok(driver.cuMemsetD8(address, 7, 20 * MIB))
    ok(driver.cuCtxDestroy(first))
    ok(driver.cuCtxCreate(None, 0, 0))
    say(filled=True)
    hear()
    data = bytearray(20 * MIB)
    ok(driver.cuMemcpyDtoH(data, address, len(data)))
    say(right=set(data) == {7})
    """,
    )
    assert move(client, 0).resident_bytes == 0
    bring_back(client)
    program.tell()
    assert program.said() == {"right": True}
    program.end()


def test_a_peer_reaches_what_was_mapped_for_it_before_and_after_the_way(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        one, two = Gpu(0), Gpu(1)
        one.use()
        address, handle = reserve(64 * MIB), create(64 * MIB, 0)
        attach(address, 64 * MIB, handle, 0, 1)
        ok(driver.cuMemsetD32(address, 7, 16 * MIB))
        one.synchronize()
        two.use()
        own = two.allocate(4 * MIB)
        say(ready=True)
        while hear() == "read":
            two.launch("checksum", own, address, 16 * MIB, 1021, 1000)
            say(right=int.from_bytes(two.read(own, 8), "little") == 7 * sum(range(1, 16 * MIB + 1, 1021)))
        """,
        NVSHARE_EMULATOR_DEVICES="2",
    )
    client = relay.client()
    first = client.gpu()
    client.grant(first)
    client.grant(client.report_where(lambda report: report.gpu != first).gpu)
    program.said()
    program.tell("read")
    assert program.said() == {"right": True}
    client.grant(first, may_launch=False, resident_bytes=0)
    client.report_where(lambda report: report.gpu == first and report.needed_bytes > 0 == report.resident_bytes)
    program.tell("read")
    assert program.silent(0.1)
    client.grant(first)
    assert program.said() == {"right": True}
    program.tell("end")
    program.end()


def test_work_of_another_device_waits_for_what_the_program_mapped(relay: ScriptedRelay, run: Run) -> None:
    """Without peer access a copy between devices names both by its addresses alone."""
    program = run(
        """
        one, two = Gpu(0), Gpu(1)
        one.use()
        address, handle = reserve(4 * MIB), create(4 * MIB, 0)
        attach(address, 4 * MIB, handle)
        ok(driver.cuMemsetD8(address, 7, 4 * MIB))
        one.synchronize()
        two.use()
        own = two.allocate(4 * MIB)
        say(ready=True)
        hear()
        result = error_of(driver.cuMemcpy(own, address, 4 * MIB))
        say(result=result, sum=sum(two.read(own, 16)))
        """,
        NVSHARE_EMULATOR_DEVICES="2",
    )
    client = relay.client()
    first = client.gpu()
    client.grant(first)
    client.grant(client.report_where(lambda report: report.gpu != first).gpu)
    program.said()
    client.grant(first, may_launch=False, resident_bytes=0)
    client.report_where(lambda report: report.gpu == first and report.needed_bytes > 0 == report.resident_bytes)
    program.tell()
    assert program.silent(0.1)
    client.grant(first)
    assert program.said() == {"result": "CUDA_SUCCESS", "sum": 112}
    program.end()
