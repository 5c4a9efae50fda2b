"""The card's time: kernels take what they should, clients share as they do on the H200 (measurements-h200.md)."""

import time

import pytest
from emulator.tests.conftest import Cards

pytestmark = pytest.mark.alone

BUSY = """
    gpu = Gpu()
    if {timeslice_us} is not None:
        gpu.set_timeslice({timeslice_us})
    print("ready", flush=True)
    start, end = (float(word) for word in sys.stdin.readline().split())
    time.sleep(max(0.0, start - time.monotonic()))
    busy_until(gpu, end)
    print(json.dumps(os.getpid()))
"""


def shares(cards: Cards, *timeslices_us: int | None, seconds: float = 0.8) -> list[float]:
    """Let clients keep the card busy side by side; return each one's share of the time in which all were busy."""
    programs = [cards.start(BUSY.format(timeslice_us=timeslice)) for timeslice in timeslices_us]
    for program in programs:
        assert program.hear() == "ready"
    start = time.monotonic() + 0.1
    for program in programs:
        program.say(f"{start} {start + seconds + 0.3}")
    pids = [program.result() for program in programs]
    turns = cards.run("""
        from nvshare.emulator import account
        print(json.dumps([[turn.pid, turn.start_ns, turn.end_ns] for turn in account.turns()]))
    """)
    begin_ns, end_ns = (start + 0.2) * 1e9, (start + 0.2 + seconds) * 1e9
    return [
        sum(max(0, min(last, end_ns) - max(first, begin_ns)) for pid, first, last in turns if pid == wanted)
        / (end_ns - begin_ns)
        for wanted in pids
    ]


def test_a_lone_client_reaches_its_modelled_rate(cards: Cards) -> None:
    assert shares(cards, None)[0] >= 0.99


def test_two_busy_clients_keep_nine_tenths_in_sum(cards: Cards) -> None:
    first, second = shares(cards, None, None)
    assert first + second == pytest.approx(0.90, abs=0.02)
    assert first == pytest.approx(second, abs=0.02)


def test_long_slices_give_most_of_the_loss_back(cards: Cards) -> None:
    assert sum(shares(cards, 20_000, 20_000)) == pytest.approx(0.989, abs=0.012)


def test_slices_of_one_to_two_give_shares_of_one_to_two(cards: Cards) -> None:
    first, second = shares(cards, 3_000, 6_000)
    assert second / first == pytest.approx(2.0, abs=0.06)
    assert first + second == pytest.approx(0.956, abs=0.02)


def test_a_client_at_the_floor_beside_a_long_slice_hardly_runs(cards: Cards) -> None:
    first, floor = shares(cards, 20_000, 0)
    assert first >= 0.95
    assert floor < 0.01


def test_a_client_at_the_floor_that_is_alone_pays_nothing(cards: Cards) -> None:
    assert shares(cards, 1)[0] >= 0.99


def test_event_times_of_back_to_back_kernels_are_exact(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        stream = call(driver.cuStreamCreate, 1)
        events = [call(driver.cuEventCreate, 0) for _ in range(5)]
        gpu.launch("spin", 5_000_000, stream=stream)
        for event in events:
            call(driver.cuEventRecord, event, stream)
            gpu.launch("spin", 543_210, stream=stream)
        call(driver.cuStreamSynchronize, stream)
        print(json.dumps([call(driver.cuEventElapsedTime, a, b) for a, b in zip(events, events[1:])]))
    """)
    assert found == [pytest.approx(0.543210, abs=0.0002)] * 4


def test_a_kernel_without_a_duration_takes_its_bytes_at_the_memory_rate(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        n = 14000 * 14000
        x = call(driver.cuMemAlloc, 4 * n)
        start, end = (call(driver.cuEventCreate, 0) for _ in range(2))
        gpu.launch("spin", 2_000_000)
        call(driver.cuEventRecord, start, 0)
        gpu.launch("add", x, x, x, n, 1 << 22, 0)
        call(driver.cuEventRecord, end, 0)
        call(driver.cuCtxSynchronize)
        print(call(driver.cuEventElapsedTime, start, end))
    """)
    assert found == pytest.approx(3 * 14000 * 14000 * 4 / 4.25e12 * 1e3, rel=0.001)


def test_a_pinned_copy_takes_the_links_time(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        size = 64 * MIB
        stream = call(driver.cuStreamCreate, 1)
        device = call(driver.cuMemAlloc, size)
        host = call(driver.cuMemHostAlloc, size, 0)
        start, end = (call(driver.cuEventCreate, 0) for _ in range(2))
        gpu.launch("spin", 20_000_000, stream=stream)
        call(driver.cuEventRecord, start, stream)
        call(driver.cuMemcpyDtoHAsync, host, device, size, stream)
        call(driver.cuEventRecord, end, stream)
        call(driver.cuStreamSynchronize, stream)
        print(call(driver.cuEventElapsedTime, start, end))
    """)
    assert found == pytest.approx((64 << 20) / 55.3e9 * 1e3, rel=0.001)


def test_a_pageable_copy_takes_four_times_as_long_at_least(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        size = 64 * MIB
        device = call(driver.cuMemAlloc, size)
        host = ctypes.create_string_buffer(size)
        begin = time.monotonic()
        call(driver.cuMemcpyDtoH, ctypes.addressof(host), device, size)
        print(time.monotonic() - begin)
    """)
    assert found >= (64 << 20) / (55.3e9 / 4)


def test_copies_in_both_directions_overlap_each_other_and_kernels(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        size = 512 * MIB
        p, q = call(driver.cuMemAlloc, size), call(driver.cuMemAlloc, size)
        a, b = call(driver.cuMemHostAlloc, size, 0), call(driver.cuMemHostAlloc, size, 0)
        streams = [call(driver.cuStreamCreate, 1) for _ in range(3)]
        begin = time.monotonic()
        call(driver.cuMemcpyHtoDAsync, p, a, size, streams[0])
        call(driver.cuMemcpyDtoHAsync, b, q, size, streams[1])
        gpu.launch("spin", 9_000_000, stream=streams[2])
        call(driver.cuCtxSynchronize)
        print(time.monotonic() - begin)
    """)
    assert (512 << 20) / 55.3e9 <= found < 1.7 * (512 << 20) / 55.3e9


def test_waiting_costs_little_processor_time(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        stream = call(driver.cuStreamCreate, 1)
        for _ in range(1000):
            gpu.launch("spin", 540_000, stream=stream)
        before = time.process_time()
        call(driver.cuStreamSynchronize, stream)
        print(time.process_time() - before)
    """)
    assert found < 0.05


def test_two_processes_share_a_links_speed(cards: Cards) -> None:
    programs = [
        cards.start("""
            gpu = Gpu()
            size = GIB
            p, host = call(driver.cuMemAlloc, size), call(driver.cuMemHostAlloc, size, 0)
            stream = call(driver.cuStreamCreate, 1)
            print("ready", flush=True)
            sys.stdin.readline()
            begin = time.monotonic()
            for _ in range(8):
                call(driver.cuMemcpyDtoHAsync, host, p, size, stream)
            call(driver.cuStreamSynchronize, stream)
            print((time.monotonic() - begin) / 8)
        """)
        for _ in range(2)
    ]
    for program in programs:
        assert program.hear() == "ready"
    for program in programs:
        program.say("go")
    alone_seconds = (1 << 30) / 55.3e9
    for program in programs:
        assert program.result() > 1.6 * alone_seconds
