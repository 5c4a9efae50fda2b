/* Physical memory: the handles of cuMemCreate. */
#ifndef EMU_PHYSICAL_H
#define EMU_PHYSICAL_H

#include "driver.h"

/* Physical memory: a piece of the device's arena, or, when it can be shared, a memfd of its own (its bytes are then
 * charged through a piece of the arena that is never touched; an imported one is charged to who exported it). */
struct emu_physical {
    uint32_t magic;
    unsigned handles;
    unsigned mappings;
    uint64_t bytes;
    uint64_t offset; /* in the arena */
    bool imported;
    bool on_host;
    int descriptor; /* -1: the arena's */
    struct emu_device *device;
    CUmemAllocationProp properties;
};

struct emu_physical *emu_physical_of(CUmemGenericAllocationHandle handle);
/* Free it once it has neither handles nor mappings. */
void emu_physical_free_if_unused(struct emu_physical *physical);
/* The device of a location; NULL and *on_host for the host. */
CUresult emu_location_device(const CUmemLocation *location, struct emu_device **device, bool *on_host);

static inline bool emu_is_granular(uint64_t value) {
    return value % EMU_GRANULE_BYTES == 0;
}

#endif
