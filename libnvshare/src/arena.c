#include "arena.h"

#include <stdlib.h>
#include <string.h>

static uint64_t nvs_down(uint64_t value, uint64_t unit) {
    return value & ~(unit - 1);
}

static uint64_t nvs_up(uint64_t value, uint64_t unit) {
    return nvs_down(value + unit - 1, unit);
}

static uint64_t nvs_least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static uint64_t nvs_greatest(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

// ---- Spans

static uint64_t nvs_span_end(const struct nvs_block *span) {
    return span->address + span->bytes;
}

static uint64_t nvs_after_granule(uint64_t from, uint64_t to) {
    uint64_t start = nvs_up(from, NVS_GRANULE_BYTES);
    return to > start ? to - start : 0;
}

// What one span, itself, has of this room.
static uint64_t nvs_span_fit(const struct nvs_block *span, enum nvs_fit fit) {
    uint64_t end = nvs_span_end(span);
    if (span->used)
        return 0;
    switch (fit) {
    case NVS_FIT_ROOM_ALIGNED:
        return nvs_greatest(nvs_after_granule(span->address, span->address + span->head_bytes),
                            nvs_after_granule(end - span->tail_bytes, end));
    case NVS_FIT_ROOM:
        return nvs_greatest(span->head_bytes, span->tail_bytes);
    case NVS_FIT_GAP_ALIGNED:
        return nvs_after_granule(span->address, end);
    default:
        return span->bytes;
    }
}

static void nvs_span_update(struct nvs_block *span) {
    for (int fit = 0; fit < NVS_FITS; fit++) {
        uint64_t most = nvs_span_fit(span, (enum nvs_fit)fit);
        if (span->left != NULL)
            most = nvs_greatest(most, span->left->most[fit]);
        if (span->right != NULL)
            most = nvs_greatest(most, span->right->most[fit]);
        span->most[fit] = most;
    }
}

// The lowest span with so much of this room.
static struct nvs_block *nvs_span_lowest(struct nvs_block *span, enum nvs_fit fit, uint64_t bytes) {
    while (span != NULL && span->most[fit] >= bytes) {
        if (span->left != NULL && span->left->most[fit] >= bytes)
            span = span->left;
        else if (nvs_span_fit(span, fit) >= bytes)
            return span;
        else
            span = span->right;
    }
    return NULL;
}

// ---- The treap of a zone

// Spans below the address, and the others.
static void nvs_treap_split(struct nvs_block *root, uint64_t address, struct nvs_block **below,
                            struct nvs_block **others) {
    if (root == NULL) {
        *below = *others = NULL;
    } else if (root->address < address) {
        nvs_treap_split(root->right, address, &root->right, others);
        *below = root;
        nvs_span_update(root);
    } else {
        nvs_treap_split(root->left, address, below, &root->left);
        *others = root;
        nvs_span_update(root);
    }
}

static struct nvs_block *nvs_treap_join(struct nvs_block *below, struct nvs_block *others) {
    if (below == NULL || others == NULL)
        return below != NULL ? below : others;
    if (below->priority > others->priority) {
        below->right = nvs_treap_join(below->right, others);
        nvs_span_update(below);
        return below;
    }
    others->left = nvs_treap_join(below, others->left);
    nvs_span_update(others);
    return others;
}

static struct nvs_block *nvs_treap_insert(struct nvs_block *root, struct nvs_block *span) {
    if (root == NULL || span->priority > root->priority) {
        nvs_treap_split(root, span->address, &span->left, &span->right);
        nvs_span_update(span);
        return span;
    }
    if (span->address < root->address)
        root->left = nvs_treap_insert(root->left, span);
    else
        root->right = nvs_treap_insert(root->right, span);
    nvs_span_update(root);
    return root;
}

static struct nvs_block *nvs_treap_remove(struct nvs_block *root, const struct nvs_block *span) {
    if (root == span)
        return nvs_treap_join(root->left, root->right);
    if (span->address < root->address)
        root->left = nvs_treap_remove(root->left, span);
    else
        root->right = nvs_treap_remove(root->right, span);
    nvs_span_update(root);
    return root;
}

// A span has changed: its figures and those of the nodes above it.
static void nvs_treap_update(struct nvs_block *root, const struct nvs_block *span) {
    if (root != span)
        nvs_treap_update(span->address < root->address ? root->left : root->right, span);
    nvs_span_update(root);
}

static struct nvs_zone *nvs_zone_of(const struct nvs_arena *arena, uint64_t address) {
    for (size_t i = 0; i < NVS_ZONES; i++)
        if (address - arena->zones[i].address < arena->zones[i].bytes)
            return (struct nvs_zone *)&arena->zones[i];
    return NULL;
}

// The span that holds the address; the spans of a zone leave no address out.
static struct nvs_block *nvs_zone_span(const struct nvs_zone *zone, uint64_t address) {
    struct nvs_block *span = zone == NULL ? NULL : zone->root;
    while (span != NULL && address - span->address >= span->bytes)
        span = address < span->address ? span->left : span->right;
    return span;
}

static struct nvs_block *nvs_span_new(struct nvs_arena *arena) {
    struct nvs_block *span = calloc(1, sizeof(*span));
    if (span == NULL)
        return NULL;
    arena->random ^= arena->random << 13; // xorshift: priorities need only be spread
    arena->random ^= arena->random >> 17;
    arena->random ^= arena->random << 5;
    span->priority = arena->random;
    return span;
}

static void nvs_treap_free(struct nvs_block *root) {
    if (root == NULL)
        return;
    nvs_treap_free(root->left);
    nvs_treap_free(root->right);
    free(root);
}

bool nvs_arena_open(struct nvs_arena *arena, uint64_t address, uint64_t bytes) {
    // A quarter for small blocks. The granule before it stays free: no extent reaches from one zone into the other.
    uint64_t large_bytes = nvs_down(bytes / 4 * 3, NVS_GRANULE_BYTES);
    memset(arena, 0, sizeof(*arena));
    arena->random = 2463534242u;
    arena->zones[NVS_ZONE_LARGE] = (struct nvs_zone){address, large_bytes - NVS_GRANULE_BYTES, NULL};
    arena->zones[NVS_ZONE_SMALL] = (struct nvs_zone){address + large_bytes, bytes - large_bytes, NULL};
    for (size_t i = 0; i < NVS_ZONES; i++) {
        struct nvs_zone *zone = &arena->zones[i];
        zone->root = nvs_span_new(arena);
        if (zone->root == NULL) {
            nvs_arena_close(arena);
            return false;
        }
        zone->root->address = zone->address;
        zone->root->bytes = zone->bytes;
        nvs_span_update(zone->root);
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
    for (; index + count < arena->extent_count; count++) {
        const struct nvs_extent *extent = arena->extents[index + count];
        uint64_t bytes = extent->address + extent->bytes - arena->extents[index]->address;
        if (extent->place != NVS_EXTENT_AWAY || extent->address != end || bytes > NVS_EXTENT_MERGED_BYTES)
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

// ---- Placing

bool nvs_arena_missing(const struct nvs_arena *arena, uint64_t from, uint64_t to, uint64_t *address, uint64_t *bytes) {
    size_t i = nvs_arena_extent_from(arena, from);
    for (; i < arena->extent_count && arena->extents[i]->address <= from; i++)
        from = arena->extents[i]->address + arena->extents[i]->bytes;
    if (from >= to)
        return false;
    if (i < arena->extent_count)
        to = nvs_least(to, arena->extents[i]->address);
    *address = from;
    *bytes = nvs_least(to - from, NVS_EXTENT_MAX_BYTES);
    return true;
}

static uint64_t nvs_arena_missing_bytes(const struct nvs_arena *arena, uint64_t from, uint64_t to) {
    uint64_t sum = 0, address, bytes;
    for (; nvs_arena_missing(arena, from, to, &address, &bytes); from = address + bytes)
        sum += bytes;
    return sum;
}

// So large that it has extents of its own, which go when it goes: a part of a granule is little beside it.
static bool nvs_block_is_large(uint64_t bytes) {
    return bytes >= 8 * NVS_GRANULE_BYTES;
}

static bool nvs_prefers_granule(uint64_t bytes) {
    return bytes % NVS_GRANULE_BYTES == 0 || nvs_block_is_large(bytes);
}

// Where in the span a block of this fit begins.
static uint64_t nvs_span_start(const struct nvs_block *span, enum nvs_fit fit, uint64_t bytes) {
    bool aligned = fit == NVS_FIT_ROOM_ALIGNED || fit == NVS_FIT_GAP_ALIGNED;
    uint64_t start = aligned ? nvs_up(span->address, NVS_GRANULE_BYTES) : span->address;
    uint64_t within = fit == NVS_FIT_ROOM || fit == NVS_FIT_ROOM_ALIGNED ? span->head_bytes : span->bytes;
    if (start + bytes <= span->address + within)
        return start;
    start = nvs_span_end(span) - span->tail_bytes;
    return aligned ? nvs_up(start, NVS_GRANULE_BYTES) : start;
}

static bool nvs_zone_place(const struct nvs_zone *zone, uint64_t bytes, struct nvs_placement *placement,
                           uint64_t *limit) {
    for (int fit = 0; fit < NVS_FITS; fit++) {
        if ((fit == NVS_FIT_ROOM_ALIGNED || fit == NVS_FIT_GAP_ALIGNED) && !nvs_prefers_granule(bytes))
            continue;
        const struct nvs_block *span = nvs_span_lowest(zone->root, (enum nvs_fit)fit, bytes);
        if (span == NULL)
            continue;
        placement->address = nvs_span_start(span, (enum nvs_fit)fit, bytes);
        placement->bytes = bytes;
        *limit = nvs_down(nvs_span_end(span), NVS_GRANULE_BYTES);
        return true;
    }
    return false;
}

bool nvs_arena_place(const struct nvs_arena *arena, uint64_t bytes, uint64_t room_bytes,
                     struct nvs_placement *placement) {
    if (bytes == 0 || bytes > arena->bytes)
        return false;
    bytes = nvs_up(bytes, NVS_BLOCK_ALIGNMENT);
    int own = bytes < NVS_GRANULE_BYTES ? NVS_ZONE_SMALL : NVS_ZONE_LARGE;
    uint64_t limit = 0;
    if (!nvs_zone_place(&arena->zones[own], bytes, placement, &limit) &&
        !nvs_zone_place(&arena->zones[!own], bytes, placement, &limit))
        return false;
    uint64_t from = nvs_down(placement->address, NVS_GRANULE_BYTES);
    uint64_t to = nvs_up(placement->address + bytes, NVS_GRANULE_BYTES);
    uint64_t least_bytes = nvs_arena_missing_bytes(arena, from, to);
    placement->cover_from = from;
    placement->cover_to = to;
    placement->new_bytes = least_bytes;
    uint64_t wanted_bytes = nvs_least(nvs_up(arena->extent_bytes / 8, NVS_GRANULE_BYTES), NVS_EXTENT_GROWTH_BYTES);
    wanted_bytes = nvs_least(wanted_bytes, nvs_down(room_bytes, NVS_GRANULE_BYTES));
    if (nvs_block_is_large(bytes) || least_bytes == 0 || least_bytes >= wanted_bytes || to >= limit)
        return true;
    placement->cover_to = nvs_least(to + wanted_bytes - least_bytes, limit);
    placement->new_bytes = nvs_arena_missing_bytes(arena, from, placement->cover_to);
    return true;
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
