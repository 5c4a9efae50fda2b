/* Devices: their number, names, sizes and attributes. */
#include "driver.h"

#include <stdio.h>
#include <string.h>

#include "visible.h"

#define DEVICE_NAME "NVIDIA Emulated GPU"

EMU_EXPORT CUresult CUDAAPI cuDriverGetVersion(int *version) {
    if (version == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *version = EMU_DRIVER_VERSION;
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuDeviceGetCount(int *count) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (count == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *count = emu.device_count;
    return emu_leave(CUDA_SUCCESS);
}

static CUresult enter_device(CUdevice handle, const void *result_pointer, struct emu_device **device) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (result_pointer == NULL || handle < 0 || handle >= emu.device_count) {
        return emu_leave(result_pointer == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_DEVICE);
    }
    *device = &emu.devices[handle];
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuDeviceGet(CUdevice *handle, int ordinal) {
    struct emu_device *device = NULL;
    CUresult result = enter_device(ordinal, handle, &device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    *handle = ordinal;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuDeviceGetName(char *name, int length, CUdevice handle) {
    struct emu_device *device = NULL;
    CUresult result = enter_device(handle, name, &device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (length <= 0) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    snprintf(name, (size_t)length, "%s", DEVICE_NAME);
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuDeviceGetUuid(CUuuid *uuid, CUdevice handle) {
    struct emu_device *device = NULL;
    CUresult result = enter_device(handle, uuid, &device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    memcpy(uuid->bytes, device->card->uuid, sizeof uuid->bytes);
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuDeviceTotalMem(size_t *bytes, CUdevice handle) {
    struct emu_device *device = NULL;
    CUresult result = enter_device(handle, bytes, &device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    *bytes = device->card->total_bytes;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuDeviceComputeCapability(int *major, int *minor, CUdevice handle) {
    struct emu_device *device = NULL;
    CUresult result = enter_device(handle, major, &device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    *major = 9;
    if (minor != NULL) {
        *minor = 0;
    }
    return emu_leave(CUDA_SUCCESS);
}

/* What is not named here is 0: the feature is absent. */
static int attribute_value(const struct emu_device *device, CUdevice_attribute attribute) {
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
        return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
        return 64;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
        return 2147483647;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
        return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
        return 49152;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
        return 232448;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
        return 233472;
    case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK:
        return 1024;
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY:
        return 65536;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
        return 32;
    case CU_DEVICE_ATTRIBUTE_MAX_PITCH:
        return 2147483647;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
        return 65536;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
        return 1980000;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
        return 3201000;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
        return 6144;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
        return 62914560;
    case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT:
        return 512;
    case CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT:
        return 32;
    case CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT:
        return 512;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        return 132;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
        return 2048;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
        return 32;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
        return 2;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        return 9;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        return 0;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
        return device->index + 1;
    case CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO:
        return 2;
    case CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID:
        return 0;
    case CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES:
        return CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS:
    case CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM:
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS:
    case CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR:
    case CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_ECC_ENABLED:
        return 1;
    default:
        return 0;
    }
}

EMU_EXPORT CUresult CUDAAPI cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice handle) {
    struct emu_device *device = NULL;
    CUresult result = enter_device(handle, value, &device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if ((int)attribute <= 0 || attribute >= CU_DEVICE_ATTRIBUTE_MAX) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *value = attribute_value(device, attribute);
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuDeviceGetPCIBusId(char *text, int length, CUdevice handle) {
    struct emu_device *device = NULL;
    CUresult result = enter_device(handle, text, &device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    int needed = snprintf(text, length > 0 ? (size_t)length : 0, "0000:%02X:00.0", (unsigned)device->index + 1);
    return emu_leave(needed < length ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

EMU_EXPORT CUresult CUDAAPI cuDeviceGetByPCIBusId(CUdevice *handle, const char *text) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (handle == NULL || text == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    int card = emu_card_of_bus_id(emu.cards, text);
    for (int index = 0; index < emu.device_count; index++) {
        if (emu.devices[index].index == card) {
            *handle = index;
            return emu_leave(CUDA_SUCCESS);
        }
    }
    return emu_leave(CUDA_ERROR_INVALID_DEVICE);
}

EMU_EXPORT CUresult CUDAAPI cuDeviceCanAccessPeer(int *can_access, CUdevice handle, CUdevice peer) {
    struct emu_device *device = NULL;
    CUresult result = enter_device(handle, can_access, &device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (peer < 0 || peer >= emu.device_count) {
        return emu_leave(CUDA_ERROR_INVALID_DEVICE);
    }
    *can_access = peer != handle ? 1 : 0;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute attribute, CUdevice handle,
                                                    CUdevice peer) {
    struct emu_device *device = NULL;
    CUresult result = enter_device(handle, value, &device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (peer < 0 || peer >= emu.device_count || peer == handle) {
        return emu_leave(CUDA_ERROR_INVALID_DEVICE);
    }
    *value = attribute == CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED ||
             attribute == CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED ||
             attribute == CU_DEVICE_P2P_ATTRIBUTE_CUDA_ARRAY_ACCESS_SUPPORTED;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuCtxEnablePeerAccess(CUcontext peer, unsigned flags) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (flags != 0 || !emu_context_is_valid(peer) || peer->device == context->device) {
        return emu_leave(flags != 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_CONTEXT);
    }
    uint32_t bit = 1U << (peer->device - emu.devices);
    if ((context->peers & bit) != 0) {
        return emu_leave(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
    }
    context->peers |= bit;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuCtxDisablePeerAccess(CUcontext peer) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!emu_context_is_valid(peer)) {
        return emu_leave(CUDA_ERROR_INVALID_CONTEXT);
    }
    uint32_t bit = 1U << (peer->device - emu.devices);
    if ((context->peers & bit) == 0) {
        return emu_leave(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
    }
    context->peers &= ~bit;
    return emu_leave(CUDA_SUCCESS);
}
