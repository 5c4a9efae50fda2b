#include "host_pin.h"

#include "host_memory.h"
#include "log.h"

static void pop(void) {
    CUcontext popped;
    if (nvs_real.cuCtxPopCurrent_v2(&popped) != CUDA_SUCCESS)
        nvs_log_once(NVS_LOG_WARN, "cuCtxPopCurrent failed on the pool's thread");
}

CUresult nvs_host_pin(CUcontext context, void *address, size_t bytes) {
    if (nvs_real.cuMemHostRegister_v2 == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    CUresult result = nvs_real.cuCtxPushCurrent_v2(context);
    if (result != CUDA_SUCCESS)
        return result;
    result = nvs_real.cuMemHostRegister_v2(address, bytes, CU_MEMHOSTREGISTER_PORTABLE);
    pop();
    return result == CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED ? CUDA_SUCCESS : result;
}

void nvs_host_unpin(CUcontext context, void *address) {
    if (nvs_real.cuMemHostUnregister == NULL || nvs_real.cuCtxPushCurrent_v2(context) != CUDA_SUCCESS)
        return;
    if (nvs_real.cuMemHostUnregister(address) != CUDA_SUCCESS)
        nvs_log_once(NVS_LOG_WARN, "cuMemHostUnregister failed");
    pop();
}

int nvs_host_pin_numa_node(CUcontext context) {
    int node = NVS_NUMA_UNKNOWN;
    CUdevice device;
    if (nvs_real.cuDeviceGetAttribute == NULL || nvs_real.cuCtxPushCurrent_v2(context) != CUDA_SUCCESS)
        return node;
    if (nvs_real.cuCtxGetDevice(&device) != CUDA_SUCCESS ||
        nvs_real.cuDeviceGetAttribute(&node, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, device) != CUDA_SUCCESS)
        node = NVS_NUMA_UNKNOWN;
    pop();
    return node;
}
