// The addresses of a device's linear memory: which belong to blocks (allocations), and which to extents (pieces of
// physical memory). Pure: no driver, no lock, no clock; the caller holds the memory's lock.
//
// A block may lie on several extents, and an extent under several blocks. Blocks go first where extents already are,
// else where the least has to be added at the lowest address. Blocks of less than a granule have a zone of their own,
// so that one of them does not keep a large extent that everything else has left. So have those that lie *apart*: no
// other block shares their extents, which no extent is merged with, since the program maps them elsewhere, too
// (mapping.h). Extents begin and end on granules.
// A block of 16 MiB or more has extents of its own; for less, what is added is at least an eighth of what is there (at
// most 32 MiB) where the caller has room for it: few extents, and little that nobody uses. Each zone is a treap of
// spans, blocks and the free spans between them, ordered by address; every node knows the best free room below it, so
// that placing, finding and removing take O(log n).
#ifndef NVS_ARENA_H
#define NVS_ARENA_H

#include "driver.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NVS_GRANULE_BYTES (UINT64_C(2) << 20)
#define NVS_BLOCK_ALIGNMENT UINT64_C(512)
#define NVS_EXTENT_MAX_BYTES (UINT64_C(256) << 20)
#define NVS_EXTENT_WHOLE_BYTES (UINT64_C(4) << 30) // of one that must not be cut
#define NVS_EXTENT_MERGED_BYTES (UINT64_C(64) << 20)
#define NVS_EXTENT_GROWTH_BYTES (UINT64_C(32) << 20)

struct nvs_mempool;
struct nvs_physical;
struct nvs_stream;

// Where the bytes of an extent are.
enum nvs_extent_place {
    NVS_EXTENT_PRESENT, // on the card
    NVS_EXTENT_AWAY,    // in host memory; nothing is mapped
    NVS_EXTENT_LEAVING, // on the card, and being copied out
    NVS_EXTENT_COMING,  // mapped, and being copied in
};

struct nvs_extent {
    uint64_t address, bytes;
    uint64_t used_bytes; // of blocks
    uint32_t pins;       // blocks on it that must stay on the card
    enum nvs_extent_place place;
    CUmemGenericAllocationHandle handle; // of what is mapped; 0: nothing is
    void *host;                          // its copy in host memory; the mover's alone
};

// What free room a span offers, and what a placement asks for, in the order of preference.
enum nvs_fit {
    NVS_FIT_ROOM_ALIGNED, // on extents that are there, from a granule on
    NVS_FIT_ROOM,         // on extents that are there
    NVS_FIT_GAP_ALIGNED,  // anywhere, from a granule on
    NVS_FIT_GAP,          // anywhere
    NVS_FITS,
};

// A span of addresses: a block, or what is free between two of them.
struct nvs_block {
    uint64_t address, bytes;
    bool used; // a block
    // Of a block; the caller's, the arena only keeps them:
    bool ending;                   // it is being freed
    uint32_t pins;                 // reasons why it must stay on the card: bits of enum nvs_pin
    bool synchronous;              // copies of it are to be synchronous (CU_POINTER_ATTRIBUTE_SYNC_MEMOPS)
    uint64_t asked_bytes;          // as the program asked
    uint64_t identity;             // of the buffer, never used again
    CUcontext context;             // that it was allocated in
    struct nvs_mempool *pool;      // that it belongs to; NULL: none
    struct nvs_physical *physical; // it is a handle of cuMemCreate (mapping.h); NULL: it is none
    uint32_t imports;              // other processes that have it mapped, as far as they are known
    bool ended;                    // all its work has, and only its imports keep it
    uint64_t freed_at;             // ending: it was freed in a stream's order, after so many of its calls
    struct nvs_block *next_ending;
    // Of a free span: bytes on extents from its start on, and up to its end.
    uint64_t head_bytes, tail_bytes;
    // Of the treap:
    struct nvs_block *left, *right;
    uint32_t priority;
    uint64_t most[NVS_FITS]; // the best of the nodes from here down
};

struct nvs_zone {
    uint64_t address, bytes;
    struct nvs_block *root;
};

enum { NVS_ZONE_LARGE, NVS_ZONE_SMALL, NVS_ZONE_APART, NVS_ZONES };

struct nvs_arena {
    uint64_t address, bytes; // 0 bytes: closed
    struct nvs_zone zones[NVS_ZONES];
    struct nvs_extent **extents; // by address
    size_t extent_count, extent_room;
    uint64_t extent_bytes; // of all of them
    uint64_t apart_bytes;  // of those that lie apart
    size_t block_count;
    uint32_t random;
};

// Opens it over these addresses (whole granules). False: no host memory. Closing frees all blocks and extents.
bool nvs_arena_open(struct nvs_arena *arena, uint64_t address, uint64_t bytes);
void nvs_arena_close(struct nvs_arena *arena);

// Where a block would go, and the range that extents must cover first.
struct nvs_placement {
    uint64_t address, bytes; // bytes: rounded up to the alignment of blocks
    uint64_t cover_from, cover_to;
    uint64_t new_bytes; // of that range, not covered yet
    bool whole;         // one extent is to cover it all, however large: the caller's, where nothing is covered yet
};

// Finds a place for a block of so many bytes. What it covers beyond need adds no more than `room_bytes` to the extents.
// False: there are no such addresses. Nothing is changed.
bool nvs_arena_place(const struct nvs_arena *arena, uint64_t bytes, uint64_t room_bytes,
                     struct nvs_placement *placement);

// The same for a block of whole granules that lies apart.
bool nvs_arena_place_apart(const struct nvs_arena *arena, uint64_t bytes, struct nvs_placement *placement);

// True if this address is one of those for blocks that lie apart.
bool nvs_arena_is_apart(const struct nvs_arena *arena, uint64_t address);

// The first range in [from, to) without an extent, at most NVS_EXTENT_MAX_BYTES of it. False: all is covered.
bool nvs_arena_missing(const struct nvs_arena *arena, uint64_t from, uint64_t to, uint64_t *address, uint64_t *bytes);

// Adds a PRESENT extent over a range that has none, or removes one. NULL: no host memory.
struct nvs_extent *nvs_arena_add_extent(struct nvs_arena *arena, uint64_t address, uint64_t bytes);
void nvs_arena_remove_extent(struct nvs_arena *arena, struct nvs_extent *extent);

// Index of the first extent that ends after the address; extent_count if there is none.
size_t nvs_arena_extent_from(const struct nvs_arena *arena, uint64_t address);

// Adds a block where nvs_arena_place put it, its extents being there, or removes one. NULL: no host memory.
struct nvs_block *nvs_arena_add_block(struct nvs_arena *arena, uint64_t address, uint64_t bytes);
void nvs_arena_remove_block(struct nvs_arena *arena, struct nvs_block *block);

// The block that holds the address, or NULL.
struct nvs_block *nvs_arena_find_block(const struct nvs_arena *arena, uint64_t address);

// The first block that begins at this address or after it, or NULL.
struct nvs_block *nvs_arena_next_block(const struct nvs_arena *arena, uint64_t address);

// The first extent from this address on, below `to`, without a block, a pin or a copy under way; NULL: none.
struct nvs_extent *nvs_arena_unused_extent(const struct nvs_arena *arena, uint64_t from, uint64_t to);

// How many extents from this index on, all AWAY and neighbours, should come back as one: 1 if it is best as it is.
size_t nvs_arena_merge_count(const struct nvs_arena *arena, size_t index);

// Makes one extent (the first) of so many, as nvs_arena_merge_count gave them. The `host` of the others is lost: move
// it before.
void nvs_arena_merge(struct nvs_arena *arena, size_t index, size_t count);

#endif
