/* The memory that the driver knows, as ranges of addresses. */
#include "driver.h"
#include "sorted.h"

static struct emu_sorted memory = {.item_bytes = sizeof(struct emu_range)};

struct emu_range *emu_range_find(uint64_t address) {
    return emu_sorted_find(&memory, address);
}

struct emu_range *emu_range_from(uint64_t address) {
    size_t index = address == 0 ? 0 : emu_sorted_after(&memory, address - 1);
    return index < memory.count ? emu_sorted_at(&memory, index) : NULL;
}

struct emu_range *emu_range_add(const struct emu_range *range) {
    static uint64_t last_id;
    struct emu_range *added = emu_sorted_add(&memory, range);
    if (added != NULL) {
        added->id = ++last_id;
    }
    return added;
}

void emu_range_remove(uint64_t start) {
    emu_sorted_remove(&memory, start);
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
    const struct emu_range *next = emu_range_from(start);
    return emu_range_find(start) != NULL || (next != NULL && next->start < start + bytes);
}

void emu_memory_end_context(CUcontext context) {
    for (size_t index = memory.count; index > 0; index--) {
        const struct emu_range *range = emu_sorted_at(&memory, index - 1);
        if (range->context == context && range->kind != EMU_RANGE_MAPPED) {
            emu_memory_free_range(range);
        }
    }
}
