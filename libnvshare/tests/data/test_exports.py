"""Memory that the program may hand to other processes (descriptors of cuMemCreate): it moves until that is done."""

from pathlib import Path

import pytest
from libnvshare.tests.data.conftest import MIB, Client, Program, Run, ScriptedRelay
from libnvshare.tests.data.moving import CHECKS, DATA, bring_back, end_right, mapped, move, started

from nvshare.emulator import library_directory

EXPORTED = "1 handle exported by cuMemExportToShareableHandle"

# Reads and writes what another process has exported, 20 MiB, at the test's words.
IMPORTER = """
    gpu = Gpu()
    say(ready=True)
    address, handle = reserve(20 * MIB), import_handle(hear())
    attach(address, 20 * MIB, handle)
    say(imported=True)
    while word := hear():
        if word == "write":
            ok(driver.cuMemsetD32(address, 9, 1))
            gpu.synchronize()
        say(first=int.from_bytes(gpu.read(address, 4), "little"))
"""


def importer(relay: ScriptedRelay, run: Run, exported: str) -> Program:
    """A program that has imported a handle."""
    program = run(IMPORTER)
    relay.client_with_plan()
    program.said()
    program.tell(exported)
    assert program.said() == {"imported": True}
    return program


def pinned(client: Client, size_bytes: int, reason: str, since: int = 0) -> None:
    """Waits until the client says that so much of its memory cannot leave, and why."""
    client.report_where(lambda report: (report.pinned_bytes, report.pinned_reason) == (size_bytes, reason), since)


def test_memory_that_may_be_exported_moves_as_long_as_it_is_not(relay: ScriptedRelay, run: Run) -> None:
    program, client = started(relay, run, mapped(256, exportable=True) + CHECKS)
    for _ in range(3):
        away = move(client, 0)
        assert (away.resident_bytes, away.pinned_bytes, away.pinned_reason) == (0, 0, "")
        bring_back(client)
        program.tell("check")
        assert program.said() == {"right": True}
    end_right(program)


def test_an_export_of_memory_that_is_away_brings_it_in_and_keeps_it(relay: ScriptedRelay, run: Run) -> None:
    program, client = started(
        relay, run, mapped(20, exportable=True) + "    hear()\n    say(exported=export(handle))\n" + CHECKS
    )
    move(client, 0)
    bring_back(client)
    move(client, 0)
    program.tell()
    assert program.silent(0.05)
    bring_back(client)
    other = importer(relay, run, program.said()["exported"])
    pinned(client, 20 * MIB, EXPORTED)
    assert move(client, 20 * MIB).resident_bytes == 20 * MIB
    other.tell("read")
    assert other.said() == {"first": 5}
    bring_back(client)
    end_right(program)


def test_exported_memory_stays_under_a_neighbour_and_the_rest_makes_room(relay: ScriptedRelay, run: Run) -> None:
    program, client = started(
        relay,
        run,
        DATA
        + """
    blocks = [(reserve(20 * MIB), 20 * MIB), (reserve(64 * MIB), 64 * MIB)]
    handles = [create(size_bytes, exportable=True) for _, size_bytes in blocks]
    for (address, size_bytes), handle in zip(blocks, handles):
        attach(address, size_bytes, handle)
    fill(5)
    gpu.synchronize()
    say(filled=True)
    say(exported=export(handles[0]))
    hear()
    say(first=int.from_bytes(gpu.read(blocks[0][0], 4), "little"), right=sums()[1] == expected(5)[1])
    """,
    )
    other = importer(relay, run, program.said()["exported"])
    pressed = move(client, 20 * MIB)
    assert pressed.resident_bytes == pressed.pinned_bytes == 20 * MIB
    other.tell("read")
    assert other.said() == {"first": 5}
    other.tell("write")
    assert other.said() == {"first": 9}
    bring_back(client)
    program.tell()
    assert program.said() == {"first": 9, "right": True}
    program.end()


def test_a_large_handle_leaves_as_a_whole_since_one_descriptor_stands_for_it(relay: ScriptedRelay, run: Run) -> None:
    program, client = started(
        relay, run, mapped(600, exportable=True) + CHECKS + "    say(exported=export(handle))\n    hear()\n"
    )
    assert move(client, 400 * MIB).resident_bytes < 100 * MIB
    bring_back(client)
    program.tell("check")
    assert program.said() == {"right": True}
    program.tell("export")
    other = importer(relay, run, program.said()["exported"])
    pinned(client, 600 * MIB, EXPORTED)
    other.tell("read")
    assert other.said() == {"first": 5}


@pytest.mark.parametrize("refused", ["FABRIC, 0", "DESCRIPTOR, 1"])
def test_an_export_that_is_refused_keeps_nothing(refused: str, relay: ScriptedRelay, run: Run) -> None:
    program, client = started(
        relay,
        run,
        mapped(20, exportable=True)
        + f"""
    say(error=error_of(driver.cuMemExportToShareableHandle(handle, {refused})))
    """
        + CHECKS,
    )
    assert program.said() == {"error": "CUDA_ERROR_INVALID_VALUE"}
    away = move(client, 0)
    assert (away.resident_bytes, away.pinned_reason) == (0, "")
    bring_back(client)
    end_right(program)


def test_an_exported_handle_is_still_the_programs_own(relay: ScriptedRelay, run: Run) -> None:
    """It can be imported again, mapped elsewhere, retained, asked about; and what was pinned goes with its end."""
    program, client = started(
        relay,
        run,
        mapped(20, exportable=True)
        + """
    exported = export(handle)
    assert export(handle) != exported
    own = import_handle(exported)
    attach(address + SIZE, SIZE, own)
    attach(address + 2 * SIZE, SIZE, handle)
    for place in (own, handle):
        asked = ok(driver.cuMemGetAllocationPropertiesFromHandle(place))
        assert int(asked.requestedHandleTypes) == int(DESCRIPTOR)
    again = ok(driver.cuMemRetainAllocationHandle(address + 2 * SIZE))
    assert int(again) == int(handle)
    ok(driver.cuMemsetD32(address + SIZE, 7, 1))
    firsts = [gpu.read(address + place * SIZE, 1)[0] for place in range(3)]
    say(firsts=firsts)
    hear()
    for held in (own, handle, again):
        ok(driver.cuMemRelease(held))
    ok(driver.cuMemUnmap(address, 3 * SIZE))
    say(error=error_of(driver.cuMemExportToShareableHandle(handle, DESCRIPTOR, 0)))
    hear()
    """,
    )
    assert program.said() == {"firsts": [7, 7, 7]}
    pinned(client, 20 * MIB, EXPORTED)
    since = len(client.reports)
    program.tell()
    assert program.said() == {"error": "CUDA_ERROR_INVALID_VALUE"}
    pinned(client, 0, "", since)
    client.report_where(lambda report: report.footprint_bytes == MIB, since)
    program.tell()
    program.end()


def test_what_another_process_has_imported_outlives_the_exporters_handle(relay: ScriptedRelay, run: Run) -> None:
    program, client = started(
        relay,
        run,
        mapped(20, exportable=True)
        + """
    say(exported=export(handle))
    hear()
    ok(driver.cuMemRelease(handle))
    ok(driver.cuMemUnmap(address, SIZE))
    say(ended=True)
    hear()
    """,
    )
    other = importer(relay, run, program.said()["exported"])
    since = len(client.reports)
    program.tell()
    assert program.said() == {"ended": True}
    pinned(client, 0, "", since)
    other.tell("read")
    assert other.said() == {"first": 5}


def test_an_expandable_segment_with_holes_and_released_handles_moves(relay: ScriptedRelay, run: Run) -> None:
    """As PyTorch's: a reservation of several times the card, and access to several pieces in one call."""
    program, client = started(
        relay,
        run,
        DATA
        + """
    PIECE = 20 * MIB
    start = reserve(64 << 30)

    def grow(first, count):
        handles = [create(PIECE, exportable=True) for _ in range(count)]
        for index, handle in enumerate(handles):
            ok(driver.cuMemMap(start + (first + index) * PIECE, PIECE, 0, handle, 0))
        ok(driver.cuMemSetAccess(start + first * PIECE, count * PIECE, access(), 1))
        return handles

    handles = grow(0, 8)
    everything = blocks = [(start + index * PIECE, PIECE) for index in range(8)]
    fill(5)
    gpu.synchronize()
    say(filled=True)
    hear()
    for handle in handles:
        ok(driver.cuMemRelease(handle))
    ok(driver.cuMemUnmap(start + 3 * PIECE, 2 * PIECE))
    say(done=True)
    hear()
    seeds, blocks = expected(5), everything[:3] + everything[5:]
    say(right=sums() == seeds[:3] + seeds[5:])
    hear()
    grow(3, 2)
    blocks = everything
    fill(9)
    gpu.synchronize()
    say(done=True)
    hear()
    say(right=sums() == expected(9))
    """,
    )

    def goes_in_part_and_is_right() -> None:
        away = move(client, 30 * MIB)
        assert away.resident_bytes <= 30 * MIB
        assert (away.pinned_bytes, away.pinned_reason) == (0, "")
        bring_back(client)
        program.tell()
        assert program.said() == {"right": True}

    move(client, 0)
    since = len(client.reports)
    program.tell()
    assert program.said() == {"done": True}
    client.report_where(lambda report: report.footprint_bytes == 121 * MIB, since)
    bring_back(client)
    goes_in_part_and_is_right()
    move(client, 0)
    since = len(client.reports)
    program.tell()
    bring_back(client)
    assert program.said() == {"done": True}
    client.report_where(lambda report: report.footprint_bytes == 161 * MIB, since)
    goes_in_part_and_is_right()
    program.end()


def test_a_driver_that_makes_nothing_that_can_be_exported_is_believed(
    relay: ScriptedRelay, run: Run, programs: Path
) -> None:
    program = run(
        """
    import ctypes
    wrapped = ctypes.CDLL(None)

    def result_of(mib, asked):  # by name: of this driver the emulated GPU's resolver knows nothing
        handle, properties = ctypes.c_uint64(), ctypes.c_void_p(asked.getPtr())
        result = wrapped.cuMemCreate(ctypes.byref(handle), ctypes.c_size_t(mib * MIB), properties, ctypes.c_uint64(0))
        return driver.CUresult(result).name

    gpu = Gpu()
    say(exportable=result_of(20, properties(exportable=True)), own=result_of(4, properties()))
    hear()
    """,
        LD_LIBRARY_PATH=f"{programs / 'refusing'}:{library_directory()}",
    )
    client = relay.client_with_plan()
    assert program.said() == {"exportable": "CUDA_ERROR_NOT_SUPPORTED", "own": "CUDA_SUCCESS"}
    assert client.report_where(lambda report: report.footprint_bytes == 4 * MIB).pinned_bytes == 0
    program.tell()
    program.end()
