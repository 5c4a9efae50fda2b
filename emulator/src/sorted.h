/* Arrays of stretches of addresses that do not overlap, sorted by their start: found by bisection, moved when one comes
 * or goes. The items are structs that begin with a struct emu_stretch's members. */
#ifndef EMU_SORTED_H
#define EMU_SORTED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct emu_stretch {
    uint64_t start;
    uint64_t bytes;
};

struct emu_sorted {
    size_t item_bytes;
    char *items;
    size_t count;
    size_t room;
};

void *emu_sorted_at(const struct emu_sorted *sorted, size_t index);

/* The index of the first item that starts after the address. */
size_t emu_sorted_after(const struct emu_sorted *sorted, uint64_t address);

/* The item that the address lies in, or NULL. */
void *emu_sorted_find(const struct emu_sorted *sorted, uint64_t address);

/* Make room for one more item, which can then be added. False when out of host memory. */
bool emu_sorted_reserve(struct emu_sorted *sorted);

/* Add a copy of the item; returns it, or NULL when out of host memory. Other items may move. */
void *emu_sorted_add(struct emu_sorted *sorted, const void *item);

/* Remove the item that starts there, if there is one. */
void emu_sorted_remove(struct emu_sorted *sorted, uint64_t start);

#endif
