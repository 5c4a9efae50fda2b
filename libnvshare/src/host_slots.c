#include "host_slots.h"

#include "host_pool.h"

#define SLOTS_OF_SEGMENT ((size_t)(NVS_POOL_SEGMENT_BYTES / NVS_POOL_SLOT_BYTES))

_Static_assert(SLOTS_OF_SEGMENT <= 32, "a segment's free slots are bits of one word");

static size_t free_of(const struct nvs_slots_segment *segment) {
    return (size_t)__builtin_popcount(segment->free);
}

static bool is_ready(const struct nvs_slots *slots, const struct nvs_slots_segment *segment) {
    return segment->context != NULL || segment->unpinned || slots->context == NULL;
}

bool nvs_slots_add(struct nvs_slots *slots, const struct nvs_segment *memory) {
    if (slots->segment_count == NVS_SLOTS_SEGMENTS_MAX)
        return false;
    size_t count = memory->bytes / NVS_POOL_SLOT_BYTES;
    slots->segments[slots->segment_count++] =
        (struct nvs_slots_segment){.memory = *memory, .free = (uint32_t)((UINT64_C(1) << count) - 1)};
    slots->bytes += memory->bytes;
    return true;
}

void nvs_slots_close(struct nvs_slots *slots, struct nvs_slots_segment *segment) {
    segment->free = 0;
    slots->bytes -= segment->memory.bytes;
}

void nvs_slots_remove(struct nvs_slots *slots, struct nvs_slots_segment *segment) {
    *segment = slots->segments[--slots->segment_count];
}

struct nvs_slots_segment *nvs_slots_unregistered(struct nvs_slots *slots) {
    for (size_t i = 0; i < slots->segment_count; i++)
        if (!is_ready(slots, &slots->segments[i]))
            return &slots->segments[i];
    return NULL;
}

struct nvs_slots_segment *nvs_slots_excess(struct nvs_slots *slots, uint64_t needed_bytes) {
    for (size_t i = slots->segment_count; i-- > 0;) {
        struct nvs_slots_segment *segment = &slots->segments[i];
        if (free_of(segment) == segment->memory.bytes / NVS_POOL_SLOT_BYTES &&
            slots->bytes - segment->memory.bytes >= needed_bytes)
            return segment;
    }
    return NULL;
}

size_t nvs_slots_free(const struct nvs_slots *slots) {
    size_t count = 0;
    for (size_t i = 0; i < slots->segment_count; i++)
        if (is_ready(slots, &slots->segments[i]))
            count += free_of(&slots->segments[i]);
    return count;
}

uint64_t nvs_slots_ready_bytes(const struct nvs_slots *slots) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < slots->segment_count; i++)
        if (is_ready(slots, &slots->segments[i]))
            bytes += slots->segments[i].memory.bytes;
    return bytes;
}

// The one with the fewest free slots that has enough: whole segments stay free as long as they can. NULL: none.
static struct nvs_slots_segment *tightest(struct nvs_slots *slots, size_t count) {
    struct nvs_slots_segment *best = NULL;
    for (size_t i = 0; i < slots->segment_count; i++) {
        struct nvs_slots_segment *segment = &slots->segments[i];
        if (is_ready(slots, segment) && free_of(segment) >= count && (best == NULL || free_of(segment) < free_of(best)))
            best = segment;
    }
    return best;
}

void nvs_slots_hand_out(struct nvs_slots *slots, size_t count, void **addresses) {
    struct nvs_slots_segment *segment = tightest(slots, count);
    if (segment == NULL)
        segment = slots->segments;
    slots->used += count;
    for (; count > 0; segment++)
        for (; count > 0 && segment->free != 0 && is_ready(slots, segment); count--) {
            unsigned slot = (unsigned)__builtin_ctz(segment->free);
            segment->free &= segment->free - 1;
            *addresses++ = segment->memory.address + slot * NVS_POOL_SLOT_BYTES;
        }
}

static struct nvs_slots_segment *segment_of(struct nvs_slots *slots, const char *slot) {
    for (size_t i = 0; i < slots->segment_count; i++) {
        struct nvs_slots_segment *segment = &slots->segments[i];
        if (slot >= segment->memory.address && slot < segment->memory.address + segment->memory.bytes)
            return segment;
    }
    return NULL;
}

void nvs_slots_take_back(struct nvs_slots *slots, size_t count, void *const *addresses) {
    for (size_t i = 0; i < count; i++) {
        const char *slot = addresses[i];
        struct nvs_slots_segment *segment = segment_of(slots, slot);
        if (segment == NULL)
            continue;
        segment->free |= 1u << ((size_t)(slot - segment->memory.address) / NVS_POOL_SLOT_BYTES);
        slots->used--;
    }
}

void nvs_slots_use_context(struct nvs_slots *slots, CUcontext context) {
    if (context == NULL || context == slots->context)
        return;
    slots->context = context;
    for (size_t i = 0; i < slots->segment_count; i++)
        slots->segments[i].unpinned = false; // another context may do what the last one refused
}

void nvs_slots_context_ended(struct nvs_slots *slots, CUcontext context) {
    if (slots->context == context)
        slots->context = NULL;
    for (size_t i = 0; i < slots->segment_count; i++)
        if (slots->segments[i].context == context)
            slots->segments[i].context = NULL;
}

void nvs_slots_clear(struct nvs_slots *slots) {
    slots->segment_count = 0;
    slots->bytes = 0;
    slots->used = 0;
    slots->context = NULL;
}
