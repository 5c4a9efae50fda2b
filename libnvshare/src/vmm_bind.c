// The wrappers that bind the program's physical memory to something that reaches it beside its addresses: multicast
// objects, logical endpoints, sparse arrays. What is bound stays on the card.
#include "device.h"
#include "library.h"
#include "physical.h"
#include "vmm.h"

// What binds, or releases, [offset, offset + bytes) of the object; it knows the rest from `call`.
struct nvs_binding {
    const void *call;
    struct nvs_device *memory_device;
    uint64_t object_offset, memory_offset, bytes;
    CUresult (*bind)(const void *call, uint64_t object_offset, CUmemGenericAllocationHandle handle,
                     uint64_t memory_offset, uint64_t bytes);
    void (*unbind)(const void *call, uint64_t object_offset, uint64_t bytes); // its failure changes nothing
};

// Binds extent by extent, all or nothing. The block is on the card, and stays there meanwhile.
static CUresult nvs_bind_block(struct nvs_block *block, void *argument) {
    const struct nvs_binding *binding = argument;
    const struct nvs_arena *arena = &binding->memory_device->memory.arena;
    uint64_t done_bytes = 0;
    while (done_bytes < binding->bytes) {
        uint64_t home = block->address + binding->memory_offset + done_bytes;
        const struct nvs_extent *extent = arena->extents[nvs_arena_extent_from(arena, home)];
        uint64_t bytes = extent->address + extent->bytes - home;
        if (bytes > binding->bytes - done_bytes)
            bytes = binding->bytes - done_bytes;
        CUresult result = binding->bind(binding->call, binding->object_offset + done_bytes, extent->handle,
                                        home - extent->address, bytes);
        if (result != CUDA_SUCCESS) {
            if (done_bytes > 0)
                binding->unbind(binding->call, binding->object_offset, done_bytes);
            return result;
        }
        done_bytes += bytes;
    }
    return CUDA_SUCCESS;
}

// `handle` is the library's.
static CUresult nvs_bind(struct nvs_binding *binding, CUmemGenericAllocationHandle handle) {
    struct nvs_device *device = binding->memory_device;
    pthread_mutex_lock(&device->memory.lock);
    const struct nvs_block *block = nvs_physical_find(device, handle);
    bool within = block != NULL && binding->bytes > 0 && binding->memory_offset <= block->bytes &&
                  binding->bytes <= block->bytes - binding->memory_offset;
    pthread_mutex_unlock(&device->memory.lock);
    if (!within)
        return CUDA_ERROR_INVALID_VALUE;
    return nvs_memory_pin(device, handle, binding->memory_offset + binding->bytes, NVS_PIN_BOUND, nvs_bind_block,
                          binding);
}

// ---- Multicast objects

struct nvs_multicast_call {
    CUmemGenericAllocationHandle object;
    CUdevice device;
    unsigned long long flags;
    bool names_device; // the second version of the call
};

static CUresult nvs_multicast_bind(const void *argument, uint64_t object_offset, CUmemGenericAllocationHandle handle,
                                   uint64_t memory_offset, uint64_t bytes) {
    const struct nvs_multicast_call *call = argument;
    return call->names_device
               ? nvs_real.cuMulticastBindMem_v2(call->object, call->device, object_offset, handle, memory_offset, bytes,
                                                call->flags)
               : nvs_real.cuMulticastBindMem(call->object, object_offset, handle, memory_offset, bytes, call->flags);
}

static void nvs_multicast_unbind(const void *argument, uint64_t object_offset, uint64_t bytes) {
    const struct nvs_multicast_call *call = argument;
    if (nvs_real.cuMulticastUnbind != NULL)
        (void)nvs_real.cuMulticastUnbind(call->object, call->device, object_offset, bytes);
}

static CUresult nvs_multicast(const struct nvs_multicast_call *call, struct nvs_device *device, size_t object_offset,
                              CUmemGenericAllocationHandle handle, size_t memory_offset, size_t bytes) {
    struct nvs_binding binding = {
        call, device, object_offset, memory_offset, bytes, nvs_multicast_bind, nvs_multicast_unbind};
    return nvs_bind(&binding, handle);
}

NVS_EXPORT CUresult cuMulticastBindMem(CUmemGenericAllocationHandle mcHandle, size_t mcOffset,
                                       CUmemGenericAllocationHandle memHandle, size_t memOffset, size_t size,
                                       unsigned long long flags) {
    if (!nvs_library_start() || nvs_real.cuMulticastBindMem == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    struct nvs_device *device = nvs_memory_device_of(memHandle);
    if (device == NULL)
        return nvs_real.cuMulticastBindMem(mcHandle, mcOffset, memHandle, memOffset, size, flags);
    struct nvs_multicast_call call = {mcHandle, device->ordinal, flags, false};
    return nvs_multicast(&call, device, mcOffset, memHandle, memOffset, size);
}

NVS_EXPORT CUresult cuMulticastBindMem_v2(CUmemGenericAllocationHandle mcHandle, CUdevice dev, size_t mcOffset,
                                          CUmemGenericAllocationHandle memHandle, size_t memOffset, size_t size,
                                          unsigned long long flags) {
    if (!nvs_library_start() || nvs_real.cuMulticastBindMem_v2 == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    struct nvs_device *device = nvs_memory_device_of(memHandle);
    if (device == NULL)
        return nvs_real.cuMulticastBindMem_v2(mcHandle, dev, mcOffset, memHandle, memOffset, size, flags);
    struct nvs_multicast_call call = {mcHandle, dev, flags, true};
    return nvs_multicast(&call, device, mcOffset, memHandle, memOffset, size);
}

// ---- Logical endpoints

struct nvs_endpoint_call {
    CUlogicalEndpointId endpoint;
    CUdevice device;
    unsigned long long flags;
};

static CUresult nvs_endpoint_bind(const void *argument, uint64_t object_offset, CUmemGenericAllocationHandle handle,
                                  uint64_t memory_offset, uint64_t bytes) {
    const struct nvs_endpoint_call *call = argument;
    return nvs_real.cuLogicalEndpointBindMem(call->endpoint, call->device, object_offset, handle, memory_offset, bytes,
                                             call->flags);
}

static void nvs_endpoint_unbind(const void *argument, uint64_t object_offset, uint64_t bytes) {
    const struct nvs_endpoint_call *call = argument;
    if (nvs_real.cuLogicalEndpointUnbind != NULL)
        (void)nvs_real.cuLogicalEndpointUnbind(call->endpoint, call->device, object_offset, bytes);
}

NVS_EXPORT CUresult cuLogicalEndpointBindMem(CUlogicalEndpointId leId, CUdevice dev, cuuint64_t offset,
                                             CUmemGenericAllocationHandle memHandle, cuuint64_t memOffset,
                                             cuuint64_t size, unsigned long long flags) {
    if (!nvs_library_start() || nvs_real.cuLogicalEndpointBindMem == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    struct nvs_device *device = nvs_memory_device_of(memHandle);
    if (device == NULL)
        return nvs_real.cuLogicalEndpointBindMem(leId, dev, offset, memHandle, memOffset, size, flags);
    struct nvs_endpoint_call call = {leId, dev, flags};
    struct nvs_binding binding = {&call, device, offset, memOffset, size, nvs_endpoint_bind, nvs_endpoint_unbind};
    return nvs_bind(&binding, memHandle);
}

// ---- By address

#define NVS_BIND_ADDRESS(name, address, bytes, params, args)                                                           \
    NVS_EXPORT CUresult name params {                                                                                  \
        if (!nvs_library_start() || nvs_real.name == NULL)                                                             \
            return CUDA_ERROR_NOT_SUPPORTED;                                                                           \
        CUresult result = nvs_vmm_pin((address), (bytes), NVS_PIN_BOUND);                                              \
        return result != CUDA_SUCCESS ? result : nvs_real.name args;                                                   \
    }

NVS_BIND_ADDRESS(cuMulticastBindAddr, memptr, size,
                 (CUmemGenericAllocationHandle mcHandle, size_t mcOffset, CUdeviceptr memptr, size_t size,
                  unsigned long long flags),
                 (mcHandle, mcOffset, memptr, size, flags))
NVS_BIND_ADDRESS(cuMulticastBindAddr_v2, memptr, size,
                 (CUmemGenericAllocationHandle mcHandle, CUdevice dev, size_t mcOffset, CUdeviceptr memptr, size_t size,
                  unsigned long long flags),
                 (mcHandle, dev, mcOffset, memptr, size, flags))
NVS_BIND_ADDRESS(cuLogicalEndpointBindAddr, (uintptr_t)ptr, size,
                 (CUlogicalEndpointId leId, CUdevice dev, cuuint64_t offset, void *ptr, cuuint64_t size,
                  unsigned long long flags),
                 (leId, dev, offset, ptr, size, flags))

// ---- Sparse arrays. Their memory is made as a tile pool, which is the driver's own; another handle it refuses.

static bool nvs_names_movable(const CUarrayMapInfo *list, unsigned count) {
    for (unsigned i = 0; list != NULL && i < count; i++)
        if (list[i].memOperationType == CU_MEM_OPERATION_TYPE_MAP &&
            nvs_memory_device_of(list[i].memHandle.memHandle) != NULL)
            return true;
    return false;
}

#define NVS_MAP_ARRAY(name)                                                                                            \
    NVS_EXPORT CUresult name(CUarrayMapInfo *mapInfoList, unsigned int count, CUstream hStream) {                      \
        if (!nvs_library_start() || nvs_real.name == NULL)                                                             \
            return CUDA_ERROR_NOT_SUPPORTED;                                                                           \
        return nvs_names_movable(mapInfoList, count) ? CUDA_ERROR_INVALID_VALUE                                        \
                                                     : nvs_real.name(mapInfoList, count, hStream);                     \
    }

NVS_MAP_ARRAY(cuMemMapArrayAsync)
NVS_MAP_ARRAY(cuMemMapArrayAsync_ptsz)
