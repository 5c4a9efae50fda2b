"""Managed-memory mode: one program larger than the card, and what leaves and comes back of it."""

from libnvshare.tests.data.conftest import MIB, Run, ScriptedRelay
from libnvshare.tests.data.moving import CHECKS, FILLED, bring_back, move

from nvshare.v1.client_pb2 import Limit

MANAGED = {"NVSHARE_MANAGED": "1"}


def test_managed_memory_leaves_and_comes_back_with_its_data(relay: ScriptedRelay, run: Run) -> None:
    program = run(FILLED.format(sizes="[64, 200]") + CHECKS, **MANAGED)
    client = relay.client_with_plan()
    program.said()
    partly = move(client, 100 * MIB)
    assert partly.swaps
    assert partly.resident_bytes == 100 * MIB
    away = move(client, 0)
    assert away.swapped_out_bytes == away.needed_bytes == 265 * MIB
    back = bring_back(client)
    assert back.swapped_in_bytes == 265 * MIB
    program.tell("check")
    assert program.said() == {"right": True}
    program.tell("end")
    program.end()


def test_e1_what_came_back_prefers_the_card(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        FILLED.format(sizes="[64]")
        + """
    attribute = driver.CUmem_range_attribute.CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION
    while hear() == "where":
        say(where=ok(driver.cuMemRangeGetAttribute(4, attribute, blocks[0][0], blocks[0][1])))
    """,
        **MANAGED,
    )
    client = relay.client_with_plan()
    program.said()
    move(client, 0)
    program.tell("where")
    assert program.said() == {"where": -1}  # CU_DEVICE_CPU
    bring_back(client)
    program.tell("where")
    assert program.said() == {"where": 0}
    program.tell("end")
    program.end()


def test_a_program_may_have_more_than_the_card_and_counts_what_fits(relay: ScriptedRelay, run: Run) -> None:
    program = run(FILLED.format(sizes="[400, 400]") + CHECKS, NVSHARE_EMULATOR_MEMORY="1GiB", **MANAGED)
    client = relay.client_with_plan(resident_bytes=512 * MIB, limit_bytes=512 * MIB, limited_by=Limit.LIMIT_CARD)
    program.said()
    full = client.report_where(lambda report: report.footprint_bytes == 801 * MIB)
    assert full.needed_bytes == full.resident_bytes == 512 * MIB
    program.tell("check")
    assert program.said() == {"right": True}
    program.tell("end")
    program.end()


def test_a_quota_holds_for_managed_memory_too(relay: ScriptedRelay, run: Run) -> None:
    program = run("gpu = Gpu()\nsay(error=error_of(driver.cuMemAlloc(64 * MIB)))", **MANAGED)
    relay.client_with_plan(limit_bytes=32 * MIB, limited_by=Limit.LIMIT_QUOTA)
    assert program.said() == {"error": "CUDA_ERROR_OUT_OF_MEMORY"}
    program.end()


def test_the_bytes_of_freed_managed_memory_are_given_back(relay: ScriptedRelay, run: Run) -> None:
    program = run(
        """
        gpu = Gpu()
        held = gpu.allocate(64 * MIB)
        say(held=True)
        hear()
        ok(driver.cuMemFree(held))
        say(freed=error_of(driver.cuMemFree(held)))
        hear()
        """,
        **MANAGED,
    )
    client = relay.client_with_plan()
    program.said()
    client.report_where(lambda report: report.footprint_bytes == report.resident_bytes == 64 * MIB)
    since = len(client.reports)
    program.tell()
    assert program.said() == {"freed": "CUDA_ERROR_INVALID_VALUE"}
    gone = client.report_where(lambda report: report.footprint_bytes == 0, since)
    assert gone.needed_bytes == gone.resident_bytes == 0
    program.tell()
    program.end()
