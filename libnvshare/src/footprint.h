// The client's footprint: what it has allocated, and the asking before it allocates more.
//
// Bytes are reserved before the driver is asked for them: within the grant's ceiling at once, beyond it after the
// scheduler raised it, never beyond the limit. Every allocation is remembered by its address or handle, so that freeing
// it gives the bytes back whichever call frees it. The table has a lock of its own, taken while no other is held.
#ifndef NVS_FOOTPRINT_H
#define NVS_FOOTPRINT_H

#include "device.h"

// Reserves bytes on the device, waiting for the scheduler if need be. CUDA_SUCCESS, CUDA_ERROR_OUT_OF_MEMORY (beyond
// the limit), or the error of the setting without a relay.
CUresult nvs_footprint_reserve(struct nvs_device *device, uint64_t bytes);

// Gives reserved bytes back.
void nvs_footprint_release(struct nvs_device *device, uint64_t bytes);

// Remembers (forgets) what was reserved. `key` is an address or handle; allocations of one context end with it.
void nvs_footprint_add(struct nvs_device *device, CUcontext context, uint64_t key, uint64_t bytes);

struct nvs_allocation {
    uint64_t key; // 0: none
    struct nvs_device *device;
    CUcontext context;
    uint64_t bytes;
};

// Takes the allocation out of the table; key 0 if it is not in it. Put it back with nvs_footprint_put if the driver
// refused to free it, else release its bytes.
struct nvs_allocation nvs_footprint_take(uint64_t key);
void nvs_footprint_put(const struct nvs_allocation *allocation);

// A context ended, and all its allocations with it.
void nvs_footprint_context_ended(CUcontext context);

void nvs_footprint_atfork_child(void);

#endif
