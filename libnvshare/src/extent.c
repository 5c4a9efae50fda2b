#include "extent.h"

#include "log.h"
#include "mapping.h"

CUresult nvs_extent_access(const struct nvs_device *device, const struct nvs_extent *extent) {
    CUmemAccessDesc access[NVS_DEVICES_MAX];
    uint32_t accessed_by = atomic_load_explicit(&device->accessed_by, memory_order_acquire);
    size_t count = 0;
    for (int i = 0; i < NVS_DEVICES_MAX; i++)
        if (i == device->ordinal || (accessed_by >> i & 1) != 0)
            access[count++] = (CUmemAccessDesc){.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = i},
                                                .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    return nvs_real.cuMemSetAccess(extent->address, extent->bytes, access, count);
}

static CUresult nvs_extent_create(struct nvs_device *device, uint64_t bytes, CUmemGenericAllocationHandle *handle) {
    CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                      .requestedHandleTypes =
                                          device->memory.exports ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR : 0,
                                      .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device->ordinal},
                                      .allocFlags = {.gpuDirectRDMACapable = device->memory.rdma}};
    CUresult result = nvs_real.cuMemCreate(handle, bytes, &properties, 0);
    if (device->memory.exports && (result == CUDA_ERROR_NOT_SUPPORTED || result == CUDA_ERROR_NOT_PERMITTED)) {
        nvs_log_once(NVS_LOG_INFO, "%s: its memory cannot be shared as descriptors here", device->uuid);
        device->memory.exports = false;
        return nvs_extent_create(device, bytes, handle);
    }
    return result;
}

static CUresult nvs_extent_map(struct nvs_device *device, struct nvs_extent *extent) {
    CUmemGenericAllocationHandle handle = 0;
    CUresult result = nvs_extent_create(device, extent->bytes, &handle);
    if (result != CUDA_SUCCESS)
        return result;
    result = nvs_real.cuMemMap(extent->address, extent->bytes, 0, handle, 0);
    if (result == CUDA_SUCCESS)
        extent->handle = handle;
    else if (nvs_real.cuMemRelease(handle) != CUDA_SUCCESS)
        nvs_log_once(NVS_LOG_ERROR, "%s: memory that could not be mapped stays allocated", device->uuid);
    return result;
}

// Only what is mapped for the library.
static CUresult nvs_extent_unmap(struct nvs_extent *extent) {
    CUresult result = nvs_real.cuMemUnmap(extent->address, extent->bytes);
    if (result != CUDA_SUCCESS)
        return result;
    // Nothing is mapped any more; a handle that the driver does not take back can only be lost.
    if (nvs_real.cuMemRelease(extent->handle) != CUDA_SUCCESS)
        nvs_log_once(NVS_LOG_ERROR, "the driver does not take physical memory back: it stays allocated");
    extent->handle = 0;
    return CUDA_SUCCESS;
}

CUresult nvs_extent_make(struct nvs_device *device, struct nvs_extent *extent) {
    CUresult result = extent->handle == 0 ? nvs_extent_map(device, extent) : CUDA_SUCCESS;
    if (result != CUDA_SUCCESS)
        return result;
    result = nvs_extent_access(device, extent);
    if (result == CUDA_SUCCESS)
        result = nvs_mapping_attach(device, extent);
    if (result != CUDA_SUCCESS && nvs_extent_unmap(extent) != CUDA_SUCCESS)
        nvs_log_once(NVS_LOG_ERROR, "%s: memory that could not be used stays mapped", device->uuid);
    return result;
}

CUresult nvs_extent_drop(struct nvs_device *device, struct nvs_extent *extent) {
    CUresult result = nvs_mapping_detach(device, extent);
    if (result != CUDA_SUCCESS)
        return result;
    result = nvs_extent_unmap(extent);
    if (result != CUDA_SUCCESS && nvs_mapping_attach(device, extent) != CUDA_SUCCESS)
        nvs_log_once(NVS_LOG_ERROR, "%s: memory that stays is not mapped for the program any more", device->uuid);
    return result;
}
