// The bytes of an extent in host memory: where they are in the slots of the pool.
//
// Copies are packed one behind the other, so that many small extents take no more slots than a few large ones. A slot
// goes back to the pool when no copy has bytes in it any more. A packer belongs to one thread; copies may be freed by
// any.
#ifndef NVS_HOST_COPY_H
#define NVS_HOST_COPY_H

#include "arena.h"
#include "host_pool.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// As many slots as the largest extent fills.
#define NVS_HOST_COPY_SLOTS (NVS_EXTENT_WHOLE_BYTES / NVS_POOL_SLOT_BYTES)

struct nvs_bin;

// A piece of a copy: neighbouring bytes in host memory.
struct nvs_run {
    struct nvs_bin *bin;
    char *memory;
    uint64_t bytes;
};

struct nvs_host_copy {
    size_t count;
    struct nvs_run runs[];
};

// Where the next copy begins; all zero: nowhere yet.
struct nvs_packer {
    struct nvs_bin *open;
    uint64_t filled_bytes; // of it
};

// Room for a copy of so many bytes. It may wait for the pool to grow. NULL: there is none, and `reason` says why.
struct nvs_host_copy *nvs_host_copy_make(struct nvs_packer *packer, CUcontext context, uint64_t bytes,
                                         char reason[NVS_POOL_REASON_SIZE]);

// One copy of the bytes of both, the second behind the first, which are both gone then. NULL: no host memory, and both
// are as they were.
struct nvs_host_copy *nvs_host_copy_join(struct nvs_host_copy *first, struct nvs_host_copy *second);

// Gives its room back. NULL is none.
void nvs_host_copy_free(struct nvs_host_copy *copy);

// The slot that is being filled may go back to the pool as soon as its copies have.
void nvs_packer_close(struct nvs_packer *packer);

#endif
