"""Managed memory: where it is costs time, and on the card it takes the card's memory."""

import pytest
from emulator.tests.conftest import Cards

GB_S = 1e9
MANAGED = """
    gpu = Gpu()
    advice, kinds = driver.CUmem_advise, driver.CUmemLocationType
    def location(on_host):
        found = driver.CUmemLocation()
        found.type = kinds.CU_MEM_LOCATION_TYPE_HOST if on_host else kinds.CU_MEM_LOCATION_TYPE_DEVICE
        found.id = 0
        return found
    HOST, CARD = location(True), location(False)
    start, end = (call(driver.cuEventCreate, 0) for _ in range(2))
    def seconds(work):
        gpu.launch("spin", 20_000_000)  # so that the host's own pace does not count
        call(driver.cuEventRecord, start, 0)
        work()
        call(driver.cuEventRecord, end, 0)
        call(driver.cuCtxSynchronize)
        return call(driver.cuEventElapsedTime, start, end) / 1e3
    def kernel(pointer, size):
        return seconds(lambda: gpu.launch("fill", pointer, size // 4, 1 << 18, 3, 1000))
    def prefetch(pointer, size, where):
        return seconds(lambda: call(driver.cuMemPrefetchAsync, pointer, size, where, 0, 0))
    def free():
        return call(driver.cuMemGetInfo)[0]
"""


def test_prefetching_takes_the_measured_time_each_way_and_none_when_it_is_there(cards: Cards) -> None:
    found = cards.run(
        MANAGED
        + """
    size = GIB
    p = call(driver.cuMemAllocManaged, size, 1)
    kernel(p, size)
    print(json.dumps([prefetch(p, size, where) for where in (HOST, CARD, CARD)]))
    """
    )
    assert found == [
        pytest.approx((1 << 30) / (12 * GB_S), rel=0.02),
        pytest.approx((1 << 30) / (50 * GB_S), rel=0.02),
        pytest.approx(0.0, abs=0.001),
    ]


def test_a_kernel_faults_away_memory_in_once(cards: Cards) -> None:
    found = cards.run(
        MANAGED
        + """
    size = GIB
    p = call(driver.cuMemAllocManaged, size, 1)
    first = kernel(p, size)
    prefetch(p, size, HOST)
    print(json.dumps([first, kernel(p, size), kernel(p, size)]))
    """
    )
    assert found == [
        pytest.approx(0.0, abs=0.005),
        pytest.approx((1 << 30) / (10 * GB_S), rel=0.05),
        pytest.approx(0.0, abs=0.005),
    ]


def test_memory_preferred_on_the_host_stays_slow_until_the_advice_is_reset_e1(cards: Cards) -> None:
    found = cards.run(
        MANAGED
        + """
    size = GIB
    p = call(driver.cuMemAllocManaged, size, 1)
    call(driver.cuMemAdvise, p, size, advice.CU_MEM_ADVISE_SET_PREFERRED_LOCATION, HOST)
    prefetch(p, size, HOST)
    slow = [kernel(p, size) for _ in range(3)]
    call(driver.cuMemAdvise, p, size, advice.CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CARD)
    prefetch(p, size, CARD)
    print(json.dumps([min(slow), kernel(p, size)]))
    """
    )
    assert found[0] > 0.02
    assert found[1] < 0.005


def test_it_takes_the_cards_memory_while_it_is_there(cards: Cards) -> None:
    found = cards.run(
        MANAGED
        + """
    size = GIB
    before = free()
    p = call(driver.cuMemAllocManaged, size, 1)
    taken = [before - free()]
    kernel(p, size)
    taken.append(before - free())
    prefetch(p, size // 2, HOST)
    taken.append(before - free())
    call(driver.cuMemFree, p)
    print(json.dumps([*taken, before - free()]))
    """
    )
    assert found == [0, 1 << 30, 1 << 29, 0]


def test_more_than_the_card_has_goes_round_and_keeps_its_data(cards: Cards) -> None:
    cards.configure(memory="1GiB")
    found = cards.run(
        MANAGED
        + """
    size = 640 * MIB
    p, q = (call(driver.cuMemAllocManaged, size, 1) for _ in range(2))
    kernel(p, size)
    kernel(q, size)
    slow = kernel(p, size)
    n = size // 4
    print(json.dumps([slow, gpu.checksum(p, n, 1 << 18) == gpu.checksum(q, n, 1 << 18) > 0, free() >= 0]))
    """
    )
    assert found[0] > (256 << 20) / (12 * GB_S)
    assert found[1:] == [True, True]


def test_memory_that_the_host_wrote_comes_to_the_card_by_faults(cards: Cards) -> None:
    found = cards.run(
        MANAGED
        + """
    size = 64 * MIB
    p = call(driver.cuMemAllocManaged, size, 1)
    ctypes.memset(int(p), 1, size)
    print(json.dumps([kernel(p, size), gpu.read_u64(int(p) + 8) & 0xff]))
    """
    )
    assert found == [pytest.approx((64 << 20) / (10 * GB_S), rel=0.1), 1]


def test_ranges_tell_what_was_advised_and_prefetched(cards: Cards) -> None:
    found = cards.run(
        MANAGED
        + """
    size = 8 * MIB
    p = call(driver.cuMemAllocManaged, size, 1)
    kind = driver.CUmem_range_attribute
    def get(attribute, bytes=size):
        return int(call(driver.cuMemRangeGetAttribute, 4, attribute, p, bytes))
    before = [get(kind.CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION), get(kind.CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY)]
    call(driver.cuMemAdvise, p, size // 2, advice.CU_MEM_ADVISE_SET_PREFERRED_LOCATION, HOST)
    call(driver.cuMemAdvise, p, size, advice.CU_MEM_ADVISE_SET_READ_MOSTLY, HOST)
    prefetch(p, size, CARD)
    print(json.dumps([before, get(kind.CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION, size // 2),
        get(kind.CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION), get(kind.CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY),
        get(kind.CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION)]))
    """
    )
    assert found == [[-2, 0], -1, -2, 1, 0]


def test_advice_and_prefetch_of_other_memory_are_refused(cards: Cards) -> None:
    found = cards.run(
        MANAGED
        + """
    p = call(driver.cuMemAlloc, MIB)
    print(json.dumps([error_of(driver.cuMemAdvise, p, MIB, advice.CU_MEM_ADVISE_SET_PREFERRED_LOCATION, HOST),
        error_of(driver.cuMemPrefetchAsync, p, MIB, HOST, 0, 0)]))
    """
    )
    assert found == [1, 1]
