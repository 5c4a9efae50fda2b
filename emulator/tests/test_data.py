"""Kernels and copies compute on real memory, in stream order."""

from emulator.tests.conftest import Cards


def test_kernels_compute(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        n = 4096
        x, y, z = (call(driver.cuMemAlloc, 4 * n) for _ in range(3))
        values = (ctypes.c_float * n)(*range(n))
        call(driver.cuMemcpyHtoD, x, ctypes.addressof(values), 4 * n)
        call(driver.cuMemcpyHtoD, y, ctypes.addressof(values), 4 * n)
        gpu.launch("add", z, x, y, n, 1, 1000)
        sums = (ctypes.c_float * n)()
        call(driver.cuMemcpyDtoH, ctypes.addressof(sums), z, 4 * n)
        print(json.dumps(list(sums) == [2.0 * i for i in range(n)]))
    """)
    assert found is True


def test_checksum_is_position_sensitive_and_reproducible_in_python(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        values = [(i * 2654435761) & 0xffffffff for i in range(1000)]
        p = call(driver.cuMemAlloc, 4000)
        def on_gpu(data, stride):
            buffer = (ctypes.c_uint32 * 1000)(*data)
            call(driver.cuMemcpyHtoD, p, ctypes.addressof(buffer), 4000)
            return gpu.checksum(p, 1000, stride)
        swapped = [values[1], values[0], *values[2:]]
        print(json.dumps({
            "equal": on_gpu(values, 1) == checksum_of(values), "strided": on_gpu(values, 7) == checksum_of(values, 7),
            "swapped": on_gpu(swapped, 1) == on_gpu(values, 1)}))
    """)
    assert found == {"equal": True, "strided": True, "swapped": False}


def test_a_stride_leaves_the_elements_between_untouched(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        p = call(driver.cuMemAlloc, 40)
        call(driver.cuMemsetD32, p, 5, 10)
        gpu.launch("fill", p, 10, 4, 9, 1000)
        out = (ctypes.c_uint32 * 10)()
        call(driver.cuMemcpyDtoH, ctypes.addressof(out), p, 40)
        print(json.dumps(list(out)))
    """)
    assert found == [9, 5, 5, 5, 9, 5, 5, 5, 9, 5]


def test_launch_parameters_travel_in_a_packed_buffer_too(cards: Cards) -> None:
    found = cards.run("""
        import struct
        gpu = Gpu()
        p = call(driver.cuMemAlloc, 4)
        block = ctypes.create_string_buffer(struct.pack("<QQQIxxxxQ", int(p), 1, 1, 77, 1000))
        size = ctypes.c_size_t(40)
        extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(block), 2, ctypes.addressof(size), 0)
        call(driver.cuLaunchKernel, gpu.kernels["fill"], 1, 1, 1, 1, 1, 1, 0, 0, 0, ctypes.addressof(extra))
        out = ctypes.c_uint32()
        call(driver.cuMemcpyDtoH, ctypes.addressof(out), p, 4)
        print(out.value)
    """)
    assert found == 77


def test_copies_and_fills_of_two_dimensions(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        p, pitch = call(driver.cuMemAllocPitch, 12, 3, 4)
        call(driver.cuMemsetD2D32, p, pitch, 6, 3, 3)
        copy = driver.CUDA_MEMCPY2D()
        out = (ctypes.c_uint32 * 9)()
        copy.srcMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcDevice, copy.srcPitch = p, pitch
        copy.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_HOST
        copy.dstHost, copy.dstPitch = ctypes.addressof(out), 12
        copy.WidthInBytes, copy.Height = 12, 3
        call(driver.cuMemcpy2D, copy)
        print(json.dumps(list(out)))
    """)
    assert found == [6] * 9


def test_a_pageable_source_may_change_after_an_asynchronous_copy_returns(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        stream = call(driver.cuStreamCreate, 1)
        p = call(driver.cuMemAlloc, 8)
        gpu.launch("spin", 20_000_000, stream=stream)
        value = ctypes.c_uint64(1)
        call(driver.cuMemcpyHtoDAsync, p, ctypes.addressof(value), 8, stream)
        value.value = 2
        call(driver.cuStreamSynchronize, stream)
        print(gpu.read_u64(p))
    """)
    assert found == 1


def test_an_event_orders_two_streams(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        first, second = call(driver.cuStreamCreate, 1), call(driver.cuStreamCreate, 1)
        event = call(driver.cuEventCreate, 2)
        p = call(driver.cuMemAlloc, 8)
        gpu.launch("spin", 20_000_000, stream=first)
        gpu.launch("fill", p, 1, 1, 1, 1000, stream=first)
        call(driver.cuEventRecord, event, first)
        call(driver.cuStreamWaitEvent, second, event, 0)
        gpu.launch("fill", p, 1, 1, 2, 1000, stream=second)
        call(driver.cuStreamSynchronize, second)
        print(gpu.read_u64(p) & 0xffffffff)
    """)
    assert found == 2


def test_the_legacy_stream_waits_for_blocking_streams_and_not_for_others(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        p = call(driver.cuMemAlloc, 8)
        def order(flags):
            call(driver.cuMemsetD8, p, 0, 8)
            stream = call(driver.cuStreamCreate, flags)
            host = (ctypes.c_uint64)()
            pinned = call(driver.cuMemHostAlloc, 8, 0)
            gpu.launch("spin", 60_000_000, stream=stream)
            start = time.monotonic()
            call(driver.cuMemcpyDtoH, ctypes.addressof(host), p, 8)
            waited = time.monotonic() - start
            call(driver.cuStreamSynchronize, stream)
            return waited > 0.05
        print(json.dumps([order(0), order(1)]))
    """)
    assert found == [True, False]


def test_a_host_function_runs_in_stream_order(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        stream = call(driver.cuStreamCreate, 1)
        p = call(driver.cuMemHostAlloc, 8, 0)
        q = call(driver.cuMemAlloc, 8)
        seen = []
        word = ctypes.c_uint32.from_address(int(p))
        callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: seen.append(word.value))
        gpu.launch("fill", q, 1, 1, 11, 10_000_000, stream=stream)
        call(driver.cuMemcpyDtoHAsync, p, q, 4, stream)
        call(driver.cuLaunchHostFunc, stream, ctypes.cast(callback, ctypes.c_void_p).value, 0)
        gpu.launch("fill", q, 1, 1, 12, 1000, stream=stream)
        call(driver.cuStreamSynchronize, stream)
        print(json.dumps(seen))
    """)
    assert found == [11]


def test_a_kernel_that_touches_freed_memory_is_a_sticky_error(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        p = call(driver.cuMemAlloc, 1024)
        call(driver.cuMemFree, p)
        gpu.launch("fill", p, 256, 1, 1, 1000)
        print(json.dumps([error_of(driver.cuCtxSynchronize), error_of(driver.cuMemAlloc, 8)]))
    """)
    assert found == [700, 700]


def test_a_stream_waits_for_a_value_that_the_host_writes(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        stream = call(driver.cuStreamCreate, 1)
        flag = call(driver.cuMemHostAlloc, 8, 0)
        word = ctypes.c_uint32.from_address(int(flag))
        call(driver.cuStreamWaitValue32, stream, int(flag), 5, driver.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_EQ)
        call(driver.cuStreamWriteValue32, stream, int(flag) + 4, 9, 0)
        waiting = error_of(driver.cuStreamQuery, stream)
        word.value = 5
        call(driver.cuStreamSynchronize, stream)
        print(json.dumps([waiting, ctypes.c_uint32.from_address(int(flag) + 4).value]))
    """)
    assert found == [600, 9]


def test_a_kernel_that_never_ends_holds_its_stream_and_no_other_process(cards: Cards) -> None:
    stuck = cards.start("""
        gpu = Gpu()
        gpu.launch("spin", (1 << 64) - 1)
        print("launched", flush=True)
        sys.stdin.readline()
    """)
    assert stuck.hear() == "launched"
    assert (
        cards.run("""
        gpu = Gpu()
        gpu.launch("spin", 5_000_000)
        print(error_of(driver.cuCtxSynchronize))
    """)
        == 0
    )


def test_a_batch_of_copies_runs_in_stream_order(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        stream = call(driver.cuStreamCreate, 1)
        p = int(call(driver.cuMemAlloc, 64))
        host = int(call(driver.cuMemHostAlloc, 64, 0))
        gpu.launch("fill", p, 16, 1, 8, 1000, stream=stream)
        order = driver.CUmemcpyAttributes()
        order.srcAccessOrder = driver.CUmemcpySrcAccessOrder.CU_MEMCPY_SRC_ACCESS_ORDER_STREAM
        targets = [driver.CUdeviceptr(host), driver.CUdeviceptr(host + 32)]
        sources = [driver.CUdeviceptr(p), driver.CUdeviceptr(p + 32)]
        call(driver.cuMemcpyBatchAsync, targets, sources, [32, 32], 2, [order], [0], 1, stream)
        call(driver.cuStreamSynchronize, stream)
        print(json.dumps(list((ctypes.c_uint32 * 16).from_address(host))))
    """)
    assert found == [8] * 16


def test_a_batch_of_memory_operations_happens_in_its_order(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        stream = call(driver.cuStreamCreate, 1)
        flag = int(call(driver.cuMemHostAlloc, 16, 0))
        words = (ctypes.c_uint32 * 4).from_address(flag)
        kind = driver.CUstreamBatchMemOpType
        def operation(name, address, value):
            made = driver.CUstreamBatchMemOpParams()
            made.operation = getattr(kind, "CU_STREAM_MEM_OP_" + name)
            part = made.waitValue if name.startswith("WAIT") else made.writeValue
            part.operation, part.address, part.value = made.operation, address, value
            if name.startswith("WAIT"):
                part.flags = int(driver.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_EQ)
            return made
        batch = [operation("WRITE_VALUE_32", flag, 1), operation("WAIT_VALUE_32", flag + 4, 5),
            operation("WRITE_VALUE_32", flag + 8, 9)]
        call(driver.cuStreamBatchMemOp, stream, 3, batch, 0)
        while words[0] != 1:
            pass
        before = [words[2], error_of(driver.cuStreamQuery, stream)]
        words[1] = 5
        call(driver.cuStreamSynchronize, stream)
        bad = [operation("WRITE_VALUE_32", flag, 2), operation("WRITE_VALUE_32", flag + 2, 2)]
        refused = error_of(driver.cuStreamBatchMemOp, stream, 2, bad, 0)
        print(json.dumps([before, words[2], refused, words[0]]))
    """)
    assert found == [[0, 600], 9, 1, 1]
