// The wrappers of NVML: a program with a memory limit sees a card of that size.
#include "device.h"
#include "driver.h"
#include "library.h"

// Which of our devices an NVML handle means; NULL: none that this process uses.
static struct nvs_device *nvs_nvml_device(nvmlDevice_t handle) {
    char uuid[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
    if (nvs_real_nvml.nvmlDeviceGetUUID == NULL ||
        nvs_real_nvml.nvmlDeviceGetUUID(handle, uuid, sizeof(uuid)) != NVML_SUCCESS)
        return NULL;
    struct nvs_device *device = nvs_device_of_uuid(uuid);
    return device != NULL && atomic_load_explicit(&device->in_use, memory_order_acquire) ? device : NULL;
}

static void nvs_nvml_limit(nvmlDevice_t handle, unsigned long long *total, unsigned long long *free_bytes,
                           unsigned long long *used) {
    struct nvs_device *device = nvs_nvml_device(handle);
    uint64_t limit_bytes, footprint_bytes;
    if (device == NULL || nvs_device_memory(device, &limit_bytes, &footprint_bytes) != CUDA_SUCCESS ||
        *total <= limit_bytes)
        return;
    *total = limit_bytes;
    *used = footprint_bytes < limit_bytes ? footprint_bytes : limit_bytes;
    *free_bytes = *total - *used;
}

NVS_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    if (!nvs_nvml_load(true) || nvs_real_nvml.nvmlDeviceGetMemoryInfo == NULL)
        return NVML_ERROR_UNINITIALIZED;
    nvmlReturn_t result = nvs_real_nvml.nvmlDeviceGetMemoryInfo(device, memory);
    if (result == NVML_SUCCESS)
        nvs_nvml_limit(device, &memory->total, &memory->free, &memory->used);
    return result;
}

NVS_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    if (!nvs_nvml_load(true) || nvs_real_nvml.nvmlDeviceGetMemoryInfo_v2 == NULL)
        return NVML_ERROR_UNINITIALIZED;
    nvmlReturn_t result = nvs_real_nvml.nvmlDeviceGetMemoryInfo_v2(device, memory);
    if (result == NVML_SUCCESS)
        nvs_nvml_limit(device, &memory->total, &memory->free, &memory->used);
    return result;
}
