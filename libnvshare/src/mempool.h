// Pools of stream-ordered memory whose allocations come out of the arena.
//
// They are the program's pools of device memory that cannot be exported: the default ones, and those that it makes so.
// Memory is valid at once; it is freed in the order of a stream, used again on that stream at once, and elsewhere when
// the stream has come so far. What is allocated while a stream is captured is a node of a graph and stays the driver's,
// as are all other pools.
#ifndef NVS_MEMPOOL_H
#define NVS_MEMPOOL_H

#include "driver.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct nvs_device;

// Records live for ever; one whose pool is gone, and its blocks, serves another.
struct nvs_mempool {
    struct nvs_mempool *next;
    struct nvs_device *device;
    CUmemoryPool handle; // NULL: the pool is gone
    _Atomic uint64_t used_bytes, used_high_bytes;
    _Atomic uint64_t reserved_bytes, reserved_high_bytes; // blocks whose free is still to come in their stream count
};

// A block of the pool (NULL: of none) was allocated, with so many new bytes; was freed; ended.
void nvs_mempool_took(struct nvs_mempool *pool, uint64_t bytes, uint64_t reserved_bytes);
void nvs_mempool_freed(struct nvs_mempool *pool, uint64_t bytes);
void nvs_mempool_ended(struct nvs_mempool *pool, uint64_t reserved_bytes);

// After a fork.
void nvs_mempool_atfork_child(void);

#endif
