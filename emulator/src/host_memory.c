/* Pinned, registered and managed host memory. */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "driver.h"

#include "capture.h"
#include "entry_points.h"
#include "managed.h"

#define HOST_WINDOW_BYTES (64ULL << 30)
#define PAGE_BYTES 4096ULL

static struct emu_arena *host_arena(void) {
    static struct emu_arena host;
    static bool ready;
    if (!ready) {
        ready = emu_arena_init(&host, "nvshare-emulator-host", HOST_WINDOW_BYTES);
    }
    return ready ? &host : NULL;
}

/* ---- Host memory
 * ----------------------------------------------------------------------------------------------------- */

static CUresult allocate_host(CUcontext context, uint64_t bytes, enum emu_range_kind kind, unsigned flags,
                              uint64_t *start) {
    struct emu_arena *arena = host_arena();
    uint64_t offset = 0;
    uint64_t new_bytes = 0;
    if (arena == NULL || !emu_arena_take(arena, bytes, &offset, &new_bytes)) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    struct emu_range range = {.start = (uint64_t)(uintptr_t)arena->base + offset,
                              .bytes = bytes,
                              .kind = kind,
                              .device = context->device,
                              .context = context,
                              .arena = arena,
                              .backing = arena->descriptor,
                              .offset = offset,
                              .flags = flags};
    if (kind == EMU_RANGE_MANAGED && !emu_managed_attach(&range)) {
        emu_arena_give(arena, offset);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (emu_range_add(&range) == NULL) {
        if (kind == EMU_RANGE_MANAGED) {
            emu_managed_detach(&range);
        }
        emu_arena_give(arena, offset);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *start = range.start;
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (pointer == NULL || bytes == 0) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    uint64_t start = 0;
    result = emu_capture_check_unsafe();
    if (result == CUDA_SUCCESS) {
        result = allocate_host(context, bytes, EMU_RANGE_PINNED, flags, &start);
    }
    if (result == CUDA_SUCCESS) {
        *pointer = (void *)(uintptr_t)start;
    }
    return emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuMemAllocHost(void **pointer, size_t bytes) {
    return cuMemHostAlloc(pointer, bytes, 0);
}

EMU_EXPORT CUresult CUDAAPI cuMemFreeHost(void *pointer) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    const struct emu_range *range = emu_range_find((uint64_t)(uintptr_t)pointer);
    if (range == NULL || range->kind != EMU_RANGE_PINNED || range->start != (uint64_t)(uintptr_t)pointer) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    result = emu_capture_check_unsafe();
    if (result != CUDA_SUCCESS) {
        return emu_leave(result);
    }
    result = emu_wait_context(range->context);
    range = emu_range_find((uint64_t)(uintptr_t)pointer);
    if (range != NULL) {
        emu_memory_free_range(range);
    }
    return emu_leave(result);
}

/* Memory that is to come in huge pages would take 2 MiB of the host for each byte of sparse data. Huge pages that are
 * there already stay; that the kernel knows none is no error. */
static void keep_sparse(uint64_t start, uint64_t bytes) {
    uint64_t first = (start + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
    uint64_t end = (start + bytes) & ~(PAGE_BYTES - 1);
    if (first < end) {
        (void)madvise((void *)(uintptr_t)first, end - first, MADV_NOHUGEPAGE);
    }
}

EMU_EXPORT CUresult CUDAAPI cuMemHostRegister(void *pointer, size_t bytes, unsigned flags) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    uint64_t start = (uint64_t)(uintptr_t)pointer;
    if (pointer == NULL || bytes == 0) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    result = emu_capture_check_unsafe();
    if (result == CUDA_SUCCESS && emu_range_overlaps(start, bytes)) {
        result = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    }
    struct emu_range range = {.start = start,
                              .bytes = bytes,
                              .kind = EMU_RANGE_REGISTERED,
                              .backing = EMU_NO_BACKING,
                              .device = context->device,
                              .context = context,
                              .flags = flags};
    if (result == CUDA_SUCCESS && emu_range_add(&range) == NULL) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result == CUDA_SUCCESS) {
        keep_sparse(start, bytes);
    }
    return emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuMemHostUnregister(void *pointer) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    const struct emu_range *range = emu_range_find((uint64_t)(uintptr_t)pointer);
    if (range == NULL || range->kind != EMU_RANGE_REGISTERED || range->start != (uint64_t)(uintptr_t)pointer) {
        return emu_leave(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    }
    result = emu_wait_context(range->context);
    emu_range_remove((uint64_t)(uintptr_t)pointer);
    return emu_leave(result);
}

static CUresult host_range(const void *pointer, const struct emu_range **range) {
    *range = emu_range_find((uint64_t)(uintptr_t)pointer);
    bool is_host = *range != NULL && ((*range)->kind == EMU_RANGE_PINNED || (*range)->kind == EMU_RANGE_REGISTERED);
    return is_host ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

EMU_EXPORT CUresult CUDAAPI cuMemHostGetDevicePointer(CUdeviceptr *device_pointer, void *pointer, unsigned flags) {
    const struct emu_range *range = NULL;
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = device_pointer == NULL || flags != 0 ? CUDA_ERROR_INVALID_VALUE : host_range(pointer, &range);
    if (result == CUDA_SUCCESS) {
        *device_pointer = (CUdeviceptr)(uintptr_t)pointer;
    }
    return emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuMemHostGetFlags(unsigned *flags, void *pointer) {
    const struct emu_range *range = NULL;
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = flags == NULL ? CUDA_ERROR_INVALID_VALUE : host_range(pointer, &range);
    if (result == CUDA_SUCCESS) {
        *flags = range->flags | CU_MEMHOSTALLOC_DEVICEMAP;
    }
    return emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuMemAllocManaged(CUdeviceptr *pointer, size_t bytes, unsigned flags) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (pointer == NULL || bytes == 0 || (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    uint64_t start = 0;
    result = emu_capture_check_unsafe();
    if (result == CUDA_SUCCESS) {
        result = allocate_host(context, bytes, EMU_RANGE_MANAGED, flags, &start);
    }
    if (result == CUDA_SUCCESS) {
        *pointer = start;
    }
    return emu_leave(result);
}
