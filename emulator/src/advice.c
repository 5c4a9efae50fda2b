/* Advice on managed memory, and what ranges of it say of themselves. */
#include "entry_points.h"
#include "managed.h"

/* ---- Advice
 * ------------------------------------------------------------------------------------------------------------- */

static bool advise(struct emu_block *block, CUmem_advise advice, int location) {
    uint32_t bit = 1U << (location == CU_DEVICE_CPU ? EMU_HOST_BIT : location);
    switch (advice) {
    case CU_MEM_ADVISE_SET_READ_MOSTLY:
    case CU_MEM_ADVISE_UNSET_READ_MOSTLY:
        block->read_mostly = advice == CU_MEM_ADVISE_SET_READ_MOSTLY;
        return true;
    case CU_MEM_ADVISE_SET_PREFERRED_LOCATION:
        block->preferred = (int8_t)location;
        return true;
    case CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION:
        block->preferred = CU_DEVICE_INVALID;
        return true;
    case CU_MEM_ADVISE_SET_ACCESSED_BY:
        block->accessed_by |= bit;
        return true;
    case CU_MEM_ADVISE_UNSET_ACCESSED_BY:
        block->accessed_by &= ~bit;
        return true;
    default:
        return false;
    }
}

EMU_EXPORT CUresult CUDAAPI cuMemAdvise_v2(CUdeviceptr pointer, size_t bytes, CUmem_advise advice,
                                           CUmemLocation location) {
    CUcontext context = NULL;
    int number = CU_DEVICE_CPU;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!emu_is_managed(pointer, bytes)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    bool is_about_place = advice != CU_MEM_ADVISE_SET_READ_MOSTLY && advice != CU_MEM_ADVISE_UNSET_READ_MOSTLY &&
                          advice != CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION;
    if (is_about_place) {
        result = emu_managed_location(&location, &number);
    }
    const struct emu_range *range = emu_range_find(pointer);
    size_t last = (pointer + bytes - 1 - range->start) / EMU_GRANULE_BYTES;
    for (size_t index = (pointer - range->start) / EMU_GRANULE_BYTES; index <= last && result == CUDA_SUCCESS;
         index++) {
        result = advise(&range->blocks[index], advice, number) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    }
    return emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuMemAdvise(CUdeviceptr pointer, size_t bytes, CUmem_advise advice, CUdevice device) {
    bool on_host = device == CU_DEVICE_CPU;
    const CUmemLocation location = {.type = on_host ? CU_MEM_LOCATION_TYPE_HOST : CU_MEM_LOCATION_TYPE_DEVICE,
                                    .id = on_host ? 0 : device};
    return cuMemAdvise_v2(pointer, bytes, advice, location);
}

/* ---- Attributes of ranges
 * ------------------------------------------------------------------------------------------------------------- */

/* What all blocks agree on, or CU_DEVICE_INVALID. */
static int agreed(const struct emu_block *blocks, size_t count, bool prefetched) {
    int first = prefetched ? blocks[0].prefetched : blocks[0].preferred;
    for (size_t index = 1; index < count; index++) {
        if ((prefetched ? blocks[index].prefetched : blocks[index].preferred) != first) {
            return CU_DEVICE_INVALID;
        }
    }
    return first;
}

static int type_of(int location) {
    if (location == CU_DEVICE_INVALID) {
        return CU_MEM_LOCATION_TYPE_INVALID;
    }
    return location == CU_DEVICE_CPU ? CU_MEM_LOCATION_TYPE_HOST : CU_MEM_LOCATION_TYPE_DEVICE;
}

static void write_accessors(const struct emu_block *blocks, size_t count, int *data, size_t room) {
    uint32_t all = UINT32_MAX;
    for (size_t index = 0; index < count; index++) {
        all &= blocks[index].accessed_by;
    }
    size_t written = 0;
    for (int ordinal = 0; ordinal < emu.device_count && written < room; ordinal++) {
        if (((all >> ordinal) & 1) != 0) {
            data[written++] = ordinal;
        }
    }
    if (((all >> EMU_HOST_BIT) & 1) != 0 && written < room) {
        data[written++] = CU_DEVICE_CPU;
    }
    while (written < room) {
        data[written++] = CU_DEVICE_INVALID;
    }
}

static CUresult attribute_of(const struct emu_block *blocks, size_t count, CUmem_range_attribute attribute, int *data,
                             size_t data_bytes) {
    bool prefetched = attribute == CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION ||
                      attribute == CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE ||
                      attribute == CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID;
    if (data == NULL || data_bytes == 0 || data_bytes % sizeof *data != 0) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    switch (attribute) {
    case CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY:
        *data = 1;
        for (size_t index = 0; index < count; index++) {
            *data = *data && blocks[index].read_mostly;
        }
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY:
        write_accessors(blocks, count, data, data_bytes / sizeof *data);
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION:
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION:
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_ID:
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_ID:
        *data = agreed(blocks, count, prefetched);
        return CUDA_SUCCESS;
    case CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION_TYPE:
    case CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE:
        *data = type_of(agreed(blocks, count, prefetched));
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

EMU_EXPORT CUresult CUDAAPI cuMemRangeGetAttribute(void *data, size_t data_bytes, CUmem_range_attribute attribute,
                                                   CUdeviceptr pointer, size_t bytes) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!emu_is_managed(pointer, bytes)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    const struct emu_range *range = emu_range_find(pointer);
    size_t first = (pointer - range->start) / EMU_GRANULE_BYTES;
    size_t last = (pointer + bytes - 1 - range->start) / EMU_GRANULE_BYTES;
    return emu_leave(attribute_of(&range->blocks[first], last - first + 1, attribute, data, data_bytes));
}

EMU_EXPORT CUresult CUDAAPI cuMemRangeGetAttributes(void **data, size_t *data_bytes, CUmem_range_attribute *attributes,
                                                    size_t count, CUdeviceptr pointer, size_t bytes) {
    if (data == NULL || data_bytes == NULL || attributes == NULL || count == 0) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    CUresult result = CUDA_SUCCESS;
    for (size_t index = 0; index < count && result == CUDA_SUCCESS; index++) {
        result = cuMemRangeGetAttribute(data[index], data_bytes[index], attributes[index], pointer, bytes);
    }
    return result;
}
