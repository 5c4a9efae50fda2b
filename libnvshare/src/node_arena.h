// The library's side of the node arena: host memory that the relay owns, faults in and is charged for, handed over as
// descriptors (docs/protocol.md, "The node arena"). A pod's memory limit then need not hold its GPU memory, too.
//
// The connection is kept for ever: when it is lost, the next call connects anew and hands in the segments that this
// process has; their mappings stay valid meanwhile.
//
// Everything but nvs_arena_exists() and the handlers belongs to one thread, the pool's. `descriptors` is held while it
// opens, receives or closes one, so that a forked child knows and closes all that it inherited.
#ifndef NVS_NODE_ARENA_H
#define NVS_NODE_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nvs_arena_sums {
    uint64_t kept_bytes; // reserved for this process, segments included
    uint64_t free_bytes; // what it could have beside
};

// The arena's socket is beside the relay's.
bool nvs_arena_exists(void);

// Wishes that `bytes` be kept for this process in all. 0, or an errno value: there is no relay.
int nvs_arena_reserve(uint64_t bytes, struct nvs_arena_sums *sums);

// Has a segment made, within what is kept. 0 and its descriptor, which the arena keeps until it is given back; ENOMEM:
// the node has no memory for it; another errno value: there is no relay.
int nvs_arena_make(size_t bytes, int numa_node, int *descriptor, struct nvs_arena_sums *sums);

// Gives a segment back, which must not be mapped any more, and closes its descriptor.
void nvs_arena_give(int descriptor);

// Handlers for pthread_atfork().
void nvs_arena_atfork_prepare(void);
void nvs_arena_atfork_parent(void);
void nvs_arena_atfork_child(void);

#endif
