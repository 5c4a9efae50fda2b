// Where a client's memory is and where its grant wants it. Pure: no driver, no lock, no clock.
//
// Memory is counted in bytes on the card, in whole extents. What is needed and not present is *gone*: it is in host
// memory.
#ifndef NVS_RESIDENCY_H
#define NVS_RESIDENCY_H

#include <stdbool.h>
#include <stdint.h>

struct nvs_residency {
    bool movable;           // false: this client's memory stays where it is
    uint64_t needed_bytes;  // what its footprint takes on the card when all of it is there
    uint64_t present_bytes; // of them on the card
    uint64_t moving_bytes;  // of the present ones on their way out or in
    uint64_t pinned_bytes;  // of the present ones that cannot leave
    uint64_t target_bytes;  // what it may have on the card
};

// True if all of the memory is on the card, at rest, and may be there: the program may use it.
bool nvs_residency_here(const struct nvs_residency *residency);

// Bytes whose way out has yet to begin: what is on the card beyond the target, as far as it can leave.
uint64_t nvs_residency_out_bytes(const struct nvs_residency *residency);

// Bytes whose way in may begin: what is gone, as far as the target has room for it.
uint64_t nvs_residency_in_bytes(const struct nvs_residency *residency);

#endif
