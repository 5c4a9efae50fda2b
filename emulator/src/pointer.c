/* What the driver says about an address, and hands out for it. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>

#include "physical.h"

#define PAGE_BYTES 4096ULL

static int device_ordinal(const struct emu_range *range) {
    return (int)(range->device - emu.devices);
}

static bool is_host(const struct emu_range *range) {
    return range->kind == EMU_RANGE_PINNED || range->kind == EMU_RANGE_REGISTERED;
}

struct block {
    uint64_t start;
    uint64_t bytes;
};

/* What RANGE_START_ADDR and RANGE_SIZE mean: of mapped memory the real driver names the whole reservation. */
static struct block block_of(const struct emu_range *range) {
    struct block block = {range->start, range->bytes};
    if (range->kind == EMU_RANGE_MAPPED) {
        (void)emu_reservation_of(range->start, &block.start, &block.bytes);
    }
    return block;
}

static CUresult attribute_of(const struct emu_range *range, CUdeviceptr pointer, CUpointer_attribute attribute,
                             void *data) {
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        *(CUcontext *)data = range->context;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned *)data = is_host(range) ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
        *(CUdeviceptr *)data = pointer;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        if (!is_host(range) && range->kind != EMU_RANGE_MANAGED) {
            return CUDA_ERROR_INVALID_VALUE;
        }
        *(CUdeviceptr *)data = pointer;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
        *(unsigned *)data = range->sync_memops;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
        *(unsigned *)data = range->kind == EMU_RANGE_DEVICE && range->pool == NULL;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
        *(unsigned *)data = range->kind == EMU_RANGE_DEVICE || range->kind == EMU_RANGE_MAPPED;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
        *(unsigned *)data = 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
        *(unsigned long long *)data = range->id;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
        *(unsigned *)data = range->kind == EMU_RANGE_MANAGED;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)data = device_ordinal(range);
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
        *(CUdeviceptr *)data = block_of(range).start;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
        *(size_t *)data = block_of(range).bytes;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
        *(CUdeviceptr *)data = range->start;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
        *(size_t *)data = range->bytes;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPED:
        *(unsigned *)data = 1;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
        *(unsigned long long *)data =
            range->kind == EMU_RANGE_MAPPED ? range->physical->properties.requestedHandleTypes : 0;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
        *(unsigned long long *)data = range->kind != EMU_RANGE_MAPPED || range->writable != 0
                                          ? CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE
                                      : range->readable != 0 ? CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READ
                                                             : CU_POINTER_ATTRIBUTE_ACCESS_FLAG_NONE;
        return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
        *(CUmemoryPool *)data = range->pool;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

EMU_EXPORT CUresult CUDAAPI cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    const struct emu_range *range = emu_range_find(pointer);
    if (data == NULL || range == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    return emu_leave(attribute_of(range, pointer, attribute, data));
}

/* An address that the driver does not know is no error here: each value is then 0, as the real driver documents. */
EMU_EXPORT CUresult CUDAAPI cuPointerGetAttributes(unsigned count, CUpointer_attribute *attributes, void **data,
                                                   CUdeviceptr pointer) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (count == 0 || attributes == NULL || data == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    const struct emu_range *range = emu_range_find(pointer);
    for (unsigned index = 0; index < count; index++) {
        if (range != NULL && attribute_of(range, pointer, attributes[index], data[index]) == CUDA_SUCCESS) {
            continue;
        }
        bool is_narrow = attributes[index] == CU_POINTER_ATTRIBUTE_MEMORY_TYPE ||
                         attributes[index] == CU_POINTER_ATTRIBUTE_IS_MANAGED ||
                         attributes[index] == CU_POINTER_ATTRIBUTE_MAPPED ||
                         attributes[index] == CU_POINTER_ATTRIBUTE_SYNC_MEMOPS;
        if (attributes[index] == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) {
            *(int *)data[index] = -2; /* the real driver's value for an address without a device */
        } else if (is_narrow) {
            *(unsigned *)data[index] = 0;
        } else {
            *(unsigned long long *)data[index] = 0;
        }
    }
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuPointerSetAttribute(const void *value, CUpointer_attribute attribute,
                                                  CUdeviceptr pointer) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct emu_range *range = emu_range_find(pointer);
    if (value == NULL || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS || range == NULL || is_host(range)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    range->sync_memops = *(const unsigned *)value != 0;
    return emu_leave(CUDA_SUCCESS);
}

/* What is handed out for RDMA: no device can reach memory by it here, so it only stands for the memory, and is as long.
 */
EMU_EXPORT CUresult CUDAAPI cuMemGetHandleForAddressRange(void *handle, CUdeviceptr pointer, size_t bytes,
                                                          CUmemRangeHandleType type, unsigned long long flags) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    bool is_aligned = pointer % PAGE_BYTES == 0 && bytes % PAGE_BYTES == 0 && bytes > 0;
    if (handle == NULL || !is_aligned || type != CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD || flags != 0 ||
        !emu_is_device_address(pointer) || !emu_range_covers(pointer, bytes, context, EMU_TOUCH_READ)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    int descriptor = memfd_create("nvshare-emulator-range", MFD_CLOEXEC);
    if (descriptor < 0) {
        return emu_leave(CUDA_ERROR_OPERATING_SYSTEM);
    }
    if (ftruncate(descriptor, (off_t)bytes) != 0) {
        close(descriptor);
        return emu_leave(CUDA_ERROR_OPERATING_SYSTEM);
    }
    *(int *)handle = descriptor;
    return emu_leave(CUDA_SUCCESS);
}
