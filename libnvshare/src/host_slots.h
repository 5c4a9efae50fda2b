// The segments of the pool and their slots: who has which. Nothing here waits, locks or calls the kernel; the pool does
// (host_pool.h), and holds its lock meanwhile.
#ifndef NVS_HOST_SLOTS_H
#define NVS_HOST_SLOTS_H

#include "driver.h"
#include "host_segment.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NVS_SLOTS_SEGMENTS_MAX 8192u // 2 TiB of them

struct nvs_slots_segment {
    struct nvs_segment memory;
    uint32_t free;     // bits of slots
    bool unpinned;     // the driver refused to register it
    CUcontext context; // that it is registered in; NULL: in none
};

struct nvs_slots {
    struct nvs_slots_segment segments[NVS_SLOTS_SEGMENTS_MAX];
    size_t segment_count;
    uint64_t bytes; // of all segments
    size_t used;    // slots that are handed out
    // Where memory can be registered, none is handed out that is still to be: NULL while no context is known.
    CUcontext context;
};

// Adds a segment, all of it free. False: there are too many.
bool nvs_slots_add(struct nvs_slots *slots, const struct nvs_segment *memory);

// Takes all of a free segment, so that nobody else does; its bytes count no more.
void nvs_slots_close(struct nvs_slots *slots, struct nvs_slots_segment *segment);

// Removes a closed segment. Pointers to others may be void afterwards.
void nvs_slots_remove(struct nvs_slots *slots, struct nvs_slots_segment *segment);

// A segment that is to be registered; NULL: none, or no context is known.
struct nvs_slots_segment *nvs_slots_unregistered(struct nvs_slots *slots);

// A segment that is wholly free and without which `needed_bytes` are left; NULL: none.
struct nvs_slots_segment *nvs_slots_excess(struct nvs_slots *slots, uint64_t needed_bytes);

// Slots that could be handed out now, and the bytes of the segments that are ready.
size_t nvs_slots_free(const struct nvs_slots *slots);
uint64_t nvs_slots_ready_bytes(const struct nvs_slots *slots);

// Hands out `count` slots, which must be free: neighbours where it can.
void nvs_slots_hand_out(struct nvs_slots *slots, size_t count, void **addresses);

// Takes slots back. Addresses that are none of its slots are ignored.
void nvs_slots_take_back(struct nvs_slots *slots, size_t count, void *const *addresses);

// Memory is registered in this context from now on; NULL: go on with the one of before.
void nvs_slots_use_context(struct nvs_slots *slots, CUcontext context);

// A context is no more, and what was registered in it is not.
void nvs_slots_context_ended(struct nvs_slots *slots, CUcontext context);

// Forgets all segments.
void nvs_slots_clear(struct nvs_slots *slots);

#endif
