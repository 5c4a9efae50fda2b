#include "physical.h"

#include "footprint.h"

#include <stdlib.h>

// One descriptor stands for all of a handle, so it has to be one extent.
static bool nvs_physical_can_export(size_t bytes, const CUmemAllocationProp *properties) {
    return properties->requestedHandleTypes == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR &&
           bytes <= NVS_EXTENT_WHOLE_BYTES;
}

bool nvs_physical_can_move(size_t bytes, const CUmemAllocationProp *properties, unsigned long long flags) {
    return bytes > 0 && bytes % NVS_GRANULE_BYTES == 0 && flags == 0 &&
           properties->type == CU_MEM_ALLOCATION_TYPE_PINNED &&
           properties->location.type == CU_MEM_LOCATION_TYPE_DEVICE &&
           (properties->requestedHandleTypes == CU_MEM_HANDLE_TYPE_NONE ||
            nvs_physical_can_export(bytes, properties)) &&
           properties->allocFlags.compressionType == CU_MEM_ALLOCATION_COMP_NONE && properties->allocFlags.usage == 0;
}

enum nvs_pin nvs_physical_pin(const CUmemAllocationProp *properties) {
    return properties->requestedHandleTypes != CU_MEM_HANDLE_TYPE_NONE ? NVS_PIN_EXPORTABLE : NVS_PIN_HANDLE;
}

CUresult nvs_physical_create(struct nvs_device *device, size_t bytes, const CUmemAllocationProp *properties,
                             CUmemGenericAllocationHandle *handle) {
    CUcontext context = NULL;
    CUdeviceptr address;
    struct nvs_physical *physical = calloc(1, sizeof(*physical));
    if (physical == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    physical->properties = *properties;
    physical->handles = 1;
    nvs_device_use(device); // nobody may have made a context yet
    if (nvs_device_current(&context) != device)
        context = NULL;
    bool exportable = properties->requestedHandleTypes != CU_MEM_HANDLE_TYPE_NONE;
    struct nvs_request request = {.bytes = bytes, .context = context, .physical = physical, .whole = exportable};
    CUresult result = nvs_memory_allocate(device, &request, &address);
    if (result != CUDA_SUCCESS) {
        free(physical);
        return result;
    }
    pthread_mutex_lock(&device->memory.lock);
    bool as_asked = !exportable || device->memory.exports;
    pthread_mutex_unlock(&device->memory.lock);
    if (!as_asked) { // the driver makes none that can be exported
        (void)nvs_physical_release(device, address);
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    *handle = address;
    return CUDA_SUCCESS;
}

struct nvs_block *nvs_physical_find(struct nvs_device *device, CUmemGenericAllocationHandle handle) {
    struct nvs_block *block = nvs_arena_find_block(&device->memory.arena, handle);
    bool found = block != NULL && block->address == handle && block->physical != NULL && block->physical->handles > 0;
    return found ? block : NULL;
}

// ---- Exporting

struct nvs_physical_call {
    const struct nvs_arena *arena;
    void *shareable;
    CUmemAllocationHandleType type;
    unsigned long long flags;
};

// The block is there and stays: the driver's handle of its one extent is now its handle for good.
static CUresult nvs_physical_export_block(struct nvs_block *block, void *argument) {
    const struct nvs_physical_call *call = argument;
    const struct nvs_extent *extent = call->arena->extents[nvs_arena_extent_from(call->arena, block->address)];
    return nvs_real.cuMemExportToShareableHandle(call->shareable, extent->handle, call->type, call->flags);
}

CUresult nvs_physical_export(struct nvs_device *device, CUmemGenericAllocationHandle handle, void *shareable,
                             CUmemAllocationHandleType type, unsigned long long flags) {
    struct nvs_physical_call call = {&device->memory.arena, shareable, type, flags};
    pthread_mutex_lock(&device->memory.lock);
    const struct nvs_block *block = nvs_physical_find(device, handle);
    bool exportable = block != NULL && (block->physical->properties.requestedHandleTypes & type) != 0;
    pthread_mutex_unlock(&device->memory.lock);
    if (!exportable)
        return CUDA_ERROR_INVALID_VALUE;
    return nvs_memory_pin(device, handle, 1, NVS_PIN_EXPORTED, nvs_physical_export_block, &call);
}

// ---- Ending

void nvs_physical_let_go(struct nvs_device *device, struct nvs_block *block) {
    if (block->physical->handles > 0 || block->physical->mappings != NULL)
        return;
    block->ending = true;
    nvs_footprint_give(device, &(struct nvs_bytes){.footprint_bytes = block->asked_bytes});
    nvs_physical_end(device, block);
}

void nvs_physical_end(struct nvs_device *device, struct nvs_block *block) {
    const struct nvs_arena *arena = &device->memory.arena;
    uint64_t end = block->address + block->bytes;
    for (size_t i = nvs_arena_extent_from(arena, block->address);
         i < arena->extent_count && arena->extents[i]->address < end; i++)
        if (arena->extents[i]->place == NVS_EXTENT_LEAVING || arena->extents[i]->place == NVS_EXTENT_COMING)
            return;
    nvs_memory_end(device, block);
}

CUresult nvs_physical_release(struct nvs_device *device, CUmemGenericAllocationHandle handle) {
    pthread_mutex_lock(&device->memory.lock);
    struct nvs_block *block = nvs_physical_find(device, handle);
    if (block != NULL) {
        block->physical->handles--;
        nvs_physical_let_go(device, block);
    }
    pthread_mutex_unlock(&device->memory.lock);
    return block == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
