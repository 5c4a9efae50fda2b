/* Physical memory: the handles of cuMemCreate. */
#ifndef EMU_PHYSICAL_H
#define EMU_PHYSICAL_H

#include "driver.h"

/* Physical memory: a piece of the device's arena, or a memfd of its own, when it was shared or lies on the host. It
 * moves from the one to the other at its first export. */
struct emu_physical {
    uint32_t magic;
    unsigned handles;
    unsigned mappings;
    uint64_t bytes;
    uint64_t offset; /* in the arena */
    bool on_host;
    int descriptor;   /* of its own memfd; EMU_NO_BACKING: it is a piece of the arena */
    int shared_entry; /* in the card's table; EMU_SHARED_NONE while no other process can hold it */
    struct emu_device *device;
    CUmemAllocationProp properties;
    struct emu_physical *next_shared;
};

struct emu_physical *emu_physical_of(CUmemGenericAllocationHandle handle);
/* The memfd that holds its bytes, and where they begin there. */
int emu_physical_backing(const struct emu_physical *physical, uint64_t *offset);
/* Free it once it has neither handles nor mappings. */
void emu_physical_free_if_unused(struct emu_physical *physical);
/* The device of a location; NULL and *on_host for the host. */
CUresult emu_location_device(const CUmemLocation *location, struct emu_device **device, bool *on_host);

/* Put the memory of a mapped range at its addresses, with the access that was set (vmm.c). */
bool emu_range_map(const struct emu_range *range);

static inline bool emu_is_granular(uint64_t value) {
    return value % EMU_GRANULE_BYTES == 0;
}

#endif
