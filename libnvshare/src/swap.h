// Moving a device's memory between the card and the host.
//
// One thread for each device, the *mover*, started at first need. It moves as the residency says (residency.h) while
// the memory is at rest: out from the high end downwards, in from the low end upwards, only as much as the target asks
// for. Extents are copied in *loads*, several in flight, so that the link is never idle: while one load is copied, the
// one before it is unmapped and released, or the one behind it made and mapped. Whatever fails, an extent's data is on
// the card or in host memory, and what could not be moved is tried again.
//
// It takes the locks in the order of memory.h: the memory's, then the device's. It holds neither over a wait.
#ifndef NVS_SWAP_H
#define NVS_SWAP_H

#include "arena.h"
#include "wire.h"

struct nvs_device;

struct nvs_swap_figures {
    uint64_t out_bytes, in_bytes; // moved since the start
    uint64_t out_ns, in_ns;       // time in which it was moved
    uint32_t failures;
    char failure[NVS_REASON_SIZE]; // the last one, for people; empty: none
};

// Control thread: the memory is at rest, and the residency may have changed.
void nvs_swap_wake(struct nvs_device *device);

// Counts a failure to move memory, and tells it to the log and with the next report.
void nvs_swap_failed(struct nvs_device *device, const char *reason);

// The figures so far. Caller holds the device's lock.
struct nvs_swap_figures nvs_swap_figures(const struct nvs_device *device);

// An extent that is away is about to be removed: drops its copy in host memory. Caller holds the memory's lock.
void nvs_swap_forget(struct nvs_extent *extent);

// Around the end of a context (of any, if it is not one that a mover is in): no mover enters one in between.
void nvs_swap_context_hold(CUcontext context);
void nvs_swap_context_release(void);

// The process ends: the movers make no further call. Waits at most 100 ms for the one that they are in.
void nvs_swap_leave(void);

// Before first use, and in the child of a fork: nothing moves.
void nvs_swap_reset(const struct nvs_device *device);

#endif
