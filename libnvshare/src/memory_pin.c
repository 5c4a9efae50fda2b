// What is known of blocks, who may access them, and what keeps them on the card: memory.h.
#include "control.h"
#include "device.h"
#include "extent.h"
#include "footprint.h"
#include "library.h"
#include "log.h"
#include "memory.h"

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
    pthread_mutex_lock(&device->lock);
    bool has_memory = device->needed_bytes > 0;
    pthread_mutex_unlock(&device->lock);
    // The accessor's gate may still be open while this memory is away. From when it is back, neither goes without the
    // other.
    if (has_memory)
        (void)nvs_device_wait_open(device, NVS_COPY);
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
    bool known = block != NULL && block->physical == NULL; // of such a block the program knows no address here
    if (known)
        *facts = (struct nvs_block_facts){
            .address = block->address,
            .bytes = block->asked_bytes,
            .identity = block->identity,
            .context = block->context,
            .synchronous = block->synchronous,
            .rdma = memory->rdma,
            .pool = block->pool,
            .home = address,
        };
    pthread_mutex_unlock(&memory->lock);
    return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
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

void nvs_memory_unpin(struct nvs_device *device, struct nvs_block *block) {
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
            nvs_pin_add(&device->pins, pin);
            if (block->pins == 0)
                nvs_memory_count_pin(device, block, true);
            block->pins |= 1u << pin;
        }
        pthread_mutex_unlock(&memory->lock);
        if (present)
            break;
        if (result == CUDA_SUCCESS) // it is away: its gate opens when it is back
            result = nvs_library_leaving() ? CUDA_ERROR_DEINITIALIZED : nvs_device_wait_open(device, NVS_COPY);
    }
    return result;
}
