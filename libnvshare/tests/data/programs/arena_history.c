// Random histories of allocations and frees in an arena, compared after every step with the plain list of what there
// is.
//
//   arena_history <pattern> <steps> <seed> <room_mib>
//
// Patterns: pytorch (2 MiB, 20 MiB and large blocks), odd (1 byte to 64 MiB), small (1 to 4096 bytes), mixed, apart
// (mixed, and half of them are whole granules that lie apart). Ends with one line of JSON: the footprint and the needed
// bytes at the height of the history and after half of it was freed in random order. Any disagreement is an abort with
// a line on stderr.
#include "arena.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MIB (UINT64_C(1) << 20)
#define BASE (UINT64_C(1) << 40)
#define BYTES (UINT64_C(1) << 40)

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "line %d, step %lu: not so: %s\n", __LINE__, step, #condition);                            \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static struct nvs_arena arena;
static struct nvs_block **blocks;
static size_t count;
static uint64_t footprint_bytes;
static unsigned long step;
static uint64_t state;

static uint64_t random_below(uint64_t bound) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (state >> 20) % bound;
}

static uint64_t size_of(const char *pattern) {
    uint64_t kind = random_below(10);
    if (strcmp(pattern, "pytorch") == 0)
        return kind < 6 ? 2 * MIB : kind < 9 ? 20 * MIB : 2 * MIB * (1 + random_below(256));
    if (strcmp(pattern, "odd") == 0)
        return 1 + random_below(64 * MIB);
    if (strcmp(pattern, "small") == 0)
        return 1 + random_below(4096);
    return kind < 5 ? 1 + random_below(8192) : kind < 8 ? 1 + random_below(4 * MIB) : 1 + random_below(300 * MIB);
}

static void allocate(uint64_t bytes, uint64_t room_bytes, bool apart) {
    struct nvs_placement placement;
    uint64_t before_bytes = arena.extent_bytes, address, length, from;
    if (apart)
        bytes = (bytes + NVS_GRANULE_BYTES - 1) / NVS_GRANULE_BYTES * NVS_GRANULE_BYTES;
    CHECK(apart ? nvs_arena_place_apart(&arena, bytes, &placement)
                : nvs_arena_place(&arena, bytes, room_bytes, &placement));
    CHECK(nvs_arena_is_apart(&arena, placement.address) == apart);
    CHECK(!apart || (placement.cover_from == placement.address && placement.cover_to == placement.address + bytes &&
                     placement.new_bytes == bytes));
    CHECK(placement.bytes >= bytes && placement.bytes < bytes + NVS_BLOCK_ALIGNMENT);
    CHECK(placement.address % NVS_BLOCK_ALIGNMENT == 0);
    CHECK(placement.cover_from <= placement.address);
    CHECK(placement.cover_to >= placement.address + placement.bytes);
    for (from = placement.cover_from; nvs_arena_missing(&arena, from, placement.cover_to, &address, &length);
         from = address + length) {
        CHECK(length <= NVS_EXTENT_MAX_BYTES && address % NVS_GRANULE_BYTES == 0 && length % NVS_GRANULE_BYTES == 0);
        struct nvs_extent *extent = nvs_arena_add_extent(&arena, address, length);
        CHECK(extent != NULL && extent->place == NVS_EXTENT_PRESENT);
    }
    CHECK(arena.extent_bytes - before_bytes == placement.new_bytes);
    uint64_t needed_granules = placement.bytes / NVS_GRANULE_BYTES + 2;
    CHECK(placement.new_bytes <= room_bytes || placement.new_bytes <= needed_granules * NVS_GRANULE_BYTES);
    struct nvs_block *block = nvs_arena_add_block(&arena, placement.address, placement.bytes);
    CHECK(block != NULL);
    block->asked_bytes = bytes;
    blocks[count++] = block;
    footprint_bytes += bytes;
}

static void release(size_t index) {
    struct nvs_block *block = blocks[index];
    uint64_t from = block->address, to = from + block->bytes;
    footprint_bytes -= block->asked_bytes;
    blocks[index] = blocks[--count];
    nvs_arena_remove_block(&arena, block);
    struct nvs_extent *extent;
    while ((extent = nvs_arena_unused_extent(&arena, from, to)) != NULL)
        nvs_arena_remove_extent(&arena, extent);
}

static int by_address(const void *one, const void *other) {
    uint64_t a = (*(struct nvs_block *const *)one)->address, b = (*(struct nvs_block *const *)other)->address;
    return a < b ? -1 : a > b;
}

// The arena against the list of blocks.
static void compare(void) {
    struct nvs_block **sorted = malloc((count + 1) * sizeof(struct nvs_block *));
    memcpy(sorted, blocks, count * sizeof(struct nvs_block *));
    qsort(sorted, count, sizeof(struct nvs_block *), by_address);
    uint64_t extent_bytes = 0, apart_bytes = 0, end = 0;
    CHECK(arena.block_count == count);
    for (size_t i = 0; i < arena.extent_count; i++) {
        CHECK(arena.extents[i]->address >= end && arena.extents[i]->used_bytes > 0);
        if (nvs_arena_is_apart(&arena, arena.extents[i]->address)) { // one block has all of it
            CHECK(arena.extents[i]->used_bytes == arena.extents[i]->bytes && nvs_arena_merge_count(&arena, i) == 1);
            apart_bytes += arena.extents[i]->bytes;
        }
        end = arena.extents[i]->address + arena.extents[i]->bytes;
        extent_bytes += arena.extents[i]->bytes;
    }
    CHECK(extent_bytes == arena.extent_bytes && apart_bytes == arena.apart_bytes);
    struct nvs_block *next = nvs_arena_next_block(&arena, 0);
    uint64_t used_bytes = 0, missing, length;
    for (size_t i = 0; i < count; i++) {
        struct nvs_block *block = sorted[i];
        uint64_t last = block->address + block->bytes - 1;
        CHECK(next == block);
        CHECK(i == 0 || sorted[i - 1]->address + sorted[i - 1]->bytes <= block->address);
        CHECK(nvs_arena_find_block(&arena, block->address) == block && nvs_arena_find_block(&arena, last) == block);
        CHECK(!nvs_arena_missing(&arena, block->address, last + 1, &missing, &length));
        used_bytes += block->bytes;
        next = nvs_arena_next_block(&arena, last + 1);
    }
    CHECK(next == NULL);
    for (size_t i = 0; i < arena.extent_count; i++)
        used_bytes -= arena.extents[i]->used_bytes;
    CHECK(used_bytes == 0);
    free(sorted);
}

int main(int argc, char **argv) {
    if (argc != 5)
        return 2;
    const char *pattern = argv[1];
    unsigned long steps = strtoul(argv[2], NULL, 10);
    state = strtoul(argv[3], NULL, 10);
    uint64_t room_bytes = strtoul(argv[4], NULL, 10) * MIB;
    unsigned long compares = steps < 1000 ? 1 : steps / 50;
    blocks = calloc(steps + 1, sizeof(struct nvs_block *));
    CHECK(blocks != NULL && nvs_arena_open(&arena, BASE, BYTES));
    struct timespec begin, end;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
    for (step = 0; step < steps; step++) {
        if (count > 0 && random_below(4) == 0)
            release(random_below(count));
        else
            allocate(size_of(pattern), room_bytes, strcmp(pattern, "apart") == 0 && random_below(2) == 0);
        if (step % compares == 0)
            compare();
    }
    uint64_t height_footprint = footprint_bytes, height_needed = arena.extent_bytes;
    size_t height_extents = arena.extent_count, height_blocks = count;
    for (size_t kept = count / 2; count > kept; step++) {
        release(random_below(count));
        if (step % compares == 0)
            compare();
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    printf("{\"blocks\": %zu, \"extents\": %zu, \"footprint_bytes\": %" PRIu64 ", \"needed_bytes\": %" PRIu64
           ", \"half_footprint_bytes\": %" PRIu64 ", \"half_needed_bytes\": %" PRIu64 ", \"seconds\": %f}\n",
           height_blocks, height_extents, height_footprint, height_needed, footprint_bytes, arena.extent_bytes,
           (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) * 1e-9);
    while (count > 0)
        release(random_below(count));
    CHECK(arena.extent_bytes == 0 && arena.extent_count == 0 && arena.block_count == 0);
    nvs_arena_close(&arena);
    free(blocks);
    return 0;
}
