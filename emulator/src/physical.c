#define _GNU_SOURCE
#include "physical.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PHYSICAL_MAGIC 0x50485931U

struct emu_physical *emu_physical_of(CUmemGenericAllocationHandle handle) {
    struct emu_physical *physical = (struct emu_physical *)(uintptr_t)handle;
    return physical != NULL && physical->magic == PHYSICAL_MAGIC ? physical : NULL;
}

CUresult emu_location_device(const CUmemLocation *location, struct emu_device **device, bool *on_host) {
    *on_host = location->type == CU_MEM_LOCATION_TYPE_HOST || location->type == CU_MEM_LOCATION_TYPE_HOST_NUMA ||
               location->type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
    if (*on_host) {
        *device = NULL;
        return CUDA_SUCCESS;
    }
    if (location->type != CU_MEM_LOCATION_TYPE_DEVICE) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (location->id < 0 || location->id >= emu.device_count) {
        return CUDA_ERROR_INVALID_DEVICE;
    }
    *device = &emu.devices[location->id];
    return CUDA_SUCCESS;
}

int emu_physical_backing(const struct emu_physical *physical, uint64_t *offset) {
    bool own = physical->descriptor != EMU_NO_BACKING;
    *offset = own ? 0 : physical->offset;
    return own ? physical->descriptor : physical->device->arena.descriptor;
}

static int make_memfd(uint64_t bytes) {
    int descriptor = memfd_create("nvshare-emulator-memory", MFD_CLOEXEC);
    if (descriptor < 0) {
        return EMU_NO_BACKING;
    }
    if (ftruncate(descriptor, (off_t)bytes) != 0) {
        close(descriptor);
        return EMU_NO_BACKING;
    }
    return descriptor;
}

EMU_EXPORT CUresult CUDAAPI cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes,
                                        const CUmemAllocationProp *properties, unsigned long long flags) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct emu_device *device = NULL;
    bool on_host = false;
    if (handle == NULL || properties == NULL || bytes == 0 || !emu_is_granular(bytes) || flags != 0 ||
        properties->type != CU_MEM_ALLOCATION_TYPE_PINNED) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    if ((properties->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0) {
        return emu_leave(CUDA_ERROR_NOT_SUPPORTED);
    }
    result = emu_location_device(&properties->location, &device, &on_host);
    if (result == CUDA_SUCCESS && !on_host) {
        result = emu_device_open(device);
    }
    struct emu_physical *physical = result == CUDA_SUCCESS ? calloc(1, sizeof *physical) : NULL;
    if (physical == NULL) {
        return emu_leave(result == CUDA_SUCCESS ? CUDA_ERROR_OUT_OF_MEMORY : result);
    }
    *physical = (struct emu_physical){.magic = PHYSICAL_MAGIC,
                                      .handles = 1,
                                      .bytes = bytes,
                                      .on_host = on_host,
                                      .descriptor = on_host ? make_memfd(bytes) : EMU_NO_BACKING,
                                      .shared_entry = EMU_SHARED_NONE,
                                      .device = device,
                                      .properties = *properties};
    if (on_host && physical->descriptor == EMU_NO_BACKING) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result == CUDA_SUCCESS && !on_host) {
        result = emu_device_take(device, EMU_USE_HANDLES, bytes, &physical->offset);
    }
    if (result != CUDA_SUCCESS) {
        if (physical->descriptor >= 0) {
            close(physical->descriptor);
        }
        free(physical);
        return emu_leave(result);
    }
    *handle = (CUmemGenericAllocationHandle)(uintptr_t)physical;
    return emu_leave(CUDA_SUCCESS);
}

static struct emu_physical *shared_physicals; /* what other processes can hold, too */

void emu_physical_free_if_unused(struct emu_physical *physical) {
    if (physical->handles > 0 || physical->mappings > 0) {
        return;
    }
    if (physical->descriptor != EMU_NO_BACKING) {
        close(physical->descriptor);
    }
    if (physical->shared_entry != EMU_SHARED_NONE) {
        struct emu_physical **link = &shared_physicals;
        while (*link != physical) {
            link = &(*link)->next_shared;
        }
        *link = physical->next_shared;
        emu_card_lock(physical->device->card);
        emu_shared_let_go(physical->device->card, physical->device->slot, physical->shared_entry);
        emu_card_unlock(physical->device->card);
    } else if (!physical->on_host) {
        emu_device_give(physical->device, EMU_USE_HANDLES, physical->offset);
    }
    physical->magic = 0;
    free(physical);
}

EMU_EXPORT CUresult CUDAAPI cuMemRelease(CUmemGenericAllocationHandle handle) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct emu_physical *physical = emu_physical_of(handle);
    if (physical == NULL || physical->handles == 0) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    physical->handles--;
    emu_physical_free_if_unused(physical);
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *address) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    const struct emu_range *range = emu_range_find((uint64_t)(uintptr_t)address);
    if (handle == NULL || range == NULL || range->kind != EMU_RANGE_MAPPED) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    range->physical->handles++;
    *handle = (CUmemGenericAllocationHandle)(uintptr_t)range->physical;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *properties,
                                                                   CUmemGenericAllocationHandle handle) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    const struct emu_physical *physical = emu_physical_of(handle);
    if (properties == NULL || physical == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *properties = physical->properties;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *properties,
                                                          CUmemAllocationGranularity_flags option) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (granularity == NULL || properties == NULL || (unsigned)option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *granularity = EMU_GRANULE_BYTES;
    return emu_leave(CUDA_SUCCESS);
}

/* ---- Sharing
 * -------------------------------------------------------------------------------------------------------------------
 */

static uint64_t key_of(int descriptor, uint64_t *bytes) {
    struct stat found;
    if (descriptor < 0 || fstat(descriptor, &found) != 0 || found.st_size < 0) {
        return 0;
    }
    *bytes = (uint64_t)found.st_size;
    return found.st_ino;
}

/* Copy what was written of a piece of the arena. */
static bool copy_out_of_arena(const struct emu_physical *physical, int target) {
    const struct emu_arena *arena = &physical->device->arena;
    uint64_t done = 0;
    while (done < physical->bytes) {
        off_t data = lseek(arena->descriptor, (off_t)(physical->offset + done), SEEK_DATA);
        if (data < 0 || (uint64_t)data >= physical->offset + physical->bytes) {
            return true;
        }
        off_t hole = lseek(arena->descriptor, data, SEEK_HOLE);
        uint64_t start = (uint64_t)data - physical->offset;
        uint64_t end = hole < 0 ? physical->bytes : (uint64_t)hole - physical->offset;
        end = end < physical->bytes ? end : physical->bytes;
        ssize_t written = pwrite(target, arena->base + data, end - start, (off_t)start);
        if (written <= 0) {
            return false;
        }
        done = start + (uint64_t)written;
    }
    return true;
}

/* Map all of the memory's ranges anew; on a failure some are left as they were. */
static bool map_ranges_of(const struct emu_physical *physical) {
    for (struct emu_range *range = emu_range_from(0); range != NULL; range = emu_range_from(range->start + 1)) {
        if (range->physical == physical) {
            range->backing = emu_physical_backing(physical, &range->offset);
            if (!emu_range_map(range)) {
                return false;
            }
        }
    }
    return true;
}

/* Move memory from the arena to a memfd of its own, which other processes may have, and enter it into the card's table.
 * Whatever fails leaves it where it was. */
static CUresult make_shareable(struct emu_physical *physical) {
    struct emu_device *device = physical->device;
    int descriptor = make_memfd(physical->bytes);
    if (descriptor < 0) {
        return CUDA_ERROR_OPERATING_SYSTEM;
    }
    emu_effects_wait(0, UINT64_MAX);
    uint64_t bytes = 0;
    int entry = EMU_SHARED_NONE;
    bool moved = copy_out_of_arena(physical, descriptor);
    if (moved) {
        physical->descriptor = descriptor;
        moved = map_ranges_of(physical);
    }
    if (moved) {
        emu_card_lock(device->card);
        entry = emu_shared_enter(device->card, device->slot, key_of(descriptor, &bytes), physical->bytes);
        emu_card_unlock(device->card);
    }
    if (entry == EMU_SHARED_NONE) {
        physical->descriptor = EMU_NO_BACKING;
        map_ranges_of(physical);
        close(descriptor);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    emu_arena_give(&device->arena, physical->offset); /* the bytes stay charged, now through the table */
    physical->shared_entry = entry;
    physical->next_shared = shared_physicals;
    shared_physicals = physical;
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuMemExportToShareableHandle(void *exported, CUmemGenericAllocationHandle handle,
                                                         CUmemAllocationHandleType type, unsigned long long flags) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct emu_physical *physical = emu_physical_of(handle);
    if (exported == NULL || physical == NULL || flags != 0 || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ||
        (physical->properties.requestedHandleTypes & type) == 0) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    result = physical->descriptor == EMU_NO_BACKING ? make_shareable(physical) : CUDA_SUCCESS;
    if (result != CUDA_SUCCESS) {
        return emu_leave(result);
    }
    int descriptor = fcntl(physical->descriptor, F_DUPFD_CLOEXEC, 0);
    if (descriptor < 0) {
        return emu_leave(CUDA_ERROR_OPERATING_SYSTEM);
    }
    *(int *)exported = descriptor;
    return emu_leave(CUDA_SUCCESS);
}

/* The visible device whose card knows shared memory by this key; NULL without one. */
static struct emu_device *device_of_key(uint64_t key) {
    for (int index = 0; key != 0 && index < emu.device_count; index++) {
        struct emu_card *card = emu.devices[index].card;
        emu_card_lock(card);
        int entry = emu_shared_find(card, key);
        emu_card_unlock(card);
        if (entry != EMU_SHARED_NONE) {
            return &emu.devices[index];
        }
    }
    return NULL;
}

/* Become a holder of memory in the card's table. NULL when it left the table meanwhile, or without host memory. */
static struct emu_physical *import(struct emu_device *device, uint64_t key, uint64_t bytes, int descriptor) {
    struct emu_physical *physical = calloc(1, sizeof *physical);
    if (physical == NULL) {
        return NULL;
    }
    emu_card_lock(device->card);
    int entry = emu_shared_find(device->card, key);
    if (entry != EMU_SHARED_NONE) {
        emu_shared_hold(device->card, device->slot, entry);
    }
    emu_card_unlock(device->card);
    if (entry == EMU_SHARED_NONE) {
        free(physical);
        return NULL;
    }
    *physical = (struct emu_physical){.magic = PHYSICAL_MAGIC,
                                      .bytes = bytes,
                                      .descriptor = descriptor,
                                      .shared_entry = entry,
                                      .device = device,
                                      .next_shared = shared_physicals};
    physical->properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    physical->properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    physical->properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    physical->properties.location.id = (int)(device - emu.devices);
    shared_physicals = physical;
    return physical;
}

EMU_EXPORT CUresult CUDAAPI cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *exported,
                                                           CUmemAllocationHandleType type) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    int given = (int)(intptr_t)exported;
    uint64_t bytes = 0;
    uint64_t key = key_of(given, &bytes);
    struct emu_device *device = device_of_key(key);
    if (handle == NULL || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || device == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    result = emu_device_open(device);
    if (result != CUDA_SUCCESS) {
        return emu_leave(result);
    }
    struct emu_physical *physical = shared_physicals;
    uint64_t known_bytes = 0;
    while (physical != NULL && key_of(physical->descriptor, &known_bytes) != key) {
        physical = physical->next_shared;
    }
    if (physical == NULL) {
        int descriptor = fcntl(given, F_DUPFD_CLOEXEC, 0);
        physical = descriptor < 0 ? NULL : import(device, key, bytes, descriptor);
        if (physical == NULL) {
            if (descriptor >= 0) {
                close(descriptor);
            }
            return emu_leave(CUDA_ERROR_OPERATING_SYSTEM);
        }
    }
    physical->handles++;
    *handle = (CUmemGenericAllocationHandle)(uintptr_t)physical;
    return emu_leave(CUDA_SUCCESS);
}
