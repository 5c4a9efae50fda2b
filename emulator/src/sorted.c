#include "sorted.h"

#include <stdlib.h>
#include <string.h>

void *emu_sorted_at(const struct emu_sorted *sorted, size_t index) {
    return sorted->items + index * sorted->item_bytes;
}

static struct emu_stretch stretch_at(const struct emu_sorted *sorted, size_t index) {
    struct emu_stretch stretch;
    memcpy(&stretch, emu_sorted_at(sorted, index), sizeof stretch);
    return stretch;
}

size_t emu_sorted_after(const struct emu_sorted *sorted, uint64_t address) {
    size_t low = 0;
    size_t high = sorted->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (stretch_at(sorted, middle).start <= address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

void *emu_sorted_find(const struct emu_sorted *sorted, uint64_t address) {
    size_t index = emu_sorted_after(sorted, address);
    if (index == 0) {
        return NULL;
    }
    struct emu_stretch stretch = stretch_at(sorted, index - 1);
    return address - stretch.start < stretch.bytes ? emu_sorted_at(sorted, index - 1) : NULL;
}

bool emu_sorted_reserve(struct emu_sorted *sorted) {
    if (sorted->count < sorted->room) {
        return true;
    }
    size_t room = sorted->room == 0 ? 64 : 2 * sorted->room;
    char *grown = realloc(sorted->items, room * sorted->item_bytes);
    if (grown == NULL) {
        return false;
    }
    sorted->items = grown;
    sorted->room = room;
    return true;
}

void *emu_sorted_add(struct emu_sorted *sorted, const void *item) {
    struct emu_stretch stretch;
    if (!emu_sorted_reserve(sorted)) {
        return NULL;
    }
    memcpy(&stretch, item, sizeof stretch);
    size_t index = emu_sorted_after(sorted, stretch.start);
    char *place = emu_sorted_at(sorted, index);
    memmove(place + sorted->item_bytes, place, (sorted->count - index) * sorted->item_bytes);
    memcpy(place, item, sorted->item_bytes);
    sorted->count++;
    return place;
}

void emu_sorted_remove(struct emu_sorted *sorted, uint64_t start) {
    size_t index = emu_sorted_after(sorted, start);
    if (index == 0 || stretch_at(sorted, index - 1).start != start) {
        return;
    }
    char *place = emu_sorted_at(sorted, index - 1);
    memmove(place, place + sorted->item_bytes, (sorted->count - index) * sorted->item_bytes);
    sorted->count--;
}
