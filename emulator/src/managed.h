/* Managed memory: where each of its blocks is, and what it costs to bring it elsewhere.
 *
 * The bytes always lie in host memory, where every kernel reaches them; what moves is the account. A block on a card
 * takes that card's memory. Kernels bring the blocks that they touch to their card, at the pace of faults, unless
 * advice keeps them on the host: then each kernel reads them over the link. Where the card is full, other managed
 * blocks of the process make room, and if there are none, blocks stay on the host. All of it under emu.lock.
 */
#ifndef EMU_MANAGED_H
#define EMU_MANAGED_H

#include "driver.h"

/* Locations are ordinals of devices, CU_DEVICE_CPU, or CU_DEVICE_INVALID for nowhere. */
struct emu_block {
    int8_t location;
    int8_t preferred;
    int8_t prefetched; /* to where, the last time */
    bool read_mostly;
    uint32_t accessed_by; /* bit d: device d; bit EMU_HOST_BIT: the host */
    uint64_t used;        /* the number of the work that touched it last */
};

/* Give a new range of managed memory its blocks, which are nowhere yet. False when out of host memory. */
bool emu_managed_attach(struct emu_range *range);
/* Free the blocks, and the card's memory that they take. */
void emu_managed_detach(struct emu_range *range);

/* Send one of this process's blocks from the card to the host. False when there is none. */
bool emu_managed_make_room(struct emu_device *device);

/* Whether there is any; without, launches need no look. */
bool emu_managed_exists(void);
/* Bring what the work touches to its card, and let the work take that much longer (emu_work.prepare). */
void emu_managed_prepare(CUcontext context, struct emu_work *work);

/* Whether [start, start + bytes) lies in one range of managed memory. */
bool emu_is_managed(uint64_t start, uint64_t bytes);
/* A location as a number, as in struct emu_block; opens a device that was not used yet. */
CUresult emu_managed_location(const CUmemLocation *location, int *number);

CUresult emu_prefetch(CUdeviceptr pointer, size_t bytes, const CUmemLocation *location, CUstream handle);

#endif
