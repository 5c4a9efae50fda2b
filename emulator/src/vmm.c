/* Virtual memory management: reserved addresses, mappings and access. */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "physical.h"
#include "sorted.h"

static struct emu_sorted reserved = {.item_bytes = sizeof(struct emu_stretch)};

bool emu_is_reserved(uint64_t address) {
    return emu_sorted_find(&reserved, address) != NULL;
}

bool emu_reservation_of(uint64_t address, uint64_t *start, uint64_t *bytes) {
    const struct emu_stretch *found = emu_sorted_find(&reserved, address);
    if (found != NULL) {
        *start = found->start;
        *bytes = found->bytes;
    }
    return found != NULL;
}

/* ---- Addresses
 * ------------------------------------------------------------------------------------------------------------ */

static void *reserve_pages(uint64_t start, uint64_t bytes) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (start != 0) {
        void *fixed = mmap((void *)(uintptr_t)start, bytes, PROT_NONE, flags | MAP_FIXED_NOREPLACE, -1, 0);
        if (fixed != MAP_FAILED) {
            return fixed;
        }
    }
    return mmap(NULL, bytes, PROT_NONE, flags, -1, 0);
}

EMU_EXPORT CUresult CUDAAPI cuMemAddressReserve(CUdeviceptr *pointer, size_t bytes, size_t alignment,
                                                CUdeviceptr wanted, unsigned long long flags) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    alignment = alignment < EMU_GRANULE_BYTES ? EMU_GRANULE_BYTES : alignment;
    if (pointer == NULL || bytes == 0 || !emu_is_granular(bytes) || (alignment & (alignment - 1)) != 0 || flags != 0 ||
        bytes > (1ULL << 46)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    bool as_wanted = wanted != 0 && wanted % alignment == 0;
    uint64_t room = bytes + (as_wanted ? 0 : alignment);
    void *pages = emu_sorted_reserve(&reserved) ? reserve_pages(as_wanted ? wanted : 0, room) : MAP_FAILED;
    if (pages == MAP_FAILED) {
        return emu_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    uint64_t start = ((uint64_t)(uintptr_t)pages + alignment - 1) & ~(uint64_t)(alignment - 1);
    if (as_wanted && start != (uint64_t)(uintptr_t)pages) {
        munmap(pages, room); /* placed elsewhere, and not aligned there */
        room = bytes + alignment;
        pages = reserve_pages(0, room);
        if (pages == MAP_FAILED) {
            return emu_leave(CUDA_ERROR_OUT_OF_MEMORY);
        }
        start = ((uint64_t)(uintptr_t)pages + alignment - 1) & ~(uint64_t)(alignment - 1);
    }
    uint64_t before = start - (uint64_t)(uintptr_t)pages;
    uint64_t after = room - before - bytes;
    if (before > 0) {
        munmap(pages, before);
    }
    if (after > 0) {
        munmap((void *)(uintptr_t)(start + bytes), after);
    }
    (void)emu_sorted_add(&reserved, &(struct emu_stretch){.start = start, .bytes = bytes}); /* there is room */
    *pointer = start;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuMemAddressFree(CUdeviceptr start, size_t bytes) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    const struct emu_stretch *reservation = emu_sorted_find(&reserved, start);
    if (reservation == NULL || reservation->start != start || reservation->bytes != bytes ||
        emu_range_overlaps(start, bytes)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    emu_sorted_remove(&reserved, start);
    munmap((void *)(uintptr_t)start, bytes);
    return emu_leave(CUDA_SUCCESS);
}

static bool is_reserved(uint64_t start, uint64_t bytes) {
    const struct emu_stretch *reservation = emu_sorted_find(&reserved, start);
    return reservation != NULL && bytes <= reservation->bytes - (start - reservation->start);
}

/* ---- Mapping
 * -------------------------------------------------------------------------------------------------------------------
 */

/* The host's own page protection of a range: kernels run on the host here. */
static int protection_of(const struct emu_range *range) {
    if (range->writable != 0) {
        return PROT_READ | PROT_WRITE;
    }
    return range->readable != 0 ? PROT_READ : PROT_NONE;
}

bool emu_range_map(const struct emu_range *range) {
    return mmap((void *)(uintptr_t)range->start, range->bytes, protection_of(range),
                MAP_SHARED | MAP_FIXED | MAP_NORESERVE, range->backing, (off_t)range->offset) != MAP_FAILED;
}

static bool unmap_pages(uint64_t start, uint64_t bytes) {
    return mmap((void *)(uintptr_t)start, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
                0) != MAP_FAILED;
}

EMU_EXPORT CUresult CUDAAPI cuMemMap(CUdeviceptr start, size_t bytes, size_t offset,
                                     CUmemGenericAllocationHandle handle, unsigned long long flags) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct emu_physical *physical = emu_physical_of(handle);
    /* The driver documents that the offset must be zero; the first part of a handle can be mapped alone. */
    if (physical == NULL || bytes == 0 || !emu_is_granular(start) || !emu_is_granular(bytes) || offset != 0 ||
        flags != 0 || bytes > physical->bytes || !is_reserved(start, bytes) || emu_range_overlaps(start, bytes)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    struct emu_range range = {.start = start,
                              .bytes = bytes,
                              .kind = EMU_RANGE_MAPPED,
                              .device = physical->device != NULL ? physical->device : &emu.devices[0],
                              .physical = physical};
    range.backing = emu_physical_backing(physical, &range.offset);
    if (!emu_range_map(&range)) {
        return emu_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    if (emu_range_add(&range) == NULL) {
        unmap_pages(start, bytes);
        return emu_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    physical->mappings++;
    return emu_leave(CUDA_SUCCESS);
}

/* Whether [start, start + bytes) is made of whole mappings. */
static bool is_whole_mappings(uint64_t start, uint64_t bytes) {
    uint64_t address = start;
    while (address < start + bytes) {
        const struct emu_range *range = emu_range_find(address);
        if (range == NULL || range->kind != EMU_RANGE_MAPPED || range->start != address) {
            return false;
        }
        address += range->bytes;
    }
    return address == start + bytes;
}

EMU_EXPORT CUresult CUDAAPI cuMemUnmap(CUdeviceptr start, size_t bytes) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    /* Work that is still to run finds the range gone, and fails as it would on a card; only what is touching it at this
     * very moment is waited for. */
    emu_effects_wait(start, bytes);
    if (bytes == 0 || !is_whole_mappings(start, bytes)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    if (!unmap_pages(start, bytes)) {
        return emu_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    for (uint64_t address = start; address < start + bytes;) {
        const struct emu_range *range = emu_range_find(address);
        struct emu_physical *physical = range->physical;
        address += range->bytes;
        emu_range_remove(range->start);
        physical->mappings--;
        emu_physical_free_if_unused(physical);
    }
    return emu_leave(CUDA_SUCCESS);
}

/* The bit of a location in a range's masks. */
static CUresult location_bit(const CUmemLocation *location, uint32_t *bit) {
    struct emu_device *device = NULL;
    bool on_host = false;
    CUresult result = emu_location_device(location, &device, &on_host);
    *bit = on_host ? 1U << EMU_HOST_BIT : 1U << (device != NULL ? device - emu.devices : 0);
    return result;
}

static bool is_access(CUmemAccess_flags flags) {
    return flags == CU_MEM_ACCESS_FLAGS_PROT_NONE || flags == CU_MEM_ACCESS_FLAGS_PROT_READ ||
           flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
}

EMU_EXPORT CUresult CUDAAPI cuMemSetAccess(CUdeviceptr start, size_t bytes, const CUmemAccessDesc *descriptions,
                                           size_t count) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (descriptions == NULL || count == 0 || bytes == 0 || !is_whole_mappings(start, bytes)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    uint32_t touched = 0;
    uint32_t readable = 0;
    uint32_t writable = 0;
    for (size_t index = 0; index < count; index++) {
        uint32_t bit = 0;
        result = location_bit(&descriptions[index].location, &bit);
        if (result != CUDA_SUCCESS || !is_access(descriptions[index].flags)) {
            return emu_leave(result != CUDA_SUCCESS ? result : CUDA_ERROR_INVALID_VALUE);
        }
        touched |= bit;
        readable |= descriptions[index].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE ? bit : 0;
        writable |= descriptions[index].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ? bit : 0;
    }
    for (uint64_t address = start; address < start + bytes;) {
        struct emu_range *range = emu_range_find(address);
        range->readable = (range->readable & ~touched) | readable;
        range->writable = (range->writable & ~touched) | writable;
        address += range->bytes;
        if (mprotect((void *)(uintptr_t)range->start, range->bytes, protection_of(range)) != 0) {
            return emu_leave(CUDA_ERROR_OUT_OF_MEMORY);
        }
    }
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location,
                                           CUdeviceptr pointer) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    uint32_t bit = 0;
    const struct emu_range *range = emu_range_find(pointer);
    if (flags == NULL || location == NULL || range == NULL || range->kind != EMU_RANGE_MAPPED) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    result = location_bit(location, &bit);
    if (result == CUDA_SUCCESS) {
        *flags = (range->writable & bit) != 0   ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                 : (range->readable & bit) != 0 ? CU_MEM_ACCESS_FLAGS_PROT_READ
                                                : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    }
    return emu_leave(result);
}
