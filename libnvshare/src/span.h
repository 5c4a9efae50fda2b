// The spans of a zone of the arena: a treap, ordered by address, in which every node knows the best free room below it.
//
// A span is a block, or what is free between two of them; the spans of a zone leave no address out.
#ifndef NVS_SPAN_H
#define NVS_SPAN_H

#include "arena.h"

static inline uint64_t nvs_down(uint64_t value, uint64_t unit) {
    return value & ~(unit - 1);
}

static inline uint64_t nvs_up(uint64_t value, uint64_t unit) {
    return nvs_down(value + unit - 1, unit);
}

static inline uint64_t nvs_least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static inline uint64_t nvs_greatest(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

static inline uint64_t nvs_span_end(const struct nvs_block *span) {
    return span->address + span->bytes;
}

// A new span, in no treap yet. NULL: no host memory.
struct nvs_block *nvs_span_new(struct nvs_arena *arena);

// The lowest span, of these, with so much of this room; NULL: none.
struct nvs_block *nvs_span_lowest(struct nvs_block *span, enum nvs_fit fit, uint64_t bytes);

// Each gives the new root. The span that is removed is the caller's.
struct nvs_block *nvs_treap_insert(struct nvs_block *root, struct nvs_block *span);
struct nvs_block *nvs_treap_remove(struct nvs_block *root, const struct nvs_block *span);

// A span has changed: its figures and those of the nodes above it.
void nvs_treap_update(struct nvs_block *root, const struct nvs_block *span);

// Frees all of its spans.
void nvs_treap_free(struct nvs_block *root);

// The zone that the address belongs to, and the span in it that holds the address; NULL: none.
struct nvs_zone *nvs_zone_of(const struct nvs_arena *arena, uint64_t address);
struct nvs_block *nvs_zone_span(const struct nvs_zone *zone, uint64_t address);

#endif
