// What the client has allocated, and the asking before it allocates more.
//
// Two sums: the *footprint* is what the program counts, and what the limit is about; *needed* is what it takes on the
// card when all of it is there, and what the grant's target is about. Bytes are reserved before the driver is asked for
// them: at once within the target, beyond it after the scheduler raised it, never beyond the limit, and only while all
// that is needed is present (decision 0005).
//
// What does not come out of a device's arena cannot move: it is counted, pinned, and remembered by its address or
// handle, so that freeing it gives the bytes back whichever call frees it. That table has a lock of its own, taken
// while no other is held.
#ifndef NVS_FOOTPRINT_H
#define NVS_FOOTPRINT_H

#include "device.h"

// Bytes to give back, by the sums that they count in.
struct nvs_bytes {
    uint64_t footprint_bytes, needed_bytes, present_bytes, pinned_bytes;
};

// An allocation that asks.
struct nvs_wish {
    struct nvs_device *device;
    uint64_t bytes;        // for the footprint
    uint64_t needed_bytes; // that it adds to what is needed; may change from try to try
    // Of footprint.c:
    uint64_t since_ns; // when it began to wait; 0: it has not
    uint64_t counted_bytes, counted_needed_bytes;
};

// What may be added to the needed bytes now without asking. Caller holds the device's lock, as for the next three.
uint64_t nvs_footprint_room_bytes(const struct nvs_device *device);

// Reserves what is wished, and counts it as present. CUDA_SUCCESS, CUDA_ERROR_NOT_READY (it has to wait),
// CUDA_ERROR_OUT_OF_MEMORY (beyond the limit), or the error of the setting without a relay.
CUresult nvs_footprint_try(struct nvs_wish *wish);

// Waits for a change: then try again. May wake for nothing.
void nvs_footprint_wait(struct nvs_wish *wish);

// No more tries.
void nvs_footprint_tried(struct nvs_wish *wish);

// Gives bytes back. Takes the device's lock.
void nvs_footprint_give(struct nvs_device *device, const struct nvs_bytes *bytes);

// Reserves (gives back) bytes that cannot move, waiting for the scheduler if need be. As nvs_footprint_try, but for
// CUDA_ERROR_NOT_READY.
CUresult nvs_footprint_reserve(struct nvs_device *device, uint64_t bytes);
void nvs_footprint_release(struct nvs_device *device, uint64_t bytes);

// Remembers (forgets) what was reserved. `key` is an address or handle; allocations of one context end with it.
void nvs_footprint_add(struct nvs_device *device, CUcontext context, uint64_t key, uint64_t bytes, enum nvs_pin pin);

struct nvs_allocation {
    uint64_t key; // 0: none
    struct nvs_device *device;
    CUcontext context;
    uint64_t bytes;
    enum nvs_pin pin; // why it cannot move
};

// Takes the allocation out of the table; key 0 if it is not in it. Put it back with nvs_footprint_put if the driver
// refused to free it, else release its bytes.
struct nvs_allocation nvs_footprint_take(uint64_t key);
void nvs_footprint_put(const struct nvs_allocation *allocation);

// What the driver said to the freeing of an allocation that was taken: gives its bytes back, or puts it back.
void nvs_footprint_freed(const struct nvs_allocation *allocation, CUresult result);

// A context ended, and all its allocations with it.
void nvs_footprint_context_ended(CUcontext context);

// A green context ended: its allocations are the other one's.
void nvs_footprint_context_replaced(CUcontext context, CUcontext other);

void nvs_footprint_atfork_child(void);

#endif
