// The wrappers that answer questions about addresses: those of the arena, and of imported blocks, are answered here, as
// the driver answers for memory of cuMemAlloc, whether the memory is on the card or away (decision 0006); and those
// that the program mapped itself, as the driver answers for these.
#include "device.h"
#include "ipc.h"
#include "library.h"
#include "mapping.h"
#include "mempool.h"
#include "vmm.h"

// What asks the driver about a block that cannot move meanwhile.
struct nvs_question {
    CUpointer_attribute attribute;
    CUdeviceptr address;
    void *data;
    const void *value;
};

static CUresult nvs_ask_tokens(struct nvs_block *block, void *argument) {
    const struct nvs_question *question = argument;
    (void)block;
    return nvs_real.cuPointerGetAttribute(question->data, question->attribute, question->address);
}

// Whoever wants tokens, or synchronous copies, is about to let another device read the memory.
static CUresult nvs_pointer_tokens(struct nvs_device *device, uint64_t home, CUdeviceptr address, void *data) {
    struct nvs_question question = {CU_POINTER_ATTRIBUTE_P2P_TOKENS, address, data, NULL};
    return nvs_memory_pin(device, home, 1, NVS_PIN_RDMA, nvs_ask_tokens, &question);
}

// Whether the library answers for this address: `device` is then the one that it belongs to, and `facts` what is known
// of its block; without a block they are empty.
static bool nvs_pointer_is_ours(CUdeviceptr address, struct nvs_device **device, struct nvs_block_facts *facts) {
    *device = nvs_memory_device_of(address);
    if (*device == NULL)
        return nvs_mapping_facts(address, device, facts) || nvs_ipc_facts(address, device, facts);
    if (nvs_memory_facts(*device, address, facts) != CUDA_SUCCESS)
        *facts = (struct nvs_block_facts){0};
    return true;
}

static CUresult nvs_pointer_answer(struct nvs_device *device, const struct nvs_block_facts *facts, CUdeviceptr address,
                                   CUpointer_attribute attribute, void *data) {
    struct nvs_block_facts block = *facts;
    if (block.bytes == 0)
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t page = block.address & ~(NVS_GRANULE_BYTES - 1);
    uint64_t page_end = (block.address + block.bytes + NVS_GRANULE_BYTES - 1) & ~(NVS_GRANULE_BYTES - 1);
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        *(CUcontext *)data = block.context;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned *)data = CU_MEMORYTYPE_DEVICE;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *(CUdeviceptr *)data = address;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        return CUDA_ERROR_INVALID_VALUE;
    case CU_POINTER_ATTRIBUTE_P2P_TOKENS:
        return nvs_pointer_tokens(device, block.home, address, data);
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
        *(unsigned *)data = block.synchronous;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
        *(unsigned long long *)data = block.identity;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        *(unsigned *)data = 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)data = device->ordinal;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
        *(unsigned *)data = block.pool == NULL && !block.mapped;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPED:
        *(unsigned *)data = 1;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        *(CUdeviceptr *)data = block.mapped ? block.range_address : block.address;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        *(size_t *)data = block.mapped ? block.range_bytes : block.bytes;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
        *(unsigned long long *)data = block.handle_types;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
        *(unsigned *)data = block.rdma;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
        *(unsigned long long *)data = block.mapped ? block.access : CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
        *(CUmemoryPool *)data = block.pool == NULL ? NULL : block.pool->handle;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
        *(size_t *)data = page_end - page;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
        *(CUdeviceptr *)data = page;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE: // extents are not made for it
        *(unsigned *)data = 0;
        return CUDA_SUCCESS;
    default: // newer than this library: as a driver that does not know it
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

NVS_EXPORT CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr) {
    if (!nvs_library_start() || nvs_real.cuPointerGetAttribute == NULL)
        return CUDA_ERROR_NOT_INITIALIZED;
    struct nvs_device *device;
    struct nvs_block_facts block;
    if (data == NULL || !nvs_pointer_is_ours(ptr, &device, &block))
        return nvs_real.cuPointerGetAttribute(data, attribute, ptr);
    return nvs_pointer_answer(device, &block, ptr, attribute, data);
}

// What the driver writes for an attribute that an address does not have.
static void nvs_pointer_nothing(CUpointer_attribute attribute, void *data) {
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)data = -2;
        break;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_MAPPED:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
    case CU_POINTER_ATTRIBUTE_LOCALITY_DOMAIN_ORDINAL:
        *(unsigned *)data = 0;
        break;
    default:
        *(unsigned long long *)data = 0;
    }
}

NVS_EXPORT CUresult cuPointerGetAttributes(unsigned int numAttributes, CUpointer_attribute *attributes, void **data,
                                           CUdeviceptr ptr) {
    if (!nvs_library_start() || nvs_real.cuPointerGetAttributes == NULL)
        return CUDA_ERROR_NOT_INITIALIZED;
    struct nvs_device *device;
    struct nvs_block_facts block;
    if (numAttributes == 0 || attributes == NULL || data == NULL || !nvs_pointer_is_ours(ptr, &device, &block))
        return nvs_real.cuPointerGetAttributes(numAttributes, attributes, data, ptr);
    for (unsigned i = 0; i < numAttributes; i++)
        if (nvs_pointer_answer(device, &block, ptr, attributes[i], data[i]) != CUDA_SUCCESS)
            nvs_pointer_nothing(attributes[i], data[i]);
    return CUDA_SUCCESS; // an address without an allocation is no error here
}

static CUresult nvs_set_synchronous(struct nvs_block *block, void *argument) {
    const struct nvs_question *question = argument;
    CUresult result = nvs_real.cuPointerSetAttribute(question->value, question->attribute, question->address);
    if (result == CUDA_SUCCESS)
        block->synchronous = *(const unsigned *)question->value != 0;
    return result;
}

NVS_EXPORT CUresult cuPointerSetAttribute(const void *value, CUpointer_attribute attribute, CUdeviceptr ptr) {
    if (!nvs_library_start() || nvs_real.cuPointerSetAttribute == NULL)
        return CUDA_ERROR_NOT_INITIALIZED;
    struct nvs_device *device = nvs_memory_device_of(ptr);
    struct nvs_block_facts block = {0};
    bool mapped = device == NULL && nvs_mapping_facts(ptr, &device, &block);
    if (device == NULL || value == NULL)
        return nvs_real.cuPointerSetAttribute(value, attribute, ptr);
    if (attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS)
        return CUDA_ERROR_INVALID_VALUE; // the only one that can be set
    CUresult result = mapped ? CUDA_SUCCESS : nvs_memory_facts(device, ptr, &block);
    if (result != CUDA_SUCCESS || (*(const unsigned *)value == 0 && !block.synchronous))
        return result;
    struct nvs_question question = {attribute, ptr, NULL, value};
    return nvs_memory_pin(device, block.home, 1, NVS_PIN_RDMA, nvs_set_synchronous, &question);
}

NVS_EXPORT CUresult cuMemGetAddressRange_v2(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr) {
    if (!nvs_library_start() || nvs_real.cuMemGetAddressRange_v2 == NULL)
        return CUDA_ERROR_NOT_INITIALIZED;
    struct nvs_device *device;
    struct nvs_block_facts block;
    if (!nvs_pointer_is_ours(dptr, &device, &block))
        return nvs_real.cuMemGetAddressRange_v2(pbase, psize, dptr);
    if (block.bytes == 0)
        return CUDA_ERROR_NOT_FOUND;
    if (pbase != NULL)
        *pbase = block.address;
    if (psize != NULL)
        *psize = block.bytes;
    return CUDA_SUCCESS;
}

struct nvs_range_question {
    void *handle;
    CUdeviceptr address;
    size_t bytes;
    CUmemRangeHandleType type;
    unsigned long long flags;
};

static CUresult nvs_ask_range(struct nvs_block *block, void *argument) {
    const struct nvs_range_question *question = argument;
    (void)block;
    return nvs_real.cuMemGetHandleForAddressRange(question->handle, question->address, question->bytes, question->type,
                                                  question->flags);
}

NVS_EXPORT CUresult cuMemGetHandleForAddressRange(void *handle, CUdeviceptr dptr, size_t size,
                                                  CUmemRangeHandleType handleType, unsigned long long flags) {
    if (!nvs_library_start() || nvs_real.cuMemGetHandleForAddressRange == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    struct nvs_device *device = nvs_memory_device_of(dptr);
    if (device == NULL) {
        CUresult result = nvs_vmm_pin(dptr, size, NVS_PIN_RANGE);
        return result != CUDA_SUCCESS ? result
                                      : nvs_real.cuMemGetHandleForAddressRange(handle, dptr, size, handleType, flags);
    }
    struct nvs_range_question question = {handle, dptr, size, handleType, flags};
    // Pages of the host are what it is asked for, and may reach beyond the block's end.
    return nvs_memory_pin(device, dptr, 1, NVS_PIN_RANGE, nvs_ask_range, &question);
}
