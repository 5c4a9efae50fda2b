#include "arena.h"

#include "span.h"

#include <stdlib.h>
#include <string.h>

bool nvs_arena_open(struct nvs_arena *arena, uint64_t address, uint64_t bytes) {
    // Half for large blocks, a sixth for small ones. The granule before the next zone stays free: no extent reaches
    // from one into the other.
    uint64_t part_bytes = nvs_down(bytes / 6, NVS_GRANULE_BYTES);
    uint64_t small = address + 3 * part_bytes, apart = address + 4 * part_bytes;
    memset(arena, 0, sizeof(*arena));
    arena->random = 2463534242u;
    arena->zones[NVS_ZONE_LARGE] = (struct nvs_zone){address, small - NVS_GRANULE_BYTES - address, NULL};
    arena->zones[NVS_ZONE_SMALL] = (struct nvs_zone){small, apart - NVS_GRANULE_BYTES - small, NULL};
    arena->zones[NVS_ZONE_APART] = (struct nvs_zone){apart, address + bytes - apart, NULL};
    for (size_t i = 0; i < NVS_ZONES; i++) {
        struct nvs_zone *zone = &arena->zones[i];
        zone->root = nvs_span_new(arena);
        if (zone->root == NULL) {
            nvs_arena_close(arena);
            return false;
        }
        zone->root->address = zone->address;
        zone->root->bytes = zone->bytes;
        nvs_treap_update(zone->root, zone->root);
    }
    arena->address = address;
    arena->bytes = bytes;
    return true;
}

void nvs_arena_close(struct nvs_arena *arena) {
    for (size_t i = 0; i < NVS_ZONES; i++)
        nvs_treap_free(arena->zones[i].root);
    for (size_t i = 0; i < arena->extent_count; i++)
        free(arena->extents[i]);
    free(arena->extents);
    memset(arena, 0, sizeof(*arena));
}

bool nvs_arena_is_apart(const struct nvs_arena *arena, uint64_t address) {
    const struct nvs_zone *zone = &arena->zones[NVS_ZONE_APART];
    return address - zone->address < zone->bytes;
}

// ---- Extents

size_t nvs_arena_extent_from(const struct nvs_arena *arena, uint64_t address) {
    size_t low = 0, high = arena->extent_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct nvs_extent *extent = arena->extents[middle];
        if (extent->address + extent->bytes <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// What extents cover of a free span, from its start on and up to its end. In between nothing is: an extent without a
// block gives its memory back.
static void nvs_span_cover(const struct nvs_arena *arena, struct nvs_block *span) {
    uint64_t end = nvs_span_end(span);
    uint64_t head = span->address, tail = end;
    for (size_t i = nvs_arena_extent_from(arena, head); i < arena->extent_count && head < end; i++) {
        if (arena->extents[i]->address > head)
            break;
        head = arena->extents[i]->address + arena->extents[i]->bytes;
    }
    size_t after = nvs_arena_extent_from(arena, end - 1);
    if (after < arena->extent_count && arena->extents[after]->address < end)
        tail = arena->extents[after]->address;
    for (; after > 0 && after <= arena->extent_count && tail > span->address && tail < end; after--) {
        const struct nvs_extent *before = arena->extents[after - 1];
        if (before->address + before->bytes != tail)
            break;
        tail = before->address;
    }
    span->head_bytes = nvs_least(head, end) - span->address;
    span->tail_bytes = end - nvs_greatest(tail, span->address);
}

// The coverage of [from, to) has changed, which lies in one zone.
static void nvs_arena_refresh(const struct nvs_arena *arena, uint64_t from, uint64_t to) {
    struct nvs_zone *zone = nvs_zone_of(arena, from);
    while (from < to) {
        struct nvs_block *span = nvs_zone_span(zone, from);
        if (span == NULL)
            return;
        if (!span->used) {
            nvs_span_cover(arena, span);
            nvs_treap_update(zone->root, span);
        }
        from = nvs_span_end(span);
    }
}

struct nvs_extent *nvs_arena_add_extent(struct nvs_arena *arena, uint64_t address, uint64_t bytes) {
    if (arena->extent_count == arena->extent_room) {
        size_t room = arena->extent_room == 0 ? 64 : 2 * arena->extent_room;
        struct nvs_extent **extents = realloc(arena->extents, room * sizeof(struct nvs_extent *));
        if (extents == NULL)
            return NULL;
        arena->extents = extents;
        arena->extent_room = room;
    }
    struct nvs_extent *extent = calloc(1, sizeof(*extent));
    if (extent == NULL)
        return NULL;
    extent->address = address;
    extent->bytes = bytes;
    size_t at = nvs_arena_extent_from(arena, address);
    memmove(&arena->extents[at + 1], &arena->extents[at], (arena->extent_count - at) * sizeof(struct nvs_extent *));
    arena->extents[at] = extent;
    arena->extent_count++;
    arena->extent_bytes += bytes;
    arena->apart_bytes += nvs_arena_is_apart(arena, address) ? bytes : 0;
    nvs_arena_refresh(arena, address, address + bytes);
    return extent;
}

static void nvs_arena_forget_extent(struct nvs_arena *arena, size_t at) {
    free(arena->extents[at]);
    arena->extent_count--;
    memmove(&arena->extents[at], &arena->extents[at + 1], (arena->extent_count - at) * sizeof(struct nvs_extent *));
}

void nvs_arena_remove_extent(struct nvs_arena *arena, struct nvs_extent *extent) {
    uint64_t address = extent->address, bytes = extent->bytes;
    arena->extent_bytes -= bytes;
    arena->apart_bytes -= nvs_arena_is_apart(arena, address) ? bytes : 0;
    nvs_arena_forget_extent(arena, nvs_arena_extent_from(arena, address));
    nvs_arena_refresh(arena, address, address + bytes);
}

struct nvs_extent *nvs_arena_unused_extent(const struct nvs_arena *arena, uint64_t from, uint64_t to) {
    for (size_t i = nvs_arena_extent_from(arena, from); i < arena->extent_count && arena->extents[i]->address < to;
         i++) {
        struct nvs_extent *extent = arena->extents[i];
        if (extent->used_bytes == 0 && extent->pins == 0 &&
            (extent->place == NVS_EXTENT_PRESENT || extent->place == NVS_EXTENT_AWAY))
            return extent;
    }
    return NULL;
}

size_t nvs_arena_merge_count(const struct nvs_arena *arena, size_t index) {
    uint64_t end = arena->extents[index]->address;
    size_t count = 0;
    if (nvs_arena_is_apart(arena, end))
        return 1;
    for (; index + count < arena->extent_count; count++) {
        const struct nvs_extent *extent = arena->extents[index + count];
        uint64_t bytes = extent->address + extent->bytes - arena->extents[index]->address;
        if (extent->place != NVS_EXTENT_AWAY || extent->handle != 0 || extent->address != end ||
            bytes > NVS_EXTENT_MERGED_BYTES)
            break;
        end += extent->bytes;
    }
    return count == 0 ? 1 : count;
}

void nvs_arena_merge(struct nvs_arena *arena, size_t index, size_t count) {
    struct nvs_extent *first = arena->extents[index];
    for (; count > 1; count--) {
        first->bytes += arena->extents[index + 1]->bytes;
        first->used_bytes += arena->extents[index + 1]->used_bytes;
        nvs_arena_forget_extent(arena, index + 1);
    }
}

// ---- Blocks

// Caller: the extents under it; `sign` 1 as it comes, -1 as it goes.
static void nvs_arena_use(struct nvs_arena *arena, const struct nvs_block *block, int sign) {
    uint64_t end = nvs_span_end(block);
    for (size_t i = nvs_arena_extent_from(arena, block->address);
         i < arena->extent_count && arena->extents[i]->address < end; i++) {
        struct nvs_extent *extent = arena->extents[i];
        uint64_t bytes =
            nvs_least(end, extent->address + extent->bytes) - nvs_greatest(block->address, extent->address);
        extent->used_bytes += sign > 0 ? bytes : -bytes;
    }
}

struct nvs_block *nvs_arena_add_block(struct nvs_arena *arena, uint64_t address, uint64_t bytes) {
    struct nvs_zone *zone = nvs_zone_of(arena, address);
    struct nvs_block *free_span = nvs_zone_span(zone, address);
    uint64_t before_bytes = address - free_span->address;
    uint64_t after_bytes = nvs_span_end(free_span) - address - bytes;
    // The span becomes what is free before the block, or else the block, or what is free after it.
    struct nvs_block *block = nvs_span_new(arena);
    struct nvs_block *after = before_bytes > 0 && after_bytes > 0 ? nvs_span_new(arena) : NULL;
    if (block == NULL || (before_bytes > 0 && after_bytes > 0 && after == NULL)) {
        free(block);
        free(after);
        return NULL;
    }
    zone->root = nvs_treap_remove(zone->root, free_span);
    if (before_bytes == 0 && after_bytes == 0) {
        free(free_span);
    } else if (before_bytes > 0) {
        free_span->bytes = before_bytes;
    } else {
        after = free_span;
        free_span = NULL;
    }
    block->address = address;
    block->bytes = bytes;
    block->used = true;
    zone->root = nvs_treap_insert(zone->root, block);
    if (before_bytes > 0) {
        nvs_span_cover(arena, free_span);
        zone->root = nvs_treap_insert(zone->root, free_span);
    }
    if (after_bytes > 0) {
        after->address = address + bytes;
        after->bytes = after_bytes;
        nvs_span_cover(arena, after);
        zone->root = nvs_treap_insert(zone->root, after);
    }
    arena->block_count++;
    nvs_arena_use(arena, block, 1);
    return block;
}

void nvs_arena_remove_block(struct nvs_arena *arena, struct nvs_block *block) {
    struct nvs_zone *zone = nvs_zone_of(arena, block->address);
    struct nvs_block *before = nvs_zone_span(zone, block->address - 1);
    struct nvs_block *after = nvs_zone_span(zone, nvs_span_end(block));
    nvs_arena_use(arena, block, -1);
    arena->block_count--;
    zone->root = nvs_treap_remove(zone->root, block);
    block->used = false;
    if (before != NULL && !before->used) {
        zone->root = nvs_treap_remove(zone->root, before);
        block->address = before->address;
        block->bytes += before->bytes;
        free(before);
    }
    if (after != NULL && !after->used) {
        zone->root = nvs_treap_remove(zone->root, after);
        block->bytes += after->bytes;
        free(after);
    }
    nvs_span_cover(arena, block);
    zone->root = nvs_treap_insert(zone->root, block);
}

struct nvs_block *nvs_arena_find_block(const struct nvs_arena *arena, uint64_t address) {
    struct nvs_block *span = nvs_zone_span(nvs_zone_of(arena, address), address);
    return span != NULL && span->used ? span : NULL;
}

struct nvs_block *nvs_arena_next_block(const struct nvs_arena *arena, uint64_t address) {
    for (size_t i = 0; i < NVS_ZONES; i++) {
        const struct nvs_zone *zone = &arena->zones[i];
        uint64_t from = nvs_greatest(address, zone->address);
        while (from < zone->address + zone->bytes) {
            struct nvs_block *span = nvs_zone_span(zone, from);
            if (span->used && span->address >= address)
                return span;
            from = nvs_span_end(span);
        }
    }
    return NULL;
}
