#define _GNU_SOURCE
#include "physical.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PHYSICAL_MAGIC 0x50485931U

struct emu_physical *emu_physical_of(CUmemGenericAllocationHandle handle) {
    struct emu_physical *physical = (struct emu_physical *)(uintptr_t)handle;
    return physical != NULL && physical->magic == PHYSICAL_MAGIC ? physical : NULL;
}

CUresult emu_location_device(const CUmemLocation *location, struct emu_device **device, bool *on_host) {
    *on_host = location->type == CU_MEM_LOCATION_TYPE_HOST || location->type == CU_MEM_LOCATION_TYPE_HOST_NUMA ||
               location->type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
    if (*on_host) {
        *device = NULL;
        return CUDA_SUCCESS;
    }
    if (location->type != CU_MEM_LOCATION_TYPE_DEVICE) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (location->id < 0 || location->id >= emu.device_count) {
        return CUDA_ERROR_INVALID_DEVICE;
    }
    *device = &emu.devices[location->id];
    return CUDA_SUCCESS;
}

static int make_shareable(uint64_t bytes) {
    int descriptor = memfd_create("nvshare-emulator-shared", MFD_CLOEXEC);
    if (descriptor >= 0 && ftruncate(descriptor, (off_t)bytes) != 0) {
        close(descriptor);
        return -1;
    }
    return descriptor;
}

EMU_EXPORT CUresult CUDAAPI cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes,
                                        const CUmemAllocationProp *properties, unsigned long long flags) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct emu_device *device = NULL;
    bool on_host = false;
    if (handle == NULL || properties == NULL || bytes == 0 || !emu_is_granular(bytes) || flags != 0 ||
        properties->type != CU_MEM_ALLOCATION_TYPE_PINNED) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    if ((properties->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0) {
        return emu_leave(CUDA_ERROR_NOT_SUPPORTED);
    }
    result = emu_location_device(&properties->location, &device, &on_host);
    if (result == CUDA_SUCCESS && !on_host) {
        result = emu_device_open(device);
    }
    struct emu_physical *physical = result == CUDA_SUCCESS ? calloc(1, sizeof *physical) : NULL;
    if (physical == NULL) {
        return emu_leave(result == CUDA_SUCCESS ? CUDA_ERROR_OUT_OF_MEMORY : result);
    }
    *physical = (struct emu_physical){.magic = PHYSICAL_MAGIC,
                                      .handles = 1,
                                      .bytes = bytes,
                                      .on_host = on_host,
                                      .descriptor = -1,
                                      .device = device,
                                      .properties = *properties};
    if (on_host || properties->requestedHandleTypes != 0) {
        physical->descriptor = make_shareable(bytes);
        result = physical->descriptor < 0 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    }
    if (result == CUDA_SUCCESS && !on_host) {
        result = emu_device_take(device, bytes, &physical->offset);
    }
    if (result != CUDA_SUCCESS) {
        if (physical->descriptor >= 0) {
            close(physical->descriptor);
        }
        free(physical);
        return emu_leave(result);
    }
    *handle = (CUmemGenericAllocationHandle)(uintptr_t)physical;
    return emu_leave(CUDA_SUCCESS);
}

void emu_physical_free_if_unused(struct emu_physical *physical) {
    if (physical->handles > 0 || physical->mappings > 0) {
        return;
    }
    if (physical->descriptor >= 0) {
        close(physical->descriptor);
    }
    if (!physical->imported && !physical->on_host) {
        emu_device_give(physical->device, physical->offset);
    }
    physical->magic = 0;
    free(physical);
}

EMU_EXPORT CUresult CUDAAPI cuMemRelease(CUmemGenericAllocationHandle handle) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct emu_physical *physical = emu_physical_of(handle);
    if (physical == NULL || physical->handles == 0) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    physical->handles--;
    emu_physical_free_if_unused(physical);
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *address) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    const struct emu_range *range = emu_range_find((uint64_t)(uintptr_t)address);
    if (handle == NULL || range == NULL || range->kind != EMU_RANGE_MAPPED) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    range->physical->handles++;
    *handle = (CUmemGenericAllocationHandle)(uintptr_t)range->physical;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *properties,
                                                                   CUmemGenericAllocationHandle handle) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    const struct emu_physical *physical = emu_physical_of(handle);
    if (properties == NULL || physical == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *properties = physical->properties;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *properties,
                                                          CUmemAllocationGranularity_flags option) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (granularity == NULL || properties == NULL || (unsigned)option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *granularity = EMU_GRANULE_BYTES;
    return emu_leave(CUDA_SUCCESS);
}

/* ---- Sharing
 * -------------------------------------------------------------------------------------------------------------------
 */

EMU_EXPORT CUresult CUDAAPI cuMemExportToShareableHandle(void *exported, CUmemGenericAllocationHandle handle,
                                                         CUmemAllocationHandleType type, unsigned long long flags) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    const struct emu_physical *physical = emu_physical_of(handle);
    if (exported == NULL || physical == NULL || flags != 0 || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ||
        (physical->properties.requestedHandleTypes & type) == 0) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    int descriptor = fcntl(physical->descriptor, F_DUPFD_CLOEXEC, 0);
    if (descriptor < 0) {
        return emu_leave(CUDA_ERROR_OPERATING_SYSTEM);
    }
    *(int *)exported = descriptor;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *exported,
                                                           CUmemAllocationHandleType type) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct stat found;
    int given = (int)(intptr_t)exported;
    if (handle == NULL || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || fstat(given, &found) != 0 ||
        found.st_size <= 0 || !emu_is_granular((uint64_t)found.st_size)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    struct emu_physical *physical = calloc(1, sizeof *physical);
    int descriptor = fcntl(given, F_DUPFD_CLOEXEC, 0);
    if (physical == NULL || descriptor < 0) {
        free(physical);
        return emu_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    *physical = (struct emu_physical){.magic = PHYSICAL_MAGIC,
                                      .handles = 1,
                                      .bytes = (uint64_t)found.st_size,
                                      .imported = true,
                                      .descriptor = descriptor,
                                      .device = context->device};
    physical->properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    physical->properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    physical->properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    physical->properties.location.id = (int)(context->device - emu.devices);
    *handle = (CUmemGenericAllocationHandle)(uintptr_t)physical;
    return emu_leave(CUDA_SUCCESS);
}
