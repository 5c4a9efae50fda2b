// Room in host memory that is kept for this process before it needs it: where the GPU is overcommitted, what an
// allocation brings to the card must be able to leave it.
#ifndef NVS_HOST_RESERVE_H
#define NVS_HOST_RESERVE_H

#include "device.h"

// An allocation of so many bytes is about to be asked for. Where the scheduler wants host memory ready, asks that room
// be kept for all that the process has, and this; may wait for the answer, 200 ms at most. The caller holds no lock.
void nvs_host_reserve(struct nvs_device *device, uint64_t bytes);

// Control thread, at each tick: room beyond what the process has needed for five seconds is kept no longer. Returns
// when to look again.
uint64_t nvs_host_reserve_look(uint64_t now_ns);

// After a fork: nothing is kept.
void nvs_host_reserve_atfork_child(void);

#endif
