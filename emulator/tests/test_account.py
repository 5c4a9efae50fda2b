"""The card's own account of its capacity, now and the most that ever was, and of who woke it."""

from typing import Any

from emulator.tests.conftest import Cards

CONTEXT_BYTES = 128 << 20
GIB = 1 << 30
HOLDER = """
    gpu = Gpu()
    call(driver.cuMemAlloc, {linear})
    properties = driver.CUmemAllocationProp()
    properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    handle = call(driver.cuMemCreate, {handles}, properties, 0)
    print("holding", flush=True)
    sys.stdin.readline()
    call(driver.cuMemRelease, handle)
    print("less", flush=True)
    sys.stdin.readline()
"""


def look(cards: Cards, expression: str) -> Any:
    return cards.run(f"from nvshare.emulator import account\nprint(json.dumps({expression}))")


def test_it_tells_contexts_linear_memory_and_handles_apart(cards: Cards) -> None:
    holder = cards.start(HOLDER.format(linear=GIB, handles=2 * GIB))
    assert holder.hear() == "holding"
    found = look(
        cards, "[[a.pid, a.used_bytes, a.context_bytes, a.linear_bytes, a.handle_bytes] for a in account.accounts()]"
    )
    assert found == [[holder.pid, 3 * GIB + CONTEXT_BYTES, CONTEXT_BYTES, GIB, 2 * GIB]]


def test_its_peaks_stay_when_memory_is_given_back(cards: Cards) -> None:
    holder = cards.start(HOLDER.format(linear=GIB, handles=2 * GIB))
    assert holder.hear() == "holding"
    holder.say("give back")
    assert holder.hear() == "less"
    found = look(
        cards,
        "[(t := account.totals()).used_bytes, t.peak_bytes, t.memory_bytes, t.peak_memory_bytes]",
    )
    assert found == [GIB + CONTEXT_BYTES, 3 * GIB + CONTEXT_BYTES, GIB, 3 * GIB]


def test_its_peaks_count_all_processes_and_none_that_is_dead(cards: Cards) -> None:
    holders = [cards.start(HOLDER.format(linear=4 * GIB, handles=GIB)) for _ in range(2)]
    for holder in holders:
        assert holder.hear() == "holding"
    holders[0].kill()
    assert cards.start(HOLDER.format(linear=4 * GIB, handles=GIB)).hear() == "holding"
    assert look(cards, "account.totals().peak_memory_bytes") == 10 * GIB


def test_its_peaks_begin_anew_on_request(cards: Cards) -> None:
    holder = cards.start(HOLDER.format(linear=GIB, handles=2 * GIB))
    assert holder.hear() == "holding"
    holder.say("give back")
    assert holder.hear() == "less"
    found = look(cards, "[account.reset_peaks(), account.totals().peak_bytes, account.totals().peak_memory_bytes]")
    assert found == [None, GIB + CONTEXT_BYTES, GIB]


def test_it_counts_how_often_something_came_while_it_had_nothing_of_the_process(cards: Cards) -> None:
    program = cards.run(
        """
        from nvshare.emulator import account

        gpu = Gpu()
        event = call(driver.cuEventCreate, 0)
        wakes = []

        def note():
            wakes.append(account.accounts()[0].wakes)

        for _ in range(3):
            gpu.launch("spin", 50_000_000)
        call(driver.cuEventRecord, event, 0)
        note()
        call(driver.cuCtxSynchronize)
        note()
        call(driver.cuEventRecord, event, 0)
        note()
        gpu.launch("spin", 50_000_000)
        note()
        print(json.dumps(wakes))
        """
    )
    assert program == [1, 1, 2, 3]
