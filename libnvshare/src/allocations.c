// The wrappers that allocate, free, and answer how much memory there is.
//
// Linear and pitched memory comes out of the device's arena and can move (stream-ordered memory, too: mempool.c), and
// so does most physical memory of cuMemCreate (physical.c). Managed memory, other physical memory, and arrays are the
// driver's own: counted, and pinned.
#include "allocate.h"
#include "call.h"
#include "footprint.h"
#include "library.h"
#include "managed.h"
#include "physical.h"

// Alignment of rows that is assumed before the driver has chosen the pitch.
#define NVS_PITCH_BYTES 512u

NVS_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize) {
    CUcontext context = NULL;
    struct nvs_device *device = nvs_allocating_device(&context);
    if (nvs_real.cuMemAlloc_v2 == NULL)
        return CUDA_ERROR_NO_DEVICE;
    if (device == NULL || dptr == NULL || bytesize == 0)
        return nvs_real.cuMemAlloc_v2(dptr, bytesize);
    if (nvs_managed_on())
        return nvs_managed_allocate(device, context, bytesize, dptr);
    if (nvs_memory_ready(device))
        return nvs_memory_allocate(device, &(struct nvs_request){.bytes = bytesize, .context = context}, dptr);
    NVS_ALLOCATE(device, context, bytesize, nvs_real.cuMemAlloc_v2(dptr, bytesize), *dptr, NVS_PIN_LINEAR);
}

NVS_EXPORT CUresult cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes, size_t Height,
                                       unsigned int ElementSizeBytes) {
    CUcontext context = NULL;
    struct nvs_device *device = nvs_allocating_device(&context);
    if (nvs_real.cuMemAllocPitch_v2 == NULL)
        return CUDA_ERROR_NO_DEVICE;
    if (device == NULL || dptr == NULL || pPitch == NULL || WidthInBytes > SIZE_MAX - NVS_PITCH_BYTES)
        return nvs_real.cuMemAllocPitch_v2(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes);
    size_t row = (WidthInBytes + NVS_PITCH_BYTES - 1) / NVS_PITCH_BYTES * NVS_PITCH_BYTES;
    size_t bytes = Height != 0 && row > SIZE_MAX / Height ? SIZE_MAX : row * Height;
    bool known_element = ElementSizeBytes == 4 || ElementSizeBytes == 8 || ElementSizeBytes == 16;
    if (known_element && bytes != 0 && nvs_memory_ready(device)) {
        CUresult result = nvs_memory_allocate(device, &(struct nvs_request){.bytes = bytes, .context = context}, dptr);
        if (result == CUDA_SUCCESS)
            *pPitch = row;
        return result;
    }
    NVS_ALLOCATE(device, context, bytes,
                 nvs_real.cuMemAllocPitch_v2(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes), *dptr,
                 NVS_PIN_LINEAR);
}

NVS_EXPORT CUresult cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags) {
    CUcontext context = NULL;
    struct nvs_device *device = nvs_allocating_device(&context);
    if (nvs_real.cuMemAllocManaged == NULL)
        return CUDA_ERROR_NO_DEVICE;
    if (device == NULL || dptr == NULL || bytesize == 0)
        return nvs_real.cuMemAllocManaged(dptr, bytesize, flags);
    NVS_ALLOCATE(device, context, bytesize, nvs_real.cuMemAllocManaged(dptr, bytesize, flags), *dptr, NVS_PIN_MANAGED);
}

NVS_EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop,
                                unsigned long long flags) {
    struct nvs_device *device = NULL;
    bool outermost = nvs_library_start() && nvs_thread_join() != NULL && !nvs_thread_self->allocates;
    if (nvs_real.cuMemCreate == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (outermost && prop != NULL &&
        prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE) // host memory is not on the card
        device = nvs_device_of_ordinal(prop->location.id);
    if (device == NULL || handle == NULL || size == 0)
        return nvs_real.cuMemCreate(handle, size, prop, flags);
    if (nvs_physical_can_move(size, prop, flags) && nvs_memory_ready(device))
        return nvs_physical_create(device, size, prop, handle);
    NVS_ALLOCATE(device, NULL, size, nvs_real.cuMemCreate(handle, size, prop, flags), *handle, nvs_physical_pin(prop));
}

// ---- Arrays. Their size in memory is the driver's secret; what counts is the size of their elements.

static size_t nvs_element_bytes(CUarray_format format, unsigned channels) {
    switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
        return channels;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
        return (size_t)2 * channels;
    default:
        return (size_t)4 * channels;
    }
}

static size_t nvs_array_bytes(const CUDA_ARRAY3D_DESCRIPTOR *array) {
    size_t height = array->Height == 0 ? 1 : array->Height;
    size_t depth = array->Depth == 0 ? 1 : array->Depth;
    return array->Width * height * depth * nvs_element_bytes(array->Format, array->NumChannels);
}

NVS_EXPORT CUresult cuArrayCreate_v2(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray) {
    CUcontext context = NULL;
    struct nvs_device *device = nvs_allocating_device(&context);
    if (nvs_real.cuArrayCreate_v2 == NULL)
        return CUDA_ERROR_NO_DEVICE;
    if (device == NULL || pHandle == NULL || pAllocateArray == NULL)
        return nvs_real.cuArrayCreate_v2(pHandle, pAllocateArray);
    CUDA_ARRAY3D_DESCRIPTOR array = {.Width = pAllocateArray->Width,
                                     .Height = pAllocateArray->Height,
                                     .Format = pAllocateArray->Format,
                                     .NumChannels = pAllocateArray->NumChannels};
    NVS_ALLOCATE(device, context, nvs_array_bytes(&array), nvs_real.cuArrayCreate_v2(pHandle, pAllocateArray),
                 (uintptr_t)*pHandle, NVS_PIN_ARRAY);
}

NVS_EXPORT CUresult cuArray3DCreate_v2(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray) {
    CUcontext context = NULL;
    struct nvs_device *device = nvs_allocating_device(&context);
    if (nvs_real.cuArray3DCreate_v2 == NULL)
        return CUDA_ERROR_NO_DEVICE;
    if (device == NULL || pHandle == NULL || pAllocateArray == NULL)
        return nvs_real.cuArray3DCreate_v2(pHandle, pAllocateArray);
    NVS_ALLOCATE(device, context, nvs_array_bytes(pAllocateArray), nvs_real.cuArray3DCreate_v2(pHandle, pAllocateArray),
                 (uintptr_t)*pHandle, NVS_PIN_ARRAY);
}

NVS_EXPORT CUresult cuMipmappedArrayCreate(CUmipmappedArray *pHandle,
                                           const CUDA_ARRAY3D_DESCRIPTOR *pMipmappedArrayDesc,
                                           unsigned int numMipmapLevels) {
    CUcontext context = NULL;
    struct nvs_device *device = nvs_allocating_device(&context);
    if (nvs_real.cuMipmappedArrayCreate == NULL)
        return CUDA_ERROR_NO_DEVICE;
    if (device == NULL || pHandle == NULL || pMipmappedArrayDesc == NULL)
        return nvs_real.cuMipmappedArrayCreate(pHandle, pMipmappedArrayDesc, numMipmapLevels);
    size_t bytes = nvs_array_bytes(pMipmappedArrayDesc);
    bytes += numMipmapLevels > 1 ? bytes / 3 : 0; // 1/4 + 1/16 + …
    NVS_ALLOCATE(device, context, bytes, nvs_real.cuMipmappedArrayCreate(pHandle, pMipmappedArrayDesc, numMipmapLevels),
                 (uintptr_t)*pHandle, NVS_PIN_ARRAY);
}

// ---- Freeing. Out of the table first: the address may be another allocation's as soon as the driver has freed it.

#define NVS_FREE_WRAPPER(name, handle, params, args)                                                                   \
    NVS_EXPORT CUresult name params {                                                                                  \
        if (nvs_real.name == NULL)                                                                                     \
            return CUDA_ERROR_NOT_SUPPORTED;                                                                           \
        struct nvs_allocation allocation = nvs_footprint_take((uintptr_t)(handle));                                    \
        CUresult result = nvs_real.name args;                                                                          \
        nvs_footprint_freed(&allocation, result);                                                                      \
        return result;                                                                                                 \
    }

NVS_EXPORT CUresult cuMemFree_v2(CUdeviceptr dptr) {
    struct nvs_device *device = nvs_memory_device_of(dptr);
    if (nvs_real.cuMemFree_v2 == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (device != NULL)
        return nvs_memory_free(device, dptr, NULL, 0);
    CUresult result;
    if (nvs_managed_on() && nvs_managed_free(dptr, &result))
        return result;
    struct nvs_allocation allocation = nvs_footprint_take(dptr);
    result = nvs_real.cuMemFree_v2(dptr);
    nvs_footprint_freed(&allocation, result);
    return result;
}

NVS_EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
    struct nvs_device *device = nvs_memory_device_of(handle);
    if (nvs_real.cuMemRelease == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (device != NULL)
        return nvs_physical_release(device, handle);
    struct nvs_allocation allocation = nvs_footprint_take(handle);
    CUresult result = nvs_real.cuMemRelease(handle);
    nvs_footprint_freed(&allocation, result);
    return result;
}

NVS_FREE_WRAPPER(cuArrayDestroy, hArray, (CUarray hArray), (hArray))
NVS_FREE_WRAPPER(cuMipmappedArrayDestroy, hMipmappedArray, (CUmipmappedArray hMipmappedArray), (hMipmappedArray))

// ---- Answers: a program with a limit sees a card of that size.

NVS_EXPORT CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes) {
    struct nvs_device *device = nvs_allocating_device(NULL);
    if (nvs_real.cuMemGetInfo_v2 == NULL)
        return CUDA_ERROR_NO_DEVICE;
    uint64_t limit_bytes, footprint_bytes;
    CUresult result = CUDA_SUCCESS;
    if (device != NULL)
        result = nvs_device_memory(device, &limit_bytes, &footprint_bytes);
    if (result == CUDA_SUCCESS)
        result = nvs_real.cuMemGetInfo_v2(free_bytes, total_bytes);
    if (result != CUDA_SUCCESS || device == NULL || free_bytes == NULL || total_bytes == NULL)
        return result;
    if (*total_bytes > limit_bytes)
        *total_bytes = limit_bytes;
    uint64_t left_bytes = limit_bytes > footprint_bytes ? limit_bytes - footprint_bytes : 0;
    if (*free_bytes > left_bytes)
        *free_bytes = left_bytes;
    return result;
}

NVS_EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev) {
    if (!nvs_library_start() || nvs_real.cuDeviceTotalMem_v2 == NULL)
        return CUDA_ERROR_NO_DEVICE;
    CUresult result = nvs_real.cuDeviceTotalMem_v2(bytes, dev);
    struct nvs_device *device = nvs_device_of_ordinal(dev);
    if (result != CUDA_SUCCESS || device == NULL || bytes == NULL)
        return result;
    uint64_t limit_bytes, footprint_bytes;
    result = nvs_device_memory(device, &limit_bytes, &footprint_bytes);
    if (result != CUDA_SUCCESS)
        return result;
    if (*bytes > limit_bytes)
        *bytes = limit_bytes;
    return result;
}
