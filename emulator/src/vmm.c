/* Virtual memory management: reserved addresses, mappings and access. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>

#include "physical.h"

struct reservation {
    uint64_t start;
    uint64_t bytes;
    struct reservation *next;
};

static struct reservation *reservations;

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
    struct reservation *reservation = calloc(1, sizeof *reservation);
    bool as_wanted = wanted != 0 && wanted % alignment == 0;
    uint64_t room = bytes + (as_wanted ? 0 : alignment);
    void *pages = reservation == NULL ? MAP_FAILED : reserve_pages(as_wanted ? wanted : 0, room);
    if (pages == MAP_FAILED) {
        free(reservation);
        return emu_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    uint64_t start = ((uint64_t)(uintptr_t)pages + alignment - 1) & ~(uint64_t)(alignment - 1);
    if (as_wanted && start != (uint64_t)(uintptr_t)pages) {
        munmap(pages, room); /* placed elsewhere, and not aligned there */
        room = bytes + alignment;
        pages = reserve_pages(0, room);
        if (pages == MAP_FAILED) {
            free(reservation);
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
    *reservation = (struct reservation){.start = start, .bytes = bytes, .next = reservations};
    reservations = reservation;
    *pointer = start;
    return emu_leave(CUDA_SUCCESS);
}

static bool has_mapping(uint64_t start, uint64_t bytes) {
    for (uint64_t address = start; address < start + bytes; address += EMU_GRANULE_BYTES) {
        if (emu_range_find(address) != NULL) {
            return true;
        }
    }
    return false;
}

EMU_EXPORT CUresult CUDAAPI cuMemAddressFree(CUdeviceptr start, size_t bytes) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    for (struct reservation **link = &reservations; *link != NULL; link = &(*link)->next) {
        struct reservation *reservation = *link;
        if (reservation->start == start && reservation->bytes == bytes && !has_mapping(start, bytes)) {
            *link = reservation->next;
            free(reservation);
            munmap((void *)(uintptr_t)start, bytes);
            return emu_leave(CUDA_SUCCESS);
        }
    }
    return emu_leave(CUDA_ERROR_INVALID_VALUE);
}

static bool is_reserved(uint64_t start, uint64_t bytes) {
    for (const struct reservation *reservation = reservations; reservation != NULL; reservation = reservation->next) {
        if (start >= reservation->start && bytes <= reservation->bytes &&
            start - reservation->start <= reservation->bytes - bytes) {
            return true;
        }
    }
    return false;
}

/* ---- Mapping
 * -------------------------------------------------------------------------------------------------------------------
 */

EMU_EXPORT CUresult CUDAAPI cuMemMap(CUdeviceptr start, size_t bytes, size_t offset,
                                     CUmemGenericAllocationHandle handle, unsigned long long flags) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct emu_physical *physical = emu_physical_of(handle);
    if (physical == NULL || bytes == 0 || !emu_is_granular(start) || !emu_is_granular(bytes) || offset != 0 ||
        flags != 0 || bytes > physical->bytes || !is_reserved(start, bytes) || has_mapping(start, bytes)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    bool own = physical->descriptor >= 0;
    int descriptor = own ? physical->descriptor : physical->device->arena.descriptor;
    uint64_t backing = own ? 0 : physical->offset;
    void *mapped = mmap((void *)(uintptr_t)start, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, descriptor,
                        (off_t)backing);
    struct emu_range range = {.start = start,
                              .bytes = bytes,
                              .kind = EMU_RANGE_MAPPED,
                              .device = physical->device != NULL ? physical->device : &emu.devices[0],
                              .arena = own ? NULL : &physical->device->arena,
                              .offset = physical->offset,
                              .physical = physical};
    if (mapped == MAP_FAILED || emu_range_add(&range) == NULL) {
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
    if (bytes == 0 || !is_whole_mappings(start, bytes)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    /* Work that is still to run finds the range gone, and fails as it would on a card; only what is touching memory at
     * this very moment is waited for. */
    while (emu.applying > 0) {
        pthread_cond_wait(&emu.changed, &emu.lock);
    }
    if (mmap((void *)(uintptr_t)start, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0) == MAP_FAILED) {
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

EMU_EXPORT CUresult CUDAAPI cuMemSetAccess(CUdeviceptr start, size_t bytes, const CUmemAccessDesc *descriptions,
                                           size_t count) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (descriptions == NULL || count == 0 || bytes == 0 || !is_whole_mappings(start, bytes)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    bool accessible = false;
    for (size_t index = 0; index < count; index++) {
        struct emu_device *device = NULL;
        bool on_host = false;
        result = emu_location_device(&descriptions[index].location, &device, &on_host);
        if (result != CUDA_SUCCESS) {
            return emu_leave(result);
        }
        accessible |= descriptions[index].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE;
    }
    if (mprotect((void *)(uintptr_t)start, bytes, accessible ? PROT_READ | PROT_WRITE : PROT_NONE) != 0) {
        return emu_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    for (uint64_t address = start; address < start + bytes;) {
        struct emu_range *range = emu_range_find(address);
        range->accessible = accessible;
        address += range->bytes;
    }
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location,
                                           CUdeviceptr pointer) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    const struct emu_range *range = emu_range_find(pointer);
    if (flags == NULL || location == NULL || range == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *flags = range->accessible ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    return emu_leave(CUDA_SUCCESS);
}
