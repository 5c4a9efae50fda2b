#include "memory.h"

#include "capture.h"
#include "control.h"
#include "device.h"
#include "extent.h"
#include "footprint.h"
#include "host_reserve.h"
#include "library.h"
#include "log.h"
#include "mempool.h"
#include "stream.h"
#include "swap.h"

#include <string.h>
#include <time.h>

// Addresses a byte of the card, so that what is left between blocks does not matter.
#define NVS_ADDRESSES_FACTOR 6u

// How long an allocation that the plan allows is tried again while the card has no room, and how often.
#define NVS_FULL_NS UINT64_C(3000000000)
#define NVS_FULL_LOOK_NS UINT64_C(20000000)

// Identities of blocks begin where the driver's own do not reach.
#define NVS_IDENTITY_FIRST (UINT64_C(1) << 48)

void nvs_memory_reset(struct nvs_memory *memory) {
    // What a parent's arena consists of is left where it is: another thread may have been changing it.
    memset(memory, 0, sizeof(*memory));
    pthread_mutex_init(&memory->lock, NULL);
}

static bool nvs_device_has(const struct nvs_device *device, CUdevice_attribute attribute) {
    int value = 0;
    return nvs_real.cuDeviceGetAttribute != NULL &&
           nvs_real.cuDeviceGetAttribute(&value, attribute, device->ordinal) == CUDA_SUCCESS && value != 0;
}

// Caller holds the memory's lock.
static void nvs_memory_open(struct nvs_device *device) {
    struct nvs_memory *memory = &device->memory;
    if (nvs_real.cuMemAddressReserve == NULL || nvs_real.cuMemMap == NULL || device->total_bytes == UINT64_MAX ||
        !nvs_device_has(device, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED)) {
        nvs_log(NVS_LOG_INFO, "%s has no virtual memory management: its memory stays where it is", device->uuid);
        return;
    }
    memory->exports = nvs_device_has(device, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
    memory->rdma = nvs_device_has(device, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED);
    uint64_t bytes = (device->total_bytes + NVS_EXTENT_MAX_BYTES) / NVS_EXTENT_MAX_BYTES * NVS_EXTENT_MAX_BYTES;
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    CUdeviceptr address = 0;
    for (bytes *= NVS_ADDRESSES_FACTOR; bytes >= NVS_EXTENT_MAX_BYTES && result != CUDA_SUCCESS; bytes /= 2) {
        result = nvs_real.cuMemAddressReserve(&address, bytes, NVS_GRANULE_BYTES, 0, 0);
        if (result == CUDA_SUCCESS && nvs_arena_open(&memory->arena, address, bytes)) {
            memory->identity = NVS_IDENTITY_FIRST * ((uint64_t)device->ordinal + 1);
            atomic_store_explicit(&memory->address, address, memory_order_relaxed);
            atomic_store_explicit(&memory->bytes, bytes, memory_order_release);
            return;
        }
    }
    nvs_log(NVS_LOG_WARN, "%s: no addresses for its memory: it stays where it is", device->uuid);
}

bool nvs_memory_ready(struct nvs_device *device) {
    struct nvs_memory *memory = &device->memory;
    if (atomic_load_explicit(&memory->bytes, memory_order_acquire) != 0)
        return true;
    pthread_mutex_lock(&memory->lock);
    if (!memory->tried)
        nvs_memory_open(device);
    memory->tried = true;
    pthread_mutex_unlock(&memory->lock);
    return atomic_load_explicit(&memory->bytes, memory_order_acquire) != 0;
}

struct nvs_device *nvs_memory_device_of(CUdeviceptr address) {
    for (size_t i = 0; i < nvs_device_count(); i++) {
        struct nvs_memory *memory = &nvs_devices[i].memory;
        uint64_t bytes = atomic_load_explicit(&memory->bytes, memory_order_acquire);
        if (address - atomic_load_explicit(&memory->address, memory_order_relaxed) < bytes)
            return &nvs_devices[i];
    }
    return NULL;
}

// ---- Extents come and go. Callers hold the memory's lock.

// Nobody knows what is at these addresses: a block that no program has keeps others off them, and the mover.
static void nvs_memory_abandon(struct nvs_device *device, struct nvs_extent *extent) {
    struct nvs_block *block = nvs_arena_add_block(&device->memory.arena, extent->address, extent->bytes);
    if (block != NULL)
        block->ending = true;
    else
        nvs_log_once(NVS_LOG_ERROR, "no host memory to keep addresses from being used");
    pthread_mutex_lock(&device->lock);
    device->present_bytes += extent->place == NVS_EXTENT_AWAY ? extent->bytes : 0;
    device->pinned_bytes += extent->bytes;
    pthread_mutex_unlock(&device->lock);
    extent->place = NVS_EXTENT_PRESENT;
    extent->pins++;
}

void nvs_memory_trim(struct nvs_device *device, uint64_t from, uint64_t to) {
    struct nvs_arena *arena = &device->memory.arena;
    struct nvs_bytes gone = {0};
    struct nvs_extent *extent;
    while ((extent = nvs_arena_unused_extent(arena, from, to)) != NULL) {
        from = extent->address + extent->bytes;
        if (extent->place == NVS_EXTENT_AWAY)
            nvs_swap_forget(extent);
        CUresult result = extent->handle == 0 ? CUDA_SUCCESS : nvs_extent_drop(device, extent);
        if (result != CUDA_SUCCESS) {
            nvs_log_once(NVS_LOG_ERROR, "%s: the driver does not unmap freed memory (error %d): it stays", device->uuid,
                         result);
            nvs_memory_abandon(device, extent);
            continue;
        }
        gone.present_bytes += extent->place == NVS_EXTENT_AWAY ? 0 : extent->bytes;
        gone.needed_bytes += extent->bytes;
        nvs_arena_remove_extent(arena, extent);
    }
    nvs_footprint_give(device, &gone);
}

// Gives every range that the placement needs its extents, or none.
static CUresult nvs_memory_cover(struct nvs_device *device, const struct nvs_placement *placement) {
    struct nvs_arena *arena = &device->memory.arena;
    CUresult result = CUDA_SUCCESS;
    uint64_t address, bytes, from = placement->cover_from;
    while (result == CUDA_SUCCESS && nvs_arena_missing(arena, from, placement->cover_to, &address, &bytes)) {
        if (placement->whole)
            bytes = placement->cover_to - address;
        struct nvs_extent *extent = nvs_arena_add_extent(arena, address, bytes);
        result = extent == NULL ? CUDA_ERROR_OUT_OF_MEMORY : nvs_extent_make(device, extent);
        if (result != CUDA_SUCCESS && extent != NULL && extent->handle == 0)
            nvs_arena_remove_extent(arena, extent);
        else if (result != CUDA_SUCCESS && extent != NULL)
            nvs_memory_abandon(device, extent);
        from = address + bytes;
    }
    return result;
}

// ---- Allocating

// One wait of a few milliseconds, for what nobody tells: that others have left the card.
static void nvs_memory_wait_for_card(struct nvs_device *device) {
    uint64_t until_ns = nvs_clock_ns() + NVS_FULL_LOOK_NS;
    struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
    pthread_mutex_lock(&device->lock);
    (void)pthread_cond_timedwait(&device->changed, &device->lock, &until);
    pthread_mutex_unlock(&device->lock);
}

// What the stream of the request has freed: on the same stream it may be used again at once. NULL: it is in the order
// of none.
static struct nvs_quarantine *nvs_memory_freed(const struct nvs_device *device, const struct nvs_request *request) {
    return request->stream == NULL ? NULL : &request->stream->freed[device->ordinal];
}

// Caller holds both locks.
static bool nvs_memory_place(const struct nvs_device *device, const struct nvs_request *request,
                             struct nvs_placement *placement) {
    const struct nvs_arena *arena = &device->memory.arena;
    placement->whole = request->whole;
    return request->physical != NULL
               ? nvs_arena_place_apart(arena, request->bytes, placement)
               : nvs_arena_place(arena, request->bytes, nvs_footprint_room_bytes(device), placement);
}

// Finds a place whose bytes are reserved, waiting for the scheduler if need be, or a block to use again. Caller holds
// the memory's lock, which is given up meanwhile.
static CUresult nvs_memory_reserve(struct nvs_device *device, const struct nvs_request *request,
                                   struct nvs_placement *placement, struct nvs_block **reused) {
    const struct nvs_quarantine *freed = nvs_memory_freed(device, request);
    struct nvs_memory *memory = &device->memory;
    struct nvs_wish wish = {.device = device, .bytes = request->bytes};
    CUresult result;
    bool looked = false, waited = false;
    for (;;) {
        *reused = freed == NULL ? NULL : nvs_quarantine_find(freed, request->pool, request->bytes);
        bool ending = memory->ending.first != NULL || memory->ordered > 0;
        if (*reused == NULL && ending && !looked) {
            looked = true;
            pthread_mutex_unlock(&memory->lock);
            (void)nvs_memory_sweep(device, false);
            pthread_mutex_lock(&memory->lock);
            continue;
        }
        pthread_mutex_lock(&device->lock);
        bool placed = *reused != NULL || nvs_memory_place(device, request, placement);
        wish.needed_bytes = *reused != NULL || !placed ? 0 : placement->new_bytes;
        result = placed ? nvs_footprint_try(&wish) : CUDA_ERROR_OUT_OF_MEMORY;
        if (result != CUDA_ERROR_NOT_READY)
            break;
        bool waits = !ending || waited;
        pthread_mutex_unlock(&memory->lock);
        if (waits)
            nvs_footprint_wait(&wish);
        pthread_mutex_unlock(&device->lock);
        if (!waits)
            (void)nvs_memory_sweep(device, true); // what was freed may make the room
        waited = !waits;
        pthread_mutex_lock(&memory->lock);
    }
    nvs_footprint_tried(&wish);
    pthread_mutex_unlock(&device->lock);
    return result;
}

// The block at a place that is reserved; its extents are made. NULL: all is given back.
static struct nvs_block *nvs_memory_make(struct nvs_device *device, uint64_t bytes,
                                         const struct nvs_placement *placement, CUresult *result) {
    struct nvs_arena *arena = &device->memory.arena;
    struct nvs_block *block = NULL;
    *result = nvs_memory_cover(device, placement);
    if (*result == CUDA_SUCCESS) {
        block = nvs_arena_add_block(arena, placement->address, placement->bytes);
        *result = block == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    }
    if (block == NULL) {
        // Extents that were made count until they are gone; the others never were.
        uint64_t missing = 0, from = placement->cover_from, start, length;
        for (; nvs_arena_missing(arena, from, placement->cover_to, &start, &length); from = start + length)
            missing += length;
        nvs_footprint_give(device, &(struct nvs_bytes){bytes, missing, missing, 0});
        nvs_memory_trim(device, placement->cover_from, placement->cover_to);
    }
    return block;
}

static CUresult nvs_memory_try(struct nvs_device *device, const struct nvs_request *request, CUdeviceptr *address) {
    struct nvs_memory *memory = &device->memory;
    struct nvs_placement placement;
    struct nvs_block *reused;
    pthread_mutex_lock(&memory->lock);
    CUresult result = nvs_memory_reserve(device, request, &placement, &reused);
    struct nvs_block *block = NULL;
    if (result == CUDA_SUCCESS && reused != NULL) {
        block = reused;
        nvs_quarantine_remove(nvs_memory_freed(device, request), block);
        memory->ordered--;
        block->ending = false;
    } else if (result == CUDA_SUCCESS) {
        block = nvs_memory_make(device, request->bytes, &placement, &result);
        if (result == CUDA_ERROR_OUT_OF_MEMORY)
            result = CUDA_ERROR_NOT_READY;
    }
    if (block != NULL) {
        memory->context = request->context != NULL ? request->context : memory->context;
        nvs_mempool_took(request->pool, request->bytes, reused == NULL ? block->bytes : 0);
        block->asked_bytes = request->bytes;
        block->context = request->pool == NULL && request->physical == NULL ? request->context : NULL;
        block->physical = request->physical;
        block->pool = request->pool;
        block->identity = ++memory->identity;
        *address = block->address;
    }
    pthread_mutex_unlock(&memory->lock);
    return result;
}

CUresult nvs_memory_allocate(struct nvs_device *device, const struct nvs_request *request, CUdeviceptr *address) {
    uint64_t since_ns = 0;
    nvs_host_reserve(device, request->bytes);
    for (;;) {
        CUresult result = nvs_memory_try(device, request, address);
        if (result != CUDA_ERROR_NOT_READY)
            return result;
        uint64_t now_ns = nvs_clock_ns();
        since_ns = since_ns == 0 ? now_ns : since_ns;
        pthread_mutex_lock(&device->lock);
        bool planned = !device->unmanaged;
        pthread_mutex_unlock(&device->lock);
        if (!planned || now_ns - since_ns >= NVS_FULL_NS || nvs_library_leaving())
            return CUDA_ERROR_OUT_OF_MEMORY;
        nvs_memory_wait_for_card(device);
    }
}
