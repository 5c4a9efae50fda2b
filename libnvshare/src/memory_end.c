// How blocks end: freed by the program, or with their context. memory.h says what is waited for.
#include "capture.h"
#include "control.h"
#include "device.h"
#include "footprint.h"
#include "memory.h"
#include "mempool.h"
#include "physical.h"
#include "stream.h"

#include <stdlib.h>

// Work of these devices may be on its memory.
static uint32_t nvs_memory_users(const struct nvs_device *device) {
    uint32_t users = 1u << device->ordinal | atomic_load_explicit(&device->accessed_by, memory_order_acquire);
    for (size_t i = 0; i < nvs_device_count(); i++)
        if (nvs_stream_reaches(&nvs_devices[i], device))
            users |= 1u << i;
    return users;
}

void nvs_memory_end(struct nvs_device *device, struct nvs_block *block) {
    block->ending = block->ended = true;
    if (block->imports > 0)
        return;
    uint64_t from = block->address, to = block->address + block->bytes;
    free(block->physical);
    block->physical = NULL;
    nvs_memory_unpin(device, block);
    nvs_mempool_ended(block->pool, block->bytes);
    nvs_arena_remove_block(&device->memory.arena, block);
    nvs_memory_trim(device, from, to);
}

void nvs_memory_settle(struct nvs_device *device, uint64_t from, uint64_t to) {
    struct nvs_block *block = nvs_arena_find_block(&device->memory.arena, from);
    if (block != NULL && block->physical != NULL && block->ending)
        nvs_physical_end(device, block);
    else
        nvs_memory_trim(device, from, to);
}

// What streams have freed of the device's memory: devices (bits) that have such streams. Caller holds the memory's
// lock.
static uint32_t nvs_memory_freeing(const struct nvs_device *device) {
    uint32_t devices = 0;
    for (size_t i = 0; device->memory.ordered > 0 && i < nvs_device_count(); i++) {
        const struct nvs_stream *stream = atomic_load_explicit(&nvs_devices[i].streams, memory_order_acquire);
        for (; stream != NULL; stream = stream->next)
            if (stream->freed[device->ordinal].first != NULL)
                devices |= 1u << i;
    }
    return devices;
}

// Ends what streams have come past the freeing of. Caller holds the memory's lock.
static void nvs_memory_end_passed(struct nvs_device *device) {
    for (size_t i = 0; device->memory.ordered > 0 && i < nvs_device_count(); i++) {
        struct nvs_stream *stream = atomic_load_explicit(&nvs_devices[i].streams, memory_order_acquire);
        for (; stream != NULL; stream = stream->next) {
            struct nvs_quarantine *freed = &stream->freed[device->ordinal];
            uint64_t completed = atomic_load_explicit(&stream->completed, memory_order_acquire);
            while (freed->first != NULL && freed->first->freed_at <= completed) {
                nvs_memory_end(device, nvs_quarantine_take(freed));
                device->memory.ordered--;
            }
        }
    }
}

bool nvs_memory_sweep(struct nvs_device *device, bool waits) {
    struct nvs_memory *memory = &device->memory;
    if (waits)
        pthread_mutex_lock(&memory->lock);
    else if (pthread_mutex_trylock(&memory->lock) != 0)
        return false; // memory moves: look again
    struct nvs_quarantine ending = memory->ending;
    memory->ending = (struct nvs_quarantine){NULL, NULL};
    uint32_t users = nvs_memory_freeing(device);
    pthread_mutex_unlock(&memory->lock);
    if (ending.first == NULL && users == 0)
        return true;
    // What is launched from now on has nothing to do with these blocks, but may with those that end meanwhile.
    users |= nvs_memory_users(device);
    bool all = !nvs_capture_any();
    for (size_t i = 0; i < nvs_device_count(); i++)
        if ((users >> i & 1) != 0)
            all = nvs_stream_finish(&nvs_devices[i], waits && all) && all;
    pthread_mutex_lock(&memory->lock);
    while (all && ending.first != NULL)
        nvs_memory_end(device, nvs_quarantine_take(&ending));
    nvs_quarantine_put_back(&memory->ending, &ending);
    nvs_memory_end_passed(device);
    bool none = memory->ending.first == NULL && memory->ordered == 0;
    pthread_mutex_unlock(&memory->lock);
    return none;
}

CUresult nvs_memory_free(struct nvs_device *device, CUdeviceptr address, struct nvs_stream *stream, uint64_t calls) {
    struct nvs_memory *memory = &device->memory;
    pthread_mutex_lock(&memory->lock);
    struct nvs_block *block = nvs_arena_find_block(&memory->arena, address);
    if (block == NULL || block->address != address || block->ending || block->physical != NULL) {
        pthread_mutex_unlock(&memory->lock);
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (block->imports == 0)
        nvs_memory_unpin(device, block);
    block->ending = true;
    block->freed_at = calls;
    nvs_quarantine_add(stream == NULL ? &memory->ending : &stream->freed[device->ordinal], block);
    memory->ordered += stream != NULL;
    nvs_mempool_freed(block->pool, block->asked_bytes);
    nvs_footprint_give(device, &(struct nvs_bytes){.footprint_bytes = block->asked_bytes});
    pthread_mutex_unlock(&memory->lock);
    if (stream != NULL || !nvs_memory_sweep(device, true))
        nvs_control_poke((size_t)device->ordinal); // whose ticks look again
    return CUDA_SUCCESS;
}

void nvs_memory_import_ended(struct nvs_device *device, uint64_t address, uint64_t identity) {
    struct nvs_memory *memory = &device->memory;
    pthread_mutex_lock(&memory->lock);
    struct nvs_block *block = nvs_arena_find_block(&memory->arena, address);
    if (block != NULL && block->identity == identity && block->imports > 0) {
        block->imports--;
        if (block->ended)
            nvs_memory_end(device, block);
    }
    pthread_mutex_unlock(&memory->lock);
    nvs_control_poke((size_t)device->ordinal);
}

// ---- Contexts

void nvs_memory_context_made(struct nvs_device *device, CUcontext context) {
    struct nvs_memory *memory = &device->memory;
    pthread_mutex_lock(&memory->lock);
    if (memory->context == NULL)
        memory->context = context;
    pthread_mutex_unlock(&memory->lock);
}

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

void nvs_memory_context_replaced(struct nvs_device *device, CUcontext context, CUcontext other) {
    struct nvs_memory *memory = &device->memory;
    pthread_mutex_lock(&memory->lock);
    struct nvs_block *block = nvs_arena_next_block(&memory->arena, memory->arena.address);
    for (; block != NULL; block = nvs_arena_next_block(&memory->arena, block->address + block->bytes))
        block->context = block->context == context ? other : block->context;
    memory->context = memory->context == context ? other : memory->context;
    pthread_mutex_unlock(&memory->lock);
}

CUcontext nvs_memory_context(struct nvs_device *device) {
    CUcontext context = device->memory.context;
    return context != NULL ? context : atomic_load_explicit(&device->primary_context, memory_order_acquire);
}
