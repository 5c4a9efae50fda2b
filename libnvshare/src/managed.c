#include "managed.h"

#include "footprint.h"
#include "library.h"
#include "log.h"
#include "settings.h"

#include <stdio.h>
#include <stdlib.h>

struct nvs_managed_block {
    uint64_t address, bytes;
    uint64_t share_bytes; // of its beginning, that are on the card when all that is needed is there
    uint64_t card_bytes;  // of the share, on the card
    CUcontext context;
    struct nvs_managed_block *next;
};

// The blocks of each device, the latest first. Under the lock of the device's memory.
static struct nvs_managed_block *nvs_managed_blocks[NVS_DEVICES_MAX];

static struct nvs_managed_block **nvs_managed_of(const struct nvs_device *device) {
    return &nvs_managed_blocks[device - nvs_devices];
}

bool nvs_managed_on(void) {
    return nvs_settings_read()->managed;
}

// ---- Allocating

// Reserves the bytes, and says how many of them are the block's share of the card. Caller holds the device's lock.
static CUresult nvs_managed_try(struct nvs_wish *wish, uint64_t *share_bytes) {
    struct nvs_device *device = wish->device;
    uint64_t total = device->footprint_bytes + wish->bytes;
    bool full = device->grant.limited_by == NVS_LIMIT_CARD && total > nvs_device_limit_bytes(device);
    *share_bytes = wish->needed_bytes = wish->bytes;
    if (device->grant.generation == 0 || (!full && wish->bytes <= device->total_bytes))
        return nvs_footprint_try(wish);
    if (total < wish->bytes || total > device->host_room_bytes) {
        nvs_log(NVS_LOG_WARN, "%s: an allocation fails: %llu bytes of managed memory are more than the host's %llu",
                device->uuid, (unsigned long long)total, (unsigned long long)device->host_room_bytes);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (device->present_bytes < device->needed_bytes)
        return CUDA_ERROR_NOT_READY;
    uint64_t room_bytes = nvs_footprint_room_bytes(device);
    *share_bytes = wish->bytes < room_bytes ? wish->bytes : room_bytes;
    device->footprint_bytes = total;
    device->needed_bytes += *share_bytes;
    device->present_bytes += *share_bytes;
    return CUDA_SUCCESS;
}

static CUresult nvs_managed_reserve(struct nvs_device *device, uint64_t bytes, uint64_t *share_bytes) {
    struct nvs_wish wish = {.device = device, .bytes = bytes};
    CUresult result;
    nvs_device_use(device);
    pthread_mutex_lock(&device->lock);
    while ((result = nvs_managed_try(&wish, share_bytes)) == CUDA_ERROR_NOT_READY)
        nvs_footprint_wait(&wish);
    nvs_footprint_tried(&wish);
    pthread_mutex_unlock(&device->lock);
    return result;
}

static void nvs_managed_give(struct nvs_device *device, const struct nvs_managed_block *block) {
    nvs_footprint_give(device, &(struct nvs_bytes){.footprint_bytes = block->bytes,
                                                   .needed_bytes = block->share_bytes,
                                                   .present_bytes = block->card_bytes});
}

CUresult nvs_managed_allocate(struct nvs_device *device, CUcontext context, uint64_t bytes, CUdeviceptr *address) {
    struct nvs_managed_block *block = malloc(sizeof(*block));
    if (block == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *block = (struct nvs_managed_block){.bytes = bytes, .context = context};
    CUresult result = nvs_managed_reserve(device, bytes, &block->share_bytes);
    if (result != CUDA_SUCCESS) {
        free(block);
        return result;
    }
    block->card_bytes = block->share_bytes;
    result = nvs_real.cuMemAllocManaged(address, bytes, CU_MEM_ATTACH_GLOBAL);
    if (result != CUDA_SUCCESS) {
        nvs_managed_give(device, block);
        free(block);
        return result;
    }
    block->address = *address;
    pthread_mutex_lock(&device->memory.lock);
    block->next = *nvs_managed_of(device);
    *nvs_managed_of(device) = block;
    device->memory.context = context;
    pthread_mutex_unlock(&device->memory.lock);
    return CUDA_SUCCESS;
}

// ---- Freeing

// Takes the first block out of the list that begins there, or is of this context. Caller holds the memory's lock.
static struct nvs_managed_block *nvs_managed_take(struct nvs_device *device, CUdeviceptr address, CUcontext context) {
    for (struct nvs_managed_block **at = nvs_managed_of(device); *at != NULL; at = &(*at)->next)
        if ((*at)->address == address || (*at)->context == context) {
            struct nvs_managed_block *block = *at;
            *at = block->next;
            return block;
        }
    return NULL;
}

bool nvs_managed_free(CUdeviceptr address, CUresult *result) {
    for (size_t i = 0; i < nvs_device_count() && address != 0; i++) {
        struct nvs_device *device = &nvs_devices[i];
        pthread_mutex_lock(&device->memory.lock);
        struct nvs_managed_block *block = nvs_managed_take(device, address, NULL);
        pthread_mutex_unlock(&device->memory.lock);
        if (block == NULL)
            continue;
        *result = nvs_real.cuMemFree_v2(address);
        nvs_managed_give(device, block);
        free(block);
        return true;
    }
    return false;
}

void nvs_managed_context_ended(CUcontext context) {
    for (size_t i = 0; i < nvs_device_count() && context != NULL; i++) {
        struct nvs_device *device = &nvs_devices[i];
        struct nvs_managed_block *block;
        pthread_mutex_lock(&device->memory.lock);
        while ((block = nvs_managed_take(device, 0, context)) != NULL) {
            nvs_managed_give(device, block);
            free(block);
        }
        pthread_mutex_unlock(&device->memory.lock);
    }
}

// ---- Moving

// The block whose share has something to go this way: out from the latest on, in from the oldest on. Caller holds the
// memory's lock.
static struct nvs_managed_block *nvs_managed_next(struct nvs_device *device, enum nvs_way way) {
    struct nvs_managed_block *found = NULL;
    for (struct nvs_managed_block *block = *nvs_managed_of(device); block != NULL; block = block->next)
        if (way == NVS_IN ? block->card_bytes < block->share_bytes : block->card_bytes > 0 && found == NULL)
            found = block;
    return found;
}

// Tells the driver where the pages are to be, and brings them there.
static CUresult nvs_managed_prefetch(const struct nvs_device *device, enum nvs_way way, CUdeviceptr address,
                                     uint64_t bytes, CUstream stream) {
    if (nvs_real.cuMemAdvise_v2 == NULL || nvs_real.cuMemPrefetchAsync_v2 == NULL)
        return CUDA_ERROR_NOT_SUPPORTED; // a driver before 12.2
    CUmemLocation location = {.type = CU_MEM_LOCATION_TYPE_HOST};
    if (way == NVS_IN)
        location = (CUmemLocation){.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device->ordinal};
    CUresult result = nvs_real.cuMemAdvise_v2(address, bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, location);
    if (result == CUDA_SUCCESS)
        result = nvs_real.cuMemPrefetchAsync_v2(address, bytes, location, 0, stream);
    return result == CUDA_SUCCESS ? nvs_real.cuStreamSynchronize(stream) : result;
}

uint64_t nvs_managed_move(struct nvs_device *device, enum nvs_way way, CUstream stream, struct nvs_trouble *trouble) {
    uint64_t bytes = 0;
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&device->memory.lock);
    struct nvs_managed_block *block = nvs_managed_next(device, way);
    if (block != NULL) {
        uint64_t allowed_bytes = nvs_load_allowed_bytes(device, way);
        uint64_t left_bytes = way == NVS_OUT ? block->card_bytes : block->share_bytes - block->card_bytes;
        bytes = allowed_bytes < NVS_LOAD_BYTES ? allowed_bytes : NVS_LOAD_BYTES;
        bytes = left_bytes < bytes ? left_bytes : bytes;
    }
    if (bytes > 0) {
        uint64_t from = way == NVS_OUT ? block->card_bytes - bytes : block->card_bytes;
        int64_t moved_bytes = way == NVS_OUT ? -(int64_t)bytes : (int64_t)bytes;
        result = nvs_managed_prefetch(device, way, block->address + from, bytes, stream);
        if (result == CUDA_SUCCESS) {
            block->card_bytes += (uint64_t)moved_bytes;
            nvs_load_account(device, moved_bytes, 0);
        }
    }
    pthread_mutex_unlock(&device->memory.lock);
    if (result == CUDA_SUCCESS)
        return bytes;
    *trouble = (struct nvs_trouble){.card = false, .result = result};
    snprintf(trouble->reason, sizeof(trouble->reason), "managed memory is not prefetched (CUDA error %d)", (int)result);
    return 0;
}

void nvs_managed_reset(const struct nvs_device *device) {
    *nvs_managed_of(device) = NULL; // a parent's blocks are left where they are: another thread may be changing them
}
