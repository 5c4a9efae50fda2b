// Managed memory instead of linear memory, for one program that alone needs more than the card has (NVSHARE_MANAGED=1).
//
// The driver then moves pages to the card as they are touched. What the grant's target has room for is the *share* of a
// block: it counts as needed, is prefetched to the card, and prefers to be there, so that the driver does not leave it
// in host memory (E1). What is beyond the share counts for the footprint only. When the target falls, the share is
// prefetched to the host from the high end on, and prefers the host.
#ifndef NVS_MANAGED_H
#define NVS_MANAGED_H

#include "load.h"

// True if linear memory is managed, by setting.
bool nvs_managed_on(void);

// As nvs_memory_allocate().
CUresult nvs_managed_allocate(struct nvs_device *device, CUcontext context, uint64_t bytes, CUdeviceptr *address);

// Frees the block that begins there. False: none of these does.
bool nvs_managed_free(CUdeviceptr address, CUresult *result);

// The mover: moves the next piece this way on the stream and waits for it. Returns the bytes that moved; 0: none
// should, or there is trouble.
uint64_t nvs_managed_move(struct nvs_device *device, enum nvs_way way, CUstream stream, struct nvs_trouble *trouble);

// A context has ended, and its blocks with it.
void nvs_managed_context_ended(CUcontext context);

// After a fork, and before first use.
void nvs_managed_reset(const struct nvs_device *device);

#endif
