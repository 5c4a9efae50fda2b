// Where a block goes, and what extents it takes: first where extents already are, else where the least must be added.
#include "span.h"

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
    uint64_t wanted_bytes =
        nvs_least(nvs_up((arena->extent_bytes - arena->apart_bytes) / 8, NVS_GRANULE_BYTES), NVS_EXTENT_GROWTH_BYTES);
    wanted_bytes = nvs_least(wanted_bytes, nvs_down(room_bytes, NVS_GRANULE_BYTES));
    if (nvs_block_is_large(bytes) || least_bytes == 0 || least_bytes >= wanted_bytes || to >= limit)
        return true;
    placement->cover_to = nvs_least(to + wanted_bytes - least_bytes, limit);
    placement->new_bytes = nvs_arena_missing_bytes(arena, from, placement->cover_to);
    return true;
}

bool nvs_arena_place_apart(const struct nvs_arena *arena, uint64_t bytes, struct nvs_placement *placement) {
    uint64_t limit;
    if (!nvs_zone_place(&arena->zones[NVS_ZONE_APART], bytes, placement, &limit))
        return false;
    placement->cover_from = placement->address;
    placement->cover_to = placement->address + bytes;
    placement->new_bytes = bytes;
    return true;
}
