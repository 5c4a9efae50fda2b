// How blocks end: freed by the program, or with their context. memory.h says what is waited for.
#include "capture.h"
#include "control.h"
#include "device.h"
#include "footprint.h"
#include "memory.h"
#include "mempool.h"
#include "stream.h"

// Work of these devices may be on its memory.
static uint32_t nvs_memory_users(const struct nvs_device *device) {
    uint32_t users = 1u << device->ordinal | atomic_load_explicit(&device->accessed_by, memory_order_acquire);
    for (size_t i = 0; i < nvs_device_count(); i++)
        if (nvs_stream_reaches(&nvs_devices[i], device))
            users |= 1u << i;
    return users;
}

// Takes a block out of the arena. Caller holds the memory's lock.
static void nvs_memory_end(struct nvs_device *device, struct nvs_block *block) {
    uint64_t from = block->address, to = block->address + block->bytes;
    nvs_memory_unpin(device, block);
    nvs_mempool_ended(block->pool, block->bytes);
    nvs_arena_remove_block(&device->memory.arena, block);
    nvs_memory_trim(device, from, to);
}

// Whether the work that a block was freed after is done. `all`: all work is.
static bool nvs_memory_done(const struct nvs_block *block, bool all) {
    return all || (block->freed_on != NULL &&
                   atomic_load_explicit(&block->freed_on->completed, memory_order_acquire) >= block->freed_at);
}

bool nvs_memory_sweep(struct nvs_device *device, bool waits) {
    struct nvs_memory *memory = &device->memory;
    if (waits)
        pthread_mutex_lock(&memory->lock);
    else if (pthread_mutex_trylock(&memory->lock) != 0)
        return false; // memory moves: look again
    struct nvs_block *blocks = memory->ending;
    memory->ending = NULL;
    pthread_mutex_unlock(&memory->lock);
    if (blocks == NULL)
        return true;
    // What is launched from now on has nothing to do with these blocks, but may with those that end meanwhile.
    uint32_t users = nvs_memory_users(device);
    bool all = !nvs_capture_any();
    for (size_t i = 0; i < nvs_device_count(); i++)
        if ((users >> i & 1) != 0)
            all = nvs_stream_finish(&nvs_devices[i], waits && all) && all;
    pthread_mutex_lock(&memory->lock);
    while (blocks != NULL) {
        struct nvs_block *next = blocks->next_ending;
        if (nvs_memory_done(blocks, all)) {
            nvs_memory_end(device, blocks);
        } else {
            blocks->next_ending = memory->ending;
            memory->ending = blocks;
        }
        blocks = next;
    }
    bool none = memory->ending == NULL;
    pthread_mutex_unlock(&memory->lock);
    return none;
}

CUresult nvs_memory_free(struct nvs_device *device, CUdeviceptr address, struct nvs_stream *stream, uint64_t calls) {
    struct nvs_memory *memory = &device->memory;
    pthread_mutex_lock(&memory->lock);
    struct nvs_block *block = nvs_arena_find_block(&memory->arena, address);
    if (block == NULL || block->address != address || block->ending) {
        pthread_mutex_unlock(&memory->lock);
        return CUDA_ERROR_INVALID_VALUE;
    }
    nvs_memory_unpin(device, block);
    block->ending = true;
    block->freed_on = stream;
    block->freed_at = calls;
    block->next_ending = memory->ending;
    memory->ending = block;
    nvs_mempool_freed(block->pool, block->asked_bytes);
    nvs_footprint_give(device, &(struct nvs_bytes){.footprint_bytes = block->asked_bytes});
    pthread_mutex_unlock(&memory->lock);
    if (stream != NULL || !nvs_memory_sweep(device, true))
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
            other = block->context != NULL ? block->context : other;
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
