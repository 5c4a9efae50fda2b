// Where the pool's segments come from: own memory, sparse own memory, or the node arena (NVSHARE_HOST_MEMORY).
//
// Everything here but nvs_segment_room_bytes() belongs to the pool's thread.
#ifndef NVS_HOST_SEGMENT_H
#define NVS_HOST_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NVS_SEGMENT_REASON_SIZE 200

struct nvs_segment {
    char *address;
    size_t bytes;
};

// Maps `bytes` and makes their pages. False: `reason` says why in one sentence.
bool nvs_segment_make(size_t bytes, int numa_node, struct nvs_segment *segment, char reason[NVS_SEGMENT_REASON_SIZE]);

// Gives it back: its pages are free, its addresses are void.
void nvs_segment_give(const struct nvs_segment *segment);

// What could still be had beside what was made. Reads files: see host_room.h.
uint64_t nvs_segment_room_bytes(void);

#endif
