// The wrappers of the program's own virtual memory management: reservations, mappings, access, handles.
//
// A call about memory that can move (physical.h) answers as the driver does. What the driver would do to memory that is
// away is remembered, and done when it comes back, as far as the library can vouch that the driver will not refuse it;
// where it cannot, the call waits until the memory is there, and asks the driver.
#include "vmm.h"

#include "device.h"
#include "gang.h"
#include "library.h"
#include "mapping.h"
#include "physical.h"

#include <stdlib.h>

static bool nvs_is_granular(uint64_t value) {
    return value % NVS_GRANULE_BYTES == 0;
}

// A call about memory that is away has to wait for it. CUDA_SUCCESS: try again.
static CUresult nvs_vmm_wait(struct nvs_device *device) {
    return nvs_library_leaving() ? CUDA_ERROR_DEINITIALIZED : nvs_device_wait_open(device, NVS_COPY);
}

// ---- Reservations

NVS_EXPORT CUresult cuMemAddressReserve(CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr,
                                        unsigned long long flags) {
    if (!nvs_library_start() || nvs_real.cuMemAddressReserve == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    CUresult result = nvs_real.cuMemAddressReserve(ptr, size, alignment, addr, flags);
    if (result == CUDA_SUCCESS) {
        nvs_mapping_lock();
        nvs_reservation_add(*ptr, size);
        nvs_mapping_unlock();
    }
    return result;
}

NVS_EXPORT CUresult cuMemAddressFree(CUdeviceptr ptr, size_t size) {
    if (!nvs_library_start() || nvs_real.cuMemAddressFree == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    nvs_mapping_lock();
    const struct nvs_mapping *mapping = nvs_mapping_from(ptr);
    CUresult result = CUDA_ERROR_INVALID_VALUE; // the driver may not know that something is mapped there
    if (mapping == NULL || mapping->address >= ptr + size)
        result = nvs_real.cuMemAddressFree(ptr, size);
    if (result == CUDA_SUCCESS)
        nvs_reservation_remove(ptr);
    nvs_mapping_unlock();
    return result;
}

// ---- Mapping

// Whether the driver will map this, once the memory is there: nothing else is mapped in the program's own reservation.
// The documented offset is 0; what a driver makes of another one is its own decision. Caller holds the table's lock.
static bool nvs_vmm_vouches(const struct nvs_mapping *mapping) {
    const struct nvs_reservation *reservation = nvs_reservation_find(mapping->address);
    return reservation != NULL && !reservation->foreign && mapping->offset == 0 &&
           mapping->bytes <= reservation->address + reservation->bytes - mapping->address;
}

// Caller holds both locks.
static CUresult nvs_vmm_make(const struct nvs_mapping *wanted) {
    const struct nvs_block *block = wanted->block;
    const struct nvs_mapping *next = nvs_mapping_from(wanted->address);
    if (wanted->bytes == 0 || !nvs_is_granular(wanted->address | wanted->bytes | wanted->offset) ||
        wanted->offset > block->bytes || wanted->bytes > block->bytes - wanted->offset ||
        (next != NULL && next->address < wanted->address + wanted->bytes))
        return CUDA_ERROR_INVALID_VALUE;
    if (!nvs_mapping_is_live(wanted) && !nvs_vmm_vouches(wanted))
        return CUDA_ERROR_NOT_READY;
    struct nvs_mapping *mapping = malloc(sizeof(*mapping));
    if (mapping == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *mapping = *wanted;
    mapping->identity = ++mapping->device->memory.identity;
    CUresult result = nvs_mapping_map(mapping);
    if (result == CUDA_SUCCESS && !nvs_mapping_add(mapping)) {
        (void)nvs_mapping_unmap(mapping); // it was mapped just now
        result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result != CUDA_SUCCESS)
        free(mapping);
    return result;
}

NVS_EXPORT CUresult cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                             unsigned long long flags) {
    if (!nvs_library_start() || nvs_real.cuMemMap == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    struct nvs_device *device = nvs_memory_device_of(handle);
    if (device == NULL) {
        CUresult result = nvs_real.cuMemMap(ptr, size, offset, handle, flags);
        nvs_mapping_lock();
        struct nvs_reservation *reservation = nvs_reservation_find(ptr);
        if (reservation != NULL)
            reservation->foreign = true;
        nvs_mapping_unlock();
        return result;
    }
    CUresult result = flags == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    while (result == CUDA_SUCCESS) {
        struct nvs_mapping wanted = {.address = ptr, .bytes = size, .offset = offset, .device = device};
        nvs_mapping_lock();
        pthread_mutex_lock(&device->memory.lock);
        wanted.block = nvs_physical_find(device, handle);
        CUresult made = wanted.block == NULL ? CUDA_ERROR_INVALID_VALUE : nvs_vmm_make(&wanted);
        pthread_mutex_unlock(&device->memory.lock);
        nvs_mapping_unlock();
        if (made != CUDA_ERROR_NOT_READY)
            return made;
        result = nvs_vmm_wait(device);
    }
    return result;
}

// ---- Ranges of addresses, which may hold several mappings, of several devices

struct nvs_vmm_range {
    uint64_t address, end;
    uint32_t owners; // bit d: memory of device d is mapped there
    bool gaps;       // a part is no mapping of the table
    bool whole;      // no mapping reaches beyond it
};

// Caller holds the table's lock.
static struct nvs_vmm_range nvs_vmm_look(uint64_t address, uint64_t bytes) {
    struct nvs_vmm_range range = {.address = address, .end = address + bytes, .whole = address + bytes >= address};
    uint64_t at = address;
    const struct nvs_mapping *mapping = nvs_mapping_from(address);
    for (; mapping != NULL && mapping->address < range.end; mapping = nvs_mapping_from(at)) {
        range.whole = range.whole && mapping->address >= at && mapping->address + mapping->bytes <= range.end;
        range.gaps = range.gaps || mapping->address > at;
        range.owners |= 1u << mapping->device->ordinal;
        at = mapping->address + mapping->bytes;
    }
    range.gaps = range.gaps || at < range.end;
    return range;
}

static void nvs_vmm_lock_owners(uint32_t owners) {
    for (size_t i = 0; i < nvs_device_count(); i++)
        if ((owners >> i & 1) != 0)
            pthread_mutex_lock(&nvs_devices[i].memory.lock);
}

static void nvs_vmm_unlock_owners(uint32_t owners) {
    for (size_t i = 0; i < nvs_device_count(); i++)
        if ((owners >> i & 1) != 0)
            pthread_mutex_unlock(&nvs_devices[i].memory.lock);
}

// What is not the table's goes first: if the driver refuses it, nothing has changed. Caller holds the table's lock.
static CUresult nvs_vmm_unmap_gaps(const struct nvs_vmm_range *range) {
    CUresult result = CUDA_SUCCESS;
    for (uint64_t at = range->address; at < range->end && result == CUDA_SUCCESS;) {
        const struct nvs_mapping *mapping = nvs_mapping_from(at);
        uint64_t to = mapping == NULL || mapping->address > range->end ? range->end : mapping->address;
        if (to > at)
            result = nvs_real.cuMemUnmap(at, to - at);
        at = to == range->end ? to : mapping->address + mapping->bytes;
    }
    return result;
}

// Caller holds the table's lock, and the memory's.
static CUresult nvs_vmm_unmake(struct nvs_mapping *mapping) {
    CUresult result = nvs_mapping_unmap(mapping);
    if (result != CUDA_SUCCESS)
        return result;
    nvs_mapping_remove(mapping);
    nvs_physical_let_go(mapping->device, mapping->block);
    free(mapping);
    return CUDA_SUCCESS;
}

NVS_EXPORT CUresult cuMemUnmap(CUdeviceptr ptr, size_t size) {
    if (!nvs_library_start() || nvs_real.cuMemUnmap == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    nvs_mapping_lock();
    struct nvs_vmm_range range = nvs_vmm_look(ptr, size);
    CUresult result = range.whole ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    if (range.owners == 0) {
        result = nvs_real.cuMemUnmap(ptr, size);
    } else if (result == CUDA_SUCCESS) {
        result = range.gaps ? nvs_vmm_unmap_gaps(&range) : CUDA_SUCCESS;
        nvs_vmm_lock_owners(range.owners);
        struct nvs_mapping *mapping;
        while (result == CUDA_SUCCESS && (mapping = nvs_mapping_from(ptr)) != NULL && mapping->address < range.end)
            result = nvs_vmm_unmake(mapping);
        nvs_vmm_unlock_owners(range.owners);
    }
    nvs_mapping_unlock();
    return result;
}

// ---- Access

// What the library can vouch for: the access of a device to its own memory, which is all that is mapped there.
static bool nvs_vmm_is_own_access(const struct nvs_vmm_range *range, const CUmemAccessDesc *desc, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (desc[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
            nvs_device_of_ordinal(desc[i].location.id) == NULL || range->owners != 1u << desc[i].location.id ||
            (desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE && desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READ &&
             desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE))
            return false;
    return !range->gaps;
}

// A device of the range some of whose memory there is away; NULL: none. Caller holds the locks.
static struct nvs_device *nvs_vmm_away(const struct nvs_vmm_range *range) {
    for (const struct nvs_mapping *mapping = nvs_mapping_from(range->address);
         mapping != NULL && mapping->address < range->end;
         mapping = nvs_mapping_from(mapping->address + mapping->bytes))
        if (!nvs_mapping_is_live(mapping))
            return mapping->device;
    return NULL;
}

// Caller holds the locks. Not ready: `away` is to be waited for.
static CUresult nvs_vmm_try_access(const struct nvs_vmm_range *range, const CUmemAccessDesc *desc, size_t count,
                                   struct nvs_device **away) {
    *away = nvs_vmm_away(range);
    if (*away != NULL && !nvs_vmm_is_own_access(range, desc, count))
        return CUDA_ERROR_NOT_READY;
    CUresult result = CUDA_SUCCESS;
    if (*away == NULL)
        result = nvs_real.cuMemSetAccess(range->address, range->end - range->address, desc, count);
    for (struct nvs_mapping *mapping = nvs_mapping_from(range->address);
         result == CUDA_SUCCESS && mapping != NULL && mapping->address < range->end;
         mapping = nvs_mapping_from(mapping->address + mapping->bytes)) {
        if (*away != NULL)
            result = nvs_mapping_set_access(mapping, desc, count);
        if (result == CUDA_SUCCESS)
            nvs_mapping_note_access(mapping, desc, count);
    }
    return result;
}

// The devices that get access, and whether it is given to anything but devices.
static uint32_t nvs_vmm_accessors(const CUmemAccessDesc *desc, size_t count, bool *others) {
    uint32_t accessors = 0;
    *others = false;
    for (size_t i = 0; i < count; i++) {
        if (desc[i].flags == CU_MEM_ACCESS_FLAGS_PROT_NONE)
            continue;
        if (desc[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE)
            *others = true;
        else if (nvs_device_of_ordinal(desc[i].location.id) != NULL)
            accessors |= 1u << desc[i].location.id;
    }
    return accessors;
}

// Another device has access now: its work counts as work on this memory, and is tied to it.
static void nvs_vmm_share_with(struct nvs_device *owner, struct nvs_device *accessor) {
    if (owner == accessor ||
        (atomic_load_explicit(&owner->accessed_by, memory_order_acquire) >> accessor->ordinal & 1) != 0)
        return;
    nvs_gang_note(accessor, "access to another device");
    nvs_gang_note(owner, "access from another device");
    nvs_memory_share(owner, accessor);
}

static void nvs_vmm_share(uint32_t owners, uint32_t accessors) {
    for (size_t owner = 0; owner < nvs_device_count(); owner++)
        for (size_t accessor = 0; (owners >> owner & 1) != 0 && accessor < nvs_device_count(); accessor++)
            if ((accessors >> accessor & 1) != 0)
                nvs_vmm_share_with(&nvs_devices[owner], &nvs_devices[accessor]);
}

NVS_EXPORT CUresult cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count) {
    if (!nvs_library_start() || nvs_real.cuMemSetAccess == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    bool others = false;
    uint32_t accessors = desc == NULL ? 0 : nvs_vmm_accessors(desc, count, &others);
    CUresult result = others ? nvs_vmm_pin(ptr, size, NVS_PIN_ACCESS) : CUDA_SUCCESS;
    while (result == CUDA_SUCCESS) {
        struct nvs_device *away = NULL;
        nvs_mapping_lock();
        struct nvs_vmm_range range = nvs_vmm_look(ptr, size);
        CUresult set = range.whole ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
        if (range.owners == 0 || desc == NULL || count == 0) {
            set = nvs_real.cuMemSetAccess(ptr, size, desc, count);
        } else if (set == CUDA_SUCCESS) {
            nvs_vmm_lock_owners(range.owners);
            set = nvs_vmm_try_access(&range, desc, count, &away);
            nvs_vmm_unlock_owners(range.owners);
        }
        nvs_mapping_unlock();
        if (set == CUDA_SUCCESS)
            nvs_vmm_share(range.owners, accessors);
        if (set != CUDA_ERROR_NOT_READY)
            return set;
        result = nvs_vmm_wait(away);
    }
    return result;
}

NVS_EXPORT CUresult cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr ptr) {
    if (!nvs_library_start() || nvs_real.cuMemGetAccess == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    bool answered = false;
    if (flags != NULL && location != NULL && location->type == CU_MEM_LOCATION_TYPE_DEVICE &&
        nvs_device_of_ordinal(location->id) != NULL) {
        nvs_mapping_lock();
        const struct nvs_mapping *mapping = nvs_mapping_from(ptr);
        answered = mapping != NULL && mapping->address <= ptr;
        if (answered)
            *flags = mapping->access[location->id];
        nvs_mapping_unlock();
    }
    return answered ? CUDA_SUCCESS : nvs_real.cuMemGetAccess(flags, location, ptr);
}

// ---- Handles

NVS_EXPORT CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr) {
    if (!nvs_library_start() || nvs_real.cuMemRetainAllocationHandle == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    CUdeviceptr address = (uintptr_t)addr;
    if (nvs_memory_device_of(address) != NULL)
        return CUDA_ERROR_INVALID_VALUE; // no memory that the program mapped
    nvs_mapping_lock();
    const struct nvs_mapping *mapping = nvs_mapping_from(address);
    bool retained = handle != NULL && mapping != NULL && mapping->address <= address;
    if (retained) {
        pthread_mutex_lock(&mapping->device->memory.lock);
        mapping->block->physical->handles++;
        *handle = mapping->block->address;
        pthread_mutex_unlock(&mapping->device->memory.lock);
    }
    nvs_mapping_unlock();
    return retained ? CUDA_SUCCESS : nvs_real.cuMemRetainAllocationHandle(handle, addr);
}

NVS_EXPORT CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop,
                                                           CUmemGenericAllocationHandle handle) {
    if (!nvs_library_start() || nvs_real.cuMemGetAllocationPropertiesFromHandle == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    struct nvs_device *device = nvs_memory_device_of(handle);
    if (device == NULL)
        return nvs_real.cuMemGetAllocationPropertiesFromHandle(prop, handle);
    if (prop == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&device->memory.lock);
    const struct nvs_block *block = nvs_physical_find(device, handle);
    if (block != NULL)
        *prop = block->physical->properties;
    pthread_mutex_unlock(&device->memory.lock);
    return block == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

NVS_EXPORT CUresult cuMemExportToShareableHandle(void *shareableHandle, CUmemGenericAllocationHandle handle,
                                                 CUmemAllocationHandleType handleType, unsigned long long flags) {
    if (!nvs_library_start() || nvs_real.cuMemExportToShareableHandle == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    struct nvs_device *device = nvs_memory_device_of(handle);
    return device == NULL ? nvs_real.cuMemExportToShareableHandle(shareableHandle, handle, handleType, flags)
                          : nvs_physical_export(device, handle, shareableHandle, handleType, flags);
}

// ---- Pinning

CUresult nvs_vmm_pin(CUdeviceptr address, uint64_t bytes, enum nvs_pin pin) {
    CUresult result = CUDA_SUCCESS;
    for (uint64_t at = address, end = address + bytes; result == CUDA_SUCCESS && at < end;) {
        struct nvs_device *device = NULL;
        uint64_t home = 0;
        nvs_mapping_lock();
        const struct nvs_mapping *mapping = nvs_mapping_from(at);
        if (mapping != NULL && mapping->address < end) {
            device = mapping->device;
            home = mapping->block->address;
            at = mapping->address + mapping->bytes;
        }
        nvs_mapping_unlock();
        if (device == NULL)
            break;
        result = nvs_memory_pin(device, home, 1, pin, NULL, NULL);
    }
    return result;
}
