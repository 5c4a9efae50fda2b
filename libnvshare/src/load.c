#include "load.h"

#include "extent.h"

#include <stdio.h>

bool nvs_load_way(const struct nvs_device *device, enum nvs_way *way) {
    struct nvs_residency residency = nvs_device_residency(device);
    *way = nvs_residency_out_bytes(&residency) > 0 ? NVS_OUT : NVS_IN;
    return device->at_rest && (*way == NVS_OUT || nvs_residency_in_bytes(&residency) > 0);
}

// Caller holds the device's lock.
static uint64_t nvs_load_begin_bytes(const struct nvs_device *device, enum nvs_way way) {
    struct nvs_residency residency = nvs_device_residency(device);
    if (!device->at_rest)
        return 0;
    return way == NVS_OUT ? nvs_residency_out_bytes(&residency) : nvs_residency_in_bytes(&residency);
}

uint64_t nvs_load_allowed_bytes(struct nvs_device *device, enum nvs_way way) {
    pthread_mutex_lock(&device->lock);
    uint64_t bytes = nvs_load_begin_bytes(device, way);
    pthread_mutex_unlock(&device->lock);
    return bytes;
}

void nvs_load_account(struct nvs_device *device, int64_t present_bytes, int64_t moving_bytes) {
    pthread_mutex_lock(&device->lock);
    device->present_bytes += (uint64_t)present_bytes;
    device->moving_bytes += (uint64_t)moving_bytes;
    pthread_mutex_unlock(&device->lock);
}

static void nvs_load_add(struct nvs_load *load, struct nvs_extent *extent, enum nvs_extent_place place) {
    extent->place = place;
    load->extents[load->count++] = extent;
    load->bytes += extent->bytes;
}

// From the high end downwards. What may leave is chosen and counted in one hold of the device's lock: in between, a
// higher target would let the program run while its memory is copied. Caller holds the memory's lock.
static void nvs_load_take_out(struct nvs_device *device, struct nvs_load *load) {
    const struct nvs_arena *arena = &device->memory.arena;
    pthread_mutex_lock(&device->lock);
    uint64_t most_bytes = nvs_load_begin_bytes(device, NVS_OUT);
    if (most_bytes > NVS_LOAD_BYTES)
        most_bytes = NVS_LOAD_BYTES;
    for (size_t i = arena->extent_count; i > 0 && load->bytes < most_bytes && load->count < NVS_LOAD_EXTENTS; i--)
        if (arena->extents[i - 1]->place == NVS_EXTENT_PRESENT && arena->extents[i - 1]->pins == 0)
            nvs_load_add(load, arena->extents[i - 1], NVS_EXTENT_LEAVING);
    device->moving_bytes += load->bytes;
    pthread_mutex_unlock(&device->lock);
}

// Makes one of neighbouring extents that are away, as far as that has room. Caller holds the memory's lock.
static void nvs_load_merge(struct nvs_arena *arena, size_t index, uint64_t room_bytes) {
    struct nvs_extent *first = arena->extents[index];
    for (size_t count = nvs_arena_merge_count(arena, index); count > 1; count--) {
        struct nvs_extent *next = arena->extents[index + 1];
        if (first->bytes + next->bytes > room_bytes)
            return;
        struct nvs_host_copy *joined = nvs_host_copy_join(first->host, next->host);
        if (joined == NULL)
            return;
        first->host = joined;
        nvs_arena_merge(arena, index, 2);
    }
}

// From the low end upwards. Caller holds the memory's lock.
static bool nvs_load_take_in(struct nvs_device *device, struct nvs_load *load, struct nvs_trouble *trouble) {
    struct nvs_arena *arena = &device->memory.arena;
    uint64_t room_bytes = nvs_load_allowed_bytes(device, NVS_IN);
    for (size_t i = 0; i < arena->extent_count && load->bytes < NVS_LOAD_BYTES && load->count < NVS_LOAD_EXTENTS; i++) {
        struct nvs_extent *extent = arena->extents[i];
        if (extent->place != NVS_EXTENT_AWAY)
            continue;
        if (extent->bytes > room_bytes) // one further up might fit: only to be the first to leave again
            break;
        nvs_load_merge(arena, i, room_bytes);
        nvs_load_account(device, (int64_t)extent->bytes, (int64_t)extent->bytes);
        CUresult result = nvs_extent_make(device, extent);
        if (result != CUDA_SUCCESS) {
            nvs_load_account(device, -(int64_t)extent->bytes, -(int64_t)extent->bytes);
            trouble->card = result == CUDA_ERROR_OUT_OF_MEMORY;
            trouble->result = result;
            snprintf(trouble->reason, sizeof(trouble->reason),
                     "the card gave no memory to come back to (CUDA error %d)", (int)result);
            return false;
        }
        room_bytes -= extent->bytes;
        nvs_load_add(load, extent, NVS_EXTENT_COMING);
    }
    return true;
}

bool nvs_load_take(struct nvs_device *device, enum nvs_way way, struct nvs_load *load, struct nvs_trouble *trouble) {
    bool taken = true;
    *load = (struct nvs_load){.way = way};
    pthread_mutex_lock(&device->memory.lock);
    if (way == NVS_OUT)
        nvs_load_take_out(device, load);
    else
        taken = nvs_load_take_in(device, load, trouble);
    pthread_mutex_unlock(&device->memory.lock);
    return taken;
}

// Gives an extent that is on the card back to the program. Caller holds the memory's lock.
static void nvs_load_keep(struct nvs_device *device, struct nvs_extent *extent) {
    nvs_host_copy_free(extent->host);
    extent->host = NULL;
    extent->place = NVS_EXTENT_PRESENT;
    nvs_load_account(device, 0, -(int64_t)extent->bytes);
}

// Takes an extent, which has its copy in host memory, off the card. Caller holds the memory's lock.
static bool nvs_load_drop(struct nvs_device *device, struct nvs_extent *extent) {
    if (nvs_extent_drop(device, extent) != CUDA_SUCCESS)
        return false;
    extent->place = NVS_EXTENT_AWAY;
    nvs_load_account(device, -(int64_t)extent->bytes, -(int64_t)extent->bytes);
    return true;
}

bool nvs_load_room(struct nvs_device *device, struct nvs_load *load, struct nvs_packer *packer, CUcontext context,
                   struct nvs_trouble *trouble) {
    char reason[NVS_POOL_REASON_SIZE] = "";
    unsigned found = 0;
    for (; found < load->count && load->way == NVS_OUT; found++) {
        struct nvs_extent *extent = load->extents[found];
        extent->host = nvs_host_copy_make(packer, context, extent->bytes, reason);
        if (extent->host == NULL)
            break;
    }
    if (load->way == NVS_IN || found == load->count)
        return true;
    trouble->card = false;
    snprintf(trouble->reason, sizeof(trouble->reason), "%.*s", NVS_REASON_SIZE - 1, reason);
    pthread_mutex_lock(&device->memory.lock);
    while (load->count > found) {
        struct nvs_extent *extent = load->extents[--load->count];
        load->bytes -= extent->bytes;
        nvs_load_keep(device, extent);
        nvs_memory_settle(device, extent->address, extent->address + extent->bytes);
    }
    pthread_mutex_unlock(&device->memory.lock);
    return false;
}

CUresult nvs_load_copy(const struct nvs_load *load, CUstream stream) {
    for (unsigned i = 0; i < load->count; i++) {
        const struct nvs_host_copy *copy = load->extents[i]->host;
        CUdeviceptr address = load->extents[i]->address;
        for (size_t run = 0; run < copy->count; run++) {
            char *memory = copy->runs[run].memory;
            uint64_t bytes = copy->runs[run].bytes;
            CUresult result = load->way == NVS_OUT ? nvs_real.cuMemcpyDtoHAsync_v2(memory, address, bytes, stream)
                                                   : nvs_real.cuMemcpyHtoDAsync_v2(address, memory, bytes, stream);
            if (result != CUDA_SUCCESS)
                return result;
            address += bytes;
        }
    }
    return CUDA_SUCCESS;
}

// True if the memory on the card is more than the target allows.
static bool nvs_load_is_too_much(struct nvs_device *device) {
    pthread_mutex_lock(&device->lock);
    struct nvs_residency residency = nvs_device_residency(device);
    pthread_mutex_unlock(&device->lock);
    return residency.present_bytes > residency.target_bytes;
}

uint64_t nvs_load_end(struct nvs_device *device, struct nvs_load *load, CUresult result, bool *dropped) {
    const struct nvs_load ended = *load;
    uint64_t moved_bytes = 0;
    *load = (struct nvs_load){.way = ended.way};
    *dropped = true;
    pthread_mutex_lock(&device->memory.lock);
    for (unsigned i = 0; i < ended.count; i++) {
        struct nvs_extent *extent = ended.extents[i];
        uint64_t from = extent->address, to = extent->address + extent->bytes;
        bool leaves = result == CUDA_SUCCESS ? nvs_load_is_too_much(device) : ended.way == NVS_IN;
        bool moves = leaves == (ended.way == NVS_OUT) && result == CUDA_SUCCESS;
        if (!leaves) {
            nvs_load_keep(device, extent);
        } else if (!nvs_load_drop(device, extent)) {
            *dropped = false;
            moves = false;
            if (result == CUDA_SUCCESS) // what is on the card is as good as the copy
                nvs_load_keep(device, extent);
            else
                nvs_load_add(load, extent, NVS_EXTENT_COMING);
        }
        moved_bytes += moves ? to - from : 0;
        nvs_memory_settle(device, from, to);
    }
    pthread_mutex_unlock(&device->memory.lock);
    return moved_bytes;
}

void nvs_swap_forget(struct nvs_extent *extent) {
    nvs_host_copy_free(extent->host);
    extent->host = NULL;
}
