#include "span.h"

#include <stdlib.h>

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

struct nvs_block *nvs_span_lowest(struct nvs_block *span, enum nvs_fit fit, uint64_t bytes) {
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

// ---- The treap

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

struct nvs_block *nvs_treap_insert(struct nvs_block *root, struct nvs_block *span) {
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

struct nvs_block *nvs_treap_remove(struct nvs_block *root, const struct nvs_block *span) {
    if (root == span)
        return nvs_treap_join(root->left, root->right);
    if (span->address < root->address)
        root->left = nvs_treap_remove(root->left, span);
    else
        root->right = nvs_treap_remove(root->right, span);
    nvs_span_update(root);
    return root;
}

void nvs_treap_update(struct nvs_block *root, const struct nvs_block *span) {
    if (root != span)
        nvs_treap_update(span->address < root->address ? root->left : root->right, span);
    nvs_span_update(root);
}

struct nvs_zone *nvs_zone_of(const struct nvs_arena *arena, uint64_t address) {
    for (size_t i = 0; i < NVS_ZONES; i++)
        if (address - arena->zones[i].address < arena->zones[i].bytes)
            return (struct nvs_zone *)&arena->zones[i];
    return NULL;
}

struct nvs_block *nvs_zone_span(const struct nvs_zone *zone, uint64_t address) {
    struct nvs_block *span = zone == NULL ? NULL : zone->root;
    while (span != NULL && address - span->address >= span->bytes)
        span = address < span->address ? span->left : span->right;
    return span;
}

struct nvs_block *nvs_span_new(struct nvs_arena *arena) {
    struct nvs_block *span = calloc(1, sizeof(*span));
    if (span == NULL)
        return NULL;
    arena->random ^= arena->random << 13; // xorshift: priorities need only be spread
    arena->random ^= arena->random >> 17;
    arena->random ^= arena->random << 5;
    span->priority = arena->random;
    return span;
}

void nvs_treap_free(struct nvs_block *root) {
    if (root == NULL)
        return;
    nvs_treap_free(root->left);
    nvs_treap_free(root->right);
    free(root);
}
