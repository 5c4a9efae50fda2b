/* The memory that the driver knows, as ranges of addresses. */
#include <stdlib.h>
#include <string.h>

#include "driver.h"

static struct {
    struct emu_range *ranges; /* sorted by start */
    size_t count;
    size_t room;
    uint64_t last_id;
} memory;

/* The first range that starts after the address. */
static size_t upper_bound(uint64_t address) {
    size_t low = 0;
    size_t high = memory.count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (memory.ranges[middle].start <= address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

struct emu_range *emu_range_find(uint64_t address) {
    size_t index = upper_bound(address);
    if (index == 0) {
        return NULL;
    }
    struct emu_range *range = &memory.ranges[index - 1];
    return address - range->start < range->bytes ? range : NULL;
}

struct emu_range *emu_range_from(uint64_t address) {
    size_t index = address == 0 ? 0 : upper_bound(address - 1);
    return index < memory.count ? &memory.ranges[index] : NULL;
}

struct emu_range *emu_range_add(const struct emu_range *range) {
    if (memory.count == memory.room) {
        size_t room = memory.room == 0 ? 64 : 2 * memory.room;
        struct emu_range *grown = realloc(memory.ranges, room * sizeof *grown);
        if (grown == NULL) {
            return NULL;
        }
        memory.ranges = grown;
        memory.room = room;
    }
    size_t index = upper_bound(range->start);
    memmove(&memory.ranges[index + 1], &memory.ranges[index], (memory.count - index) * sizeof *memory.ranges);
    memory.ranges[index] = *range;
    memory.ranges[index].id = ++memory.last_id;
    memory.count++;
    return &memory.ranges[index];
}

void emu_range_remove(uint64_t start) {
    size_t index = upper_bound(start);
    if (index == 0 || memory.ranges[index - 1].start != start) {
        return;
    }
    memmove(&memory.ranges[index - 1], &memory.ranges[index], (memory.count - index) * sizeof *memory.ranges);
    memory.count--;
}

static uint32_t device_bit(const struct emu_device *device) {
    return 1U << (device - emu.devices);
}

static bool may_touch(const struct emu_range *range, CUcontext context, unsigned how) {
    if (range->kind == EMU_RANGE_MAPPED) {
        uint32_t through = device_bit(context->device) | ((how & EMU_TOUCH_COPY) != 0 ? device_bit(range->device) : 0);
        return (((how & EMU_TOUCH_WRITE) != 0 ? range->writable : range->readable) & through) != 0;
    }
    bool is_linear = range->kind == EMU_RANGE_DEVICE || range->kind == EMU_RANGE_OPENED;
    if (!is_linear || range->device == context->device || (how & EMU_TOUCH_COPY) != 0) {
        return true;
    }
    return range->pool != NULL ? emu_pool_admits(range->pool, context->device)
                               : (context->peers & device_bit(range->device)) != 0;
}

bool emu_range_covers(uint64_t address, uint64_t bytes, CUcontext context, unsigned how) {
    while (bytes > 0) {
        const struct emu_range *range = emu_range_find(address);
        if (range == NULL || !may_touch(range, context, how)) {
            return false;
        }
        uint64_t part = range->start + range->bytes - address;
        if (part >= bytes) {
            return true;
        }
        address += part;
        bytes -= part;
    }
    return true;
}

bool emu_is_device_address(uint64_t address) {
    const struct emu_range *range = emu_range_find(address);
    return range != NULL &&
           (range->kind == EMU_RANGE_DEVICE || range->kind == EMU_RANGE_MAPPED || range->kind == EMU_RANGE_OPENED);
}

bool emu_is_host_pinned(uint64_t address, uint64_t bytes) {
    while (bytes > 0) {
        const struct emu_range *range = emu_range_find(address);
        if (range == NULL) {
            return false;
        }
        uint64_t within = address - range->start;
        uint64_t part = range->bytes - within < bytes ? range->bytes - within : bytes;
        address += part;
        bytes -= part;
    }
    return true;
}

bool emu_range_overlaps(uint64_t start, uint64_t bytes) {
    size_t next = upper_bound(start);
    return emu_range_find(start) != NULL || (next < memory.count && memory.ranges[next].start < start + bytes);
}

void emu_memory_end_context(CUcontext context) {
    for (size_t index = memory.count; index > 0; index--) {
        const struct emu_range *range = &memory.ranges[index - 1];
        if (range->context == context && range->kind != EMU_RANGE_MAPPED) {
            emu_memory_free_range(range);
        }
    }
}
