/* A sparse range of addresses backed by one memfd: a card's memory as one process sees it, or its pinned host memory.
 *
 * Extents are handed out first fit. The backing is charged in granules of 2 MiB, as the driver does: small extents
 * share one. An address in the window and the offset in the memfd differ by the window's base, so an extent can also be
 * mapped a second time elsewhere (cuMemMap). Freed bytes are punched out: they cost nothing and are zero again. Not
 * thread-safe.
 */
#ifndef EMU_ARENA_H
#define EMU_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EMU_GRANULE_BYTES (2ULL << 20)

struct emu_extent {
    uint64_t offset;
    uint64_t bytes;
};

struct emu_arena {
    int descriptor;
    char *base;
    uint64_t bytes;
    struct emu_extent *extents; /* sorted by offset */
    size_t count;
    size_t room;
    uint16_t *granule_users;
};

/* Returns false when the system has no room for the window. */
bool emu_arena_init(struct emu_arena *arena, const char *name, uint64_t bytes);

/* Find room. *granules_bytes is how many bytes of granules nobody used before. The extent is taken at once; undo with
 * free. */
bool emu_arena_take(struct emu_arena *arena, uint64_t bytes, uint64_t *offset, uint64_t *new_bytes);

/* Give an extent back by its offset; returns the bytes of granules that nobody uses any more. */
uint64_t emu_arena_give(struct emu_arena *arena, uint64_t offset);

/* Make [offset, offset + bytes) zero without touching it where that is possible. */
void emu_arena_clear(struct emu_arena *arena, uint64_t offset, uint64_t bytes);

#endif
