// Where the pool's segments come from: own memory, sparse own memory, or the node arena (NVSHARE_HOST_MEMORY).
//
// What does not say otherwise belongs to the pool's thread.
#ifndef NVS_HOST_SEGMENT_H
#define NVS_HOST_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NVS_SEGMENT_REASON_SIZE 200

struct nvs_segment {
    char *address;
    size_t bytes;
    int descriptor; // of the arena; -1: own memory
};

// Room for segments, of an arena.
struct nvs_segment_room {
    uint64_t kept_bytes; // for this process, its segments included
    uint64_t free_bytes; // beside
};

// Whether segments come from the node arena. It may become true, and stays so. Safe from every thread.
bool nvs_segment_from_arena(void);

// Asks the arena to keep room for `bytes` in all. False: the relay is away, and `room` is as it was.
bool nvs_segment_keep(uint64_t bytes, struct nvs_segment_room *room);

// Maps `bytes` and makes their pages; of an arena, within what is kept. False: `reason` says why in one sentence.
bool nvs_segment_make(size_t bytes, int numa_node, struct nvs_segment *segment, struct nvs_segment_room *room,
                      char reason[NVS_SEGMENT_REASON_SIZE]);

// Gives it back: its pages are free, its addresses are void.
void nvs_segment_give(const struct nvs_segment *segment);

// What of own memory could still be had beside what was made. Reads files (host_room.h). Safe from every thread.
uint64_t nvs_segment_room_bytes(void);

// After a fork.
void nvs_segment_atfork_child(void);

#endif
