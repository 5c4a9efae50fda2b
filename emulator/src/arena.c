#define _GNU_SOURCE
#include "arena.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SMALL_ALIGNMENT 512ULL

bool emu_arena_init(struct emu_arena *arena, const char *name, uint64_t bytes) {
    memset(arena, 0, sizeof *arena);
    arena->bytes = bytes;
    arena->granule_users = calloc(bytes / EMU_GRANULE_BYTES, sizeof *arena->granule_users);
    arena->descriptor = memfd_create(name, MFD_CLOEXEC);
    if (arena->granule_users == NULL || arena->descriptor < 0 || ftruncate(arena->descriptor, (off_t)bytes) != 0) {
        return false;
    }
    /* One granule more, so that the base can be aligned to a granule as device addresses are. */
    char *room = mmap(NULL, bytes + EMU_GRANULE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) {
        return false;
    }
    char *base = (char *)(((uintptr_t)room + EMU_GRANULE_BYTES - 1) & ~(uintptr_t)(EMU_GRANULE_BYTES - 1));
    void *mapped =
        mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, arena->descriptor, 0);
    arena->base = base;
    return mapped != MAP_FAILED;
}

static bool insert_extent(struct emu_arena *arena, size_t index, uint64_t offset, uint64_t bytes) {
    if (arena->count == arena->room) {
        size_t room = arena->room == 0 ? 64 : 2 * arena->room;
        struct emu_extent *grown = realloc(arena->extents, room * sizeof *grown);
        if (grown == NULL) {
            return false;
        }
        arena->extents = grown;
        arena->room = room;
    }
    memmove(&arena->extents[index + 1], &arena->extents[index], (arena->count - index) * sizeof *arena->extents);
    arena->extents[index] = (struct emu_extent){.offset = offset, .bytes = bytes};
    arena->count++;
    return true;
}

bool emu_arena_take(struct emu_arena *arena, uint64_t bytes, uint64_t *offset, uint64_t *new_bytes) {
    uint64_t alignment = bytes >= EMU_GRANULE_BYTES ? EMU_GRANULE_BYTES : SMALL_ALIGNMENT;
    uint64_t start = 0;
    size_t index = 0;
    if (bytes == 0 || bytes > arena->bytes) {
        return false;
    }
    for (; index < arena->count; index++) {
        if (start + bytes <= arena->extents[index].offset) {
            break;
        }
        uint64_t end = arena->extents[index].offset + arena->extents[index].bytes;
        start = (end + alignment - 1) & ~(alignment - 1);
    }
    if (start + bytes > arena->bytes || !insert_extent(arena, index, start, bytes)) {
        return false;
    }
    *offset = start;
    *new_bytes = 0;
    for (uint64_t granule = start / EMU_GRANULE_BYTES; granule <= (start + bytes - 1) / EMU_GRANULE_BYTES; granule++) {
        if (arena->granule_users[granule]++ == 0) {
            *new_bytes += EMU_GRANULE_BYTES;
        }
    }
    return true;
}

static size_t find_extent(const struct emu_arena *arena, uint64_t offset) {
    size_t low = 0;
    size_t high = arena->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (arena->extents[middle].offset < offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

uint64_t emu_arena_give(struct emu_arena *arena, uint64_t offset) {
    size_t index = find_extent(arena, offset);
    if (index == arena->count || arena->extents[index].offset != offset) {
        return 0;
    }
    uint64_t bytes = arena->extents[index].bytes;
    uint64_t freed_bytes = 0;
    emu_arena_clear(arena, offset, bytes);
    for (uint64_t granule = offset / EMU_GRANULE_BYTES; granule <= (offset + bytes - 1) / EMU_GRANULE_BYTES;
         granule++) {
        if (--arena->granule_users[granule] == 0) {
            freed_bytes += EMU_GRANULE_BYTES;
        }
    }
    arena->count--;
    memmove(&arena->extents[index], &arena->extents[index + 1], (arena->count - index) * sizeof *arena->extents);
    return freed_bytes;
}

void emu_arena_clear(struct emu_arena *arena, uint64_t offset, uint64_t bytes) {
    /* Whole pages are dropped, the rest is overwritten by the kernel. */
    if (fallocate(arena->descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes) != 0) {
        memset(arena->base + offset, 0, bytes);
    }
}
