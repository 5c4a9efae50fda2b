#include "memory.h"

#include "capture.h"
#include "control.h"
#include "device.h"
#include "extent.h"
#include "footprint.h"
#include "library.h"
#include "log.h"
#include "stream.h"
#include "swap.h"

#include <string.h>
#include <time.h>

// Addresses a byte of the card, so that what is left between blocks does not matter.
#define NVS_ADDRESSES_FACTOR 4u

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

void nvs_memory_trim(struct nvs_device *device, uint64_t from, uint64_t to) {
    struct nvs_arena *arena = &device->memory.arena;
    struct nvs_bytes gone = {0};
    struct nvs_extent *extent;
    while ((extent = nvs_arena_unused_extent(arena, from, to)) != NULL) {
        from = extent->address + extent->bytes;
        if (extent->place == NVS_EXTENT_AWAY) {
            nvs_swap_forget(extent);
        } else {
            CUresult result = nvs_extent_drop(extent);
            if (result != CUDA_SUCCESS) {
                nvs_log_once(NVS_LOG_ERROR, "%s: the driver does not unmap freed memory (error %d): it stays",
                             device->uuid, result);
                continue;
            }
            gone.present_bytes += extent->bytes;
        }
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
        struct nvs_extent *extent = nvs_arena_add_extent(arena, address, bytes);
        result = extent == NULL ? CUDA_ERROR_OUT_OF_MEMORY : nvs_extent_make(device, extent);
        if (result != CUDA_SUCCESS && extent != NULL)
            nvs_arena_remove_extent(arena, extent);
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

// Finds a place whose bytes are reserved, waiting for the scheduler if need be. Caller holds the memory's lock, which
// is given up meanwhile.
static CUresult nvs_memory_reserve(struct nvs_device *device, uint64_t bytes, struct nvs_placement *placement) {
    struct nvs_memory *memory = &device->memory;
    struct nvs_wish wish = {.device = device, .bytes = bytes};
    CUresult result;
    for (;;) {
        pthread_mutex_lock(&device->lock);
        if (nvs_arena_place(&memory->arena, bytes, nvs_footprint_room_bytes(device), placement)) {
            wish.needed_bytes = placement->new_bytes;
            result = nvs_footprint_try(&wish);
        } else {
            result = CUDA_ERROR_OUT_OF_MEMORY;
        }
        if (result != CUDA_ERROR_NOT_READY)
            break;
        pthread_mutex_unlock(&memory->lock);
        nvs_footprint_wait(&wish);
        pthread_mutex_unlock(&device->lock);
        pthread_mutex_lock(&memory->lock);
    }
    nvs_footprint_tried(&wish);
    pthread_mutex_unlock(&device->lock);
    return result;
}

static CUresult nvs_memory_try(struct nvs_device *device, CUcontext context, uint64_t bytes, CUdeviceptr *address) {
    struct nvs_memory *memory = &device->memory;
    struct nvs_placement placement;
    pthread_mutex_lock(&memory->lock);
    CUresult result = nvs_memory_reserve(device, bytes, &placement);
    if (result == CUDA_SUCCESS) {
        struct nvs_block *block = NULL;
        result = nvs_memory_cover(device, &placement);
        if (result == CUDA_SUCCESS) {
            block = nvs_arena_add_block(&memory->arena, placement.address, placement.bytes);
            result = block == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
        }
        if (block != NULL) {
            block->asked_bytes = bytes;
            block->context = memory->context = context;
            block->identity = ++memory->identity;
            *address = block->address;
        } else {
            // Extents that were made count until they are gone; the others never were.
            uint64_t missing = 0, from = placement.cover_from, start, length;
            for (; nvs_arena_missing(&memory->arena, from, placement.cover_to, &start, &length); from = start + length)
                missing += length;
            nvs_footprint_give(device, &(struct nvs_bytes){bytes, missing, missing, 0});
            nvs_memory_trim(device, placement.cover_from, placement.cover_to);
            result = result == CUDA_ERROR_OUT_OF_MEMORY ? CUDA_ERROR_NOT_READY : result;
        }
    }
    pthread_mutex_unlock(&memory->lock);
    return result;
}

CUresult nvs_memory_allocate(struct nvs_device *device, CUcontext context, uint64_t bytes, CUdeviceptr *address) {
    uint64_t since_ns = 0;
    (void)nvs_memory_sweep(device);
    nvs_swap_keep_room(device, bytes);
    for (;;) {
        CUresult result = nvs_memory_try(device, context, bytes, address);
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

// ---- Pins, peers and facts

void nvs_memory_share(struct nvs_device *device, struct nvs_device *accessor) {
    if (device == NULL || accessor == NULL || device == accessor)
        return;
    struct nvs_memory *memory = &device->memory;
    pthread_mutex_lock(&memory->lock);
    atomic_fetch_or_explicit(&device->accessed_by, 1u << accessor->ordinal, memory_order_acq_rel);
    for (size_t i = 0; i < memory->arena.extent_count; i++) {
        const struct nvs_extent *extent = memory->arena.extents[i];
        if (extent->place != NVS_EXTENT_AWAY && nvs_extent_access(device, extent) != CUDA_SUCCESS)
            nvs_log_once(NVS_LOG_ERROR, "%s: its memory cannot be made accessible to %s", device->uuid, accessor->uuid);
    }
    pthread_mutex_unlock(&memory->lock);
}

// The block that holds all of [address, address + bytes), and lives. Caller holds the memory's lock.
static struct nvs_block *nvs_memory_block(const struct nvs_memory *memory, CUdeviceptr address, uint64_t bytes) {
    struct nvs_block *block = nvs_arena_find_block(&memory->arena, address);
    if (block == NULL || block->ending || address - block->address >= block->asked_bytes ||
        bytes > block->address + block->asked_bytes - address)
        return NULL;
    return block;
}

CUresult nvs_memory_facts(struct nvs_device *device, CUdeviceptr address, struct nvs_block_facts *facts) {
    struct nvs_memory *memory = &device->memory;
    pthread_mutex_lock(&memory->lock);
    const struct nvs_block *block = nvs_memory_block(memory, address, 1);
    if (block != NULL)
        *facts = (struct nvs_block_facts){block->address, block->asked_bytes, block->identity,
                                          block->context, block->synchronous, memory->rdma};
    pthread_mutex_unlock(&memory->lock);
    return block == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

// Whether all of the block is on the card and at rest. Caller holds the memory's lock.
static bool nvs_memory_present(const struct nvs_arena *arena, const struct nvs_block *block) {
    uint64_t end = block->address + block->bytes;
    for (size_t i = nvs_arena_extent_from(arena, block->address);
         i < arena->extent_count && arena->extents[i]->address < end; i++)
        if (arena->extents[i]->place != NVS_EXTENT_PRESENT)
            return false;
    return true;
}

// Counts the block's first pin in its extents, or takes its last one out. Caller holds the memory's lock.
static void nvs_memory_count_pin(struct nvs_device *device, const struct nvs_block *block, bool pinned) {
    struct nvs_arena *arena = &device->memory.arena;
    uint64_t bytes = 0, end = block->address + block->bytes;
    for (size_t i = nvs_arena_extent_from(arena, block->address);
         i < arena->extent_count && arena->extents[i]->address < end; i++) {
        struct nvs_extent *extent = arena->extents[i];
        if (extent->pins == (pinned ? 0 : 1))
            bytes += extent->bytes;
        extent->pins += pinned ? 1u : -1u;
    }
    if (!pinned) {
        nvs_footprint_give(device, &(struct nvs_bytes){.pinned_bytes = bytes});
        return;
    }
    pthread_mutex_lock(&device->lock);
    device->pinned_bytes += bytes;
    pthread_mutex_unlock(&device->lock);
    nvs_control_poke((size_t)device->ordinal);
}

static void nvs_memory_unpin(struct nvs_device *device, struct nvs_block *block) {
    if (block->pins == 0)
        return;
    for (int pin = 0; pin < NVS_PINS; pin++)
        if ((block->pins >> pin & 1) != 0)
            nvs_pin_remove(&device->pins, (enum nvs_pin)pin);
    nvs_memory_count_pin(device, block, false);
    block->pins = 0;
}

CUresult nvs_memory_pin(struct nvs_device *device, CUdeviceptr address, uint64_t bytes, enum nvs_pin pin,
                        CUresult (*call)(struct nvs_block *block, void *argument), void *argument) {
    struct nvs_memory *memory = &device->memory;
    CUresult result = CUDA_SUCCESS;
    while (result == CUDA_SUCCESS) {
        pthread_mutex_lock(&memory->lock);
        struct nvs_block *block = nvs_memory_block(memory, address, bytes);
        bool present = block != NULL && nvs_memory_present(&memory->arena, block);
        if (block == NULL)
            result = CUDA_ERROR_INVALID_VALUE;
        else if (present && call != NULL)
            result = call(block, argument);
        if (present && result == CUDA_SUCCESS && (block->pins >> pin & 1) == 0) {
            if (block->pins == 0)
                nvs_memory_count_pin(device, block, true);
            block->pins |= 1u << pin;
            nvs_pin_add(&device->pins, pin);
        }
        pthread_mutex_unlock(&memory->lock);
        if (present)
            break;
        if (result == CUDA_SUCCESS) // it is away: its gate opens when it is back
            result = nvs_library_leaving() ? CUDA_ERROR_DEINITIALIZED : nvs_device_wait_open(device, NVS_COPY);
    }
    return result;
}

// ---- Freeing

// Work of these devices may be on its memory.
static uint32_t nvs_memory_users(const struct nvs_device *device) {
    return 1u << device->ordinal | atomic_load_explicit(&device->accessed_by, memory_order_acquire);
}

// Takes ended blocks out of the arena. Caller holds the memory's lock.
static void nvs_memory_end(struct nvs_device *device, struct nvs_block *block) {
    struct nvs_arena *arena = &device->memory.arena;
    while (block != NULL) {
        struct nvs_block *next = block->next_ending;
        uint64_t from = block->address, to = block->address + block->bytes;
        block->next_ending = NULL;
        nvs_memory_unpin(device, block);
        nvs_arena_remove_block(arena, block);
        nvs_memory_trim(device, from, to);
        block = next;
    }
}

static struct nvs_block *nvs_memory_take_ending(struct nvs_memory *memory) {
    struct nvs_block *ending = memory->ending;
    memory->ending = NULL;
    return ending;
}

// Ends the blocks, or puts them (back) into quarantine. Caller holds the memory's lock.
static void nvs_memory_end_or_keep(struct nvs_device *device, struct nvs_block *blocks, bool done) {
    if (done) {
        nvs_memory_end(device, blocks);
        return;
    }
    while (blocks != NULL) {
        struct nvs_block *next = blocks->next_ending;
        blocks->next_ending = device->memory.ending;
        device->memory.ending = blocks;
        blocks = next;
    }
}

// Ends what is in quarantine once everything that was launched so far is done: waits for that, or only looks. True if
// none is left.
static bool nvs_memory_finish(struct nvs_device *device, bool waits) {
    struct nvs_memory *memory = &device->memory;
    if (waits)
        pthread_mutex_lock(&memory->lock);
    else if (pthread_mutex_trylock(&memory->lock) != 0)
        return false; // memory moves: look again
    struct nvs_block *ending = nvs_memory_take_ending(memory);
    pthread_mutex_unlock(&memory->lock);
    if (ending == NULL)
        return true;
    uint32_t users = nvs_memory_users(device);
    bool done = !nvs_capture_any();
    for (size_t i = 0; i < nvs_device_count() && done; i++)
        if ((users >> i & 1) != 0)
            done = nvs_stream_finish(&nvs_devices[i], waits);
    pthread_mutex_lock(&memory->lock);
    nvs_memory_end_or_keep(device, ending, done);
    pthread_mutex_unlock(&memory->lock);
    return done;
}

bool nvs_memory_sweep(struct nvs_device *device) {
    return nvs_memory_finish(device, false);
}

CUresult nvs_memory_free(struct nvs_device *device, CUdeviceptr address) {
    struct nvs_memory *memory = &device->memory;
    pthread_mutex_lock(&memory->lock);
    struct nvs_block *block = nvs_arena_find_block(&memory->arena, address);
    if (block == NULL || block->address != address || block->ending) {
        pthread_mutex_unlock(&memory->lock);
        return CUDA_ERROR_INVALID_VALUE;
    }
    block->ending = true;
    block->next_ending = memory->ending;
    memory->ending = block;
    nvs_footprint_give(device, &(struct nvs_bytes){.footprint_bytes = block->asked_bytes});
    pthread_mutex_unlock(&memory->lock);
    if (!nvs_memory_finish(device, true))
        nvs_control_poke((size_t)device->ordinal); // whose ticks look again
    return CUDA_SUCCESS;
}

// ---- Contexts

static void nvs_memory_end_context(struct nvs_device *device, CUcontext context) {
    struct nvs_memory *memory = &device->memory;
    struct nvs_bytes gone = {0};
    pthread_mutex_lock(&memory->lock);
    struct nvs_block *block = nvs_arena_next_block(&memory->arena, memory->arena.address);
    CUcontext other = NULL;
    while (block != NULL) {
        uint64_t next = block->address + block->bytes;
        if (block->context != context) {
            other = block->context;
        } else if (!block->ending) {
            gone.footprint_bytes += block->asked_bytes;
            nvs_memory_end(device, block);
        }
        block = nvs_arena_next_block(&memory->arena, next);
    }
    nvs_footprint_give(device, &gone);
    if (memory->context == context)
        memory->context = other;
    pthread_mutex_unlock(&memory->lock);
}

void nvs_memory_context_ended(CUcontext context) {
    for (size_t i = 0; i < nvs_device_count(); i++)
        if (atomic_load_explicit(&nvs_devices[i].memory.bytes, memory_order_acquire) != 0)
            nvs_memory_end_context(&nvs_devices[i], context);
}

CUcontext nvs_memory_context(struct nvs_device *device) {
    CUcontext context = device->memory.context;
    return context != NULL ? context : atomic_load_explicit(&device->primary_context, memory_order_acquire);
}
