/* Stream-ordered allocation. A pool here keeps nothing back: an allocation takes its bytes at the call, and gives them
 * back when the stream has reached the free. That is what a pool with release threshold 0 shows after each
 * synchronisation. */
#include "pool.h"

#include <stdlib.h>
#include <string.h>

#include "capture.h"

#define POOL_MAGIC 0x504f4f31U

struct CUmemPoolHandle_st {
    uint32_t magic;
    struct emu_device *device;
    bool is_default;
    uint64_t release_threshold;
    uint64_t used_bytes;
    uint64_t used_high;
    uint32_t admitted; /* bit d: device d may reach its memory too */
    int reuse[3];      /* attributes that are remembered and have no effect */
};

static struct CUmemPoolHandle_st default_pools[EMU_MAX_CARDS];
static CUmemoryPool current_pools[EMU_MAX_CARDS];

static bool is_pool(CUmemoryPool pool) {
    return pool != NULL && pool->magic == POOL_MAGIC;
}

static CUmemoryPool default_pool(int ordinal) {
    struct CUmemPoolHandle_st *pool = &default_pools[ordinal];
    if (pool->magic == 0) {
        *pool = (struct CUmemPoolHandle_st){
            .magic = POOL_MAGIC, .device = &emu.devices[ordinal], .is_default = true, .reuse = {1, 1, 1}};
    }
    return pool;
}

static CUmemoryPool current_pool(int ordinal) {
    return current_pools[ordinal] != NULL ? current_pools[ordinal] : default_pool(ordinal);
}

static CUresult enter_ordinal(const void *target, int ordinal) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (target == NULL || ordinal < 0 || ordinal >= emu.device_count) {
        return emu_leave(target == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_DEVICE);
    }
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device) {
    CUresult result = enter_ordinal(pool, device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    *pool = default_pool(device);
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice device) {
    CUresult result = enter_ordinal(pool, device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    *pool = current_pool(device);
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuDeviceSetMemPool(CUdevice device, CUmemoryPool pool) {
    CUresult result = enter_ordinal(pool, device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!is_pool(pool) || pool->device != &emu.devices[device]) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    current_pools[device] = pool;
    return emu_leave(CUDA_SUCCESS);
}

static CUresult location_ordinal(const CUmemLocation *location, CUmemAllocationType type, int *ordinal) {
    if (location == NULL || type != CU_MEM_ALLOCATION_TYPE_PINNED) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *ordinal = location->id;
    return location->type == CU_MEM_LOCATION_TYPE_DEVICE ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
}

EMU_EXPORT CUresult CUDAAPI cuMemGetDefaultMemPool(CUmemoryPool *pool, CUmemLocation *location,
                                                   CUmemAllocationType type) {
    int ordinal = 0;
    CUresult result = location_ordinal(location, type, &ordinal);
    return result != CUDA_SUCCESS ? result : cuDeviceGetDefaultMemPool(pool, ordinal);
}

EMU_EXPORT CUresult CUDAAPI cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type) {
    int ordinal = 0;
    CUresult result = location_ordinal(location, type, &ordinal);
    return result != CUDA_SUCCESS ? result : cuDeviceGetMemPool(pool, ordinal);
}

EMU_EXPORT CUresult CUDAAPI cuMemSetMemPool(CUmemLocation *location, CUmemAllocationType type, CUmemoryPool pool) {
    int ordinal = 0;
    CUresult result = location_ordinal(location, type, &ordinal);
    return result != CUDA_SUCCESS ? result : cuDeviceSetMemPool(ordinal, pool);
}

EMU_EXPORT CUresult CUDAAPI cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *properties) {
    CUresult result = enter_ordinal(pool, properties == NULL ? -1 : properties->location.id);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (properties->allocType != CU_MEM_ALLOCATION_TYPE_PINNED ||
        properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    if (properties->handleTypes != CU_MEM_HANDLE_TYPE_NONE) {
        return emu_leave(CUDA_ERROR_NOT_SUPPORTED);
    }
    CUmemoryPool made = calloc(1, sizeof *made);
    if (made == NULL) {
        return emu_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    *made = (struct CUmemPoolHandle_st){
        .magic = POOL_MAGIC, .device = &emu.devices[properties->location.id], .reuse = {1, 1, 1}};
    *pool = made;
    return emu_leave(CUDA_SUCCESS);
}

static CUresult enter_pool(CUmemoryPool pool) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    return is_pool(pool) ? CUDA_SUCCESS : emu_leave(CUDA_ERROR_INVALID_VALUE);
}

EMU_EXPORT CUresult CUDAAPI cuMemPoolDestroy(CUmemoryPool pool) {
    CUresult result = enter_pool(pool);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (pool->is_default || pool->used_bytes > 0) {
        return emu_leave(pool->is_default ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_NOT_PERMITTED);
    }
    ptrdiff_t ordinal = pool->device - emu.devices;
    if (current_pools[ordinal] == pool) {
        current_pools[ordinal] = NULL;
    }
    pool->magic = 0;
    free(pool);
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuMemPoolTrimTo(CUmemoryPool pool, size_t bytes) {
    (void)bytes;
    CUresult result = enter_pool(pool);
    return result != CUDA_SUCCESS ? result : emu_leave(CUDA_SUCCESS);
}

/* What an attribute reads and writes. */
struct attribute {
    void *value;
    size_t bytes;
    enum { FREELY, TO_ZERO, NEVER } settable; /* TO_ZERO: a peak begins anew */
};

static bool find_attribute(CUmemoryPool pool, CUmemPool_attribute attribute, struct attribute *found) {
    switch (attribute) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
        *found = (struct attribute){&pool->reuse[attribute - CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES],
                                    sizeof pool->reuse[0], FREELY};
        return true;
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        *found = (struct attribute){&pool->release_threshold, sizeof pool->release_threshold, FREELY};
        return true;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
        *found = (struct attribute){&pool->used_bytes, sizeof pool->used_bytes, NEVER};
        return true;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        *found = (struct attribute){&pool->used_high, sizeof pool->used_high, TO_ZERO};
        return true;
    default:
        return false;
    }
}

static CUresult enter_attribute(CUmemoryPool pool, CUmemPool_attribute attribute, const void *value,
                                struct attribute *found) {
    CUresult result = enter_pool(pool);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    return value != NULL && find_attribute(pool, attribute, found) ? CUDA_SUCCESS : emu_leave(CUDA_ERROR_INVALID_VALUE);
}

EMU_EXPORT CUresult CUDAAPI cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value) {
    struct attribute found;
    CUresult result = enter_attribute(pool, attribute, value, &found);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    memcpy(value, found.value, found.bytes);
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value) {
    struct attribute found;
    CUresult result = enter_attribute(pool, attribute, value, &found);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (found.settable == FREELY) {
        memcpy(found.value, value, found.bytes);
    } else if (found.settable == TO_ZERO && *(const cuuint64_t *)value == 0) {
        pool->used_high = pool->used_bytes;
    } else {
        result = CUDA_ERROR_INVALID_VALUE;
    }
    return emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *descriptions, size_t count) {
    CUresult result = enter_pool(pool);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (descriptions == NULL || count == 0) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    for (size_t index = 0; index < count; index++) {
        const CUmemLocation *location = &descriptions[index].location;
        if (location->type != CU_MEM_LOCATION_TYPE_DEVICE || location->id < 0 || location->id >= emu.device_count) {
            return emu_leave(CUDA_ERROR_INVALID_DEVICE);
        }
    }
    for (size_t index = 0; index < count; index++) {
        uint32_t bit = 1U << descriptions[index].location.id;
        bool admits = descriptions[index].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
        pool->admitted = admits ? pool->admitted | bit : pool->admitted & ~bit;
    }
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool pool, CUmemLocation *location) {
    CUresult result = enter_pool(pool);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (flags == NULL || location == NULL || location->type != CU_MEM_LOCATION_TYPE_DEVICE || location->id < 0 ||
        location->id >= emu.device_count) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    const struct emu_device *device = &emu.devices[location->id];
    *flags = device == pool->device || emu_pool_admits(pool, device) ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                                                                     : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    return emu_leave(CUDA_SUCCESS);
}

bool emu_pool_admits(CUmemoryPool pool, const struct emu_device *device) {
    return ((pool->admitted >> (device - emu.devices)) & 1) != 0;
}

CUresult emu_pool_allocate(CUdeviceptr *pointer, size_t bytes, CUmemoryPool pool, CUstream handle) {
    CUcontext context = NULL;
    CUstream stream = NULL;
    CUresult result = emu_enter_stream(handle, &context, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (pointer == NULL || bytes == 0) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    if (emu_stream_is_capturing(stream)) {
        return emu_leave(emu_capture_refuse(stream)); /* allocation nodes are not emulated */
    }
    CUmemoryPool chosen = pool != NULL ? pool : current_pool((int)(stream->context->device - emu.devices));
    if (!is_pool(chosen) || chosen->device != stream->context->device) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    result = emu_memory_allocate(stream->context, bytes, chosen, pointer);
    if (result == CUDA_ERROR_OUT_OF_MEMORY) {
        emu_wait_context(stream->context); /* frees that are still to come may make room */
        result = emu_memory_allocate(stream->context, bytes, chosen, pointer);
    }
    if (result == CUDA_SUCCESS) {
        chosen->used_bytes += bytes;
        chosen->used_high = chosen->used_bytes > chosen->used_high ? chosen->used_bytes : chosen->used_high;
    }
    return emu_leave(result);
}

void emu_pool_returned(CUmemoryPool pool, uint64_t bytes) {
    pool->used_bytes -= bytes;
}

static bool free_in_order(void *argument) {
    const struct emu_range *range = emu_range_find((uint64_t)(uintptr_t)argument);
    if (range != NULL && range->start == (uint64_t)(uintptr_t)argument) {
        emu_memory_free_range(range);
    }
    return true;
}

CUresult emu_pool_free(CUdeviceptr pointer, CUstream handle) {
    CUcontext context = NULL;
    CUstream stream = NULL;
    CUresult result = emu_enter_stream(handle, &context, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    const struct emu_range *range = emu_range_find(pointer);
    if (pointer == 0) {
        return emu_leave(CUDA_SUCCESS);
    }
    if (range == NULL || range->start != pointer || range->kind != EMU_RANGE_DEVICE) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    if (emu_stream_is_capturing(stream)) {
        return emu_leave(emu_capture_refuse(stream));
    }
    return emu_leave(emu_stream_append_call(stream, free_in_order, (void *)(uintptr_t)pointer));
}
