// Hardware time slices: how long the process's kernels stay on the card before a neighbour's have it.
//
// The process sets the slice of its own compute channel groups (channel.h), or, on an emulated GPU, by the emulator's
// own interface (nvshare_emulator.h). A slice is set only where it could be read before, and is read back. What is
// refused once is not tried again: the device then keeps the slices that it has, and its report says so. Never a
// setting of the card: the driver's own slices are put back where the plan asks for none, and at the end of the
// process.
//
// Locks: one, a leaf but for channel.h's.
#ifndef NVS_SLICE_H
#define NVS_SLICE_H

#include "device.h"

#include <stdint.h>

// Sees to it that the device's compute groups have this slice, those included that were made since; 0: their own. It is
// read again after 50 ms, and then less and less often, and set again where it was lost. Quick when nothing changed,
// else 1 ms a group.
void nvs_slice_follow(struct nvs_device *device, uint32_t timeslice_us, uint64_t now_ns);

// The slice in force, 0: the driver's own; and why none can be set, "": it can.
uint32_t nvs_slice_state(const struct nvs_device *device, char failure[NVS_REASON_SIZE]);

// After a fork.
void nvs_slice_atfork_child(void);

#endif
