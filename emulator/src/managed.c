#define _GNU_SOURCE
#include "managed.h"

#include <stdlib.h>
#include <unistd.h>

#include "capture.h"
#include "physical.h"

/* Measured on the H200, as shares of the pinned copy's 55.3 GB/s: prefetch 50 and 12, faults 10. Reads over the link by
 * kernels are not measured. */
#define PREFETCH_IN_PERMILLE 904
#define PREFETCH_OUT_PERMILLE 217
#define FAULT_IN_PERMILLE 181
#define REMOTE_PERMILLE 800

static size_t ranges_count;
static uint64_t work_count;
static uint64_t eviction_hand; /* the address from which the next victim is looked for */

bool emu_managed_exists(void) {
    return ranges_count > 0;
}

static size_t block_count(const struct emu_range *range) {
    return (range->bytes + EMU_GRANULE_BYTES - 1) / EMU_GRANULE_BYTES;
}

bool emu_managed_attach(struct emu_range *range) {
    range->blocks = calloc(block_count(range), sizeof *range->blocks);
    if (range->blocks == NULL) {
        return false;
    }
    for (size_t index = 0; index < block_count(range); index++) {
        range->blocks[index] = (struct emu_block){
            .location = CU_DEVICE_INVALID, .preferred = CU_DEVICE_INVALID, .prefetched = CU_DEVICE_INVALID};
    }
    ranges_count++;
    return true;
}

/* ---- Where a block is
 * ------------------------------------------------------------------------------------------------------------- */

static uint64_t link_ns(uint64_t bytes, uint64_t permille) {
    return emu_duration_ns(bytes, emu.cards->settings.link_bytes_per_second * permille / 1000);
}

/* Take a block off its card. */
static void leave_card(struct emu_block *block) {
    if (block->location >= 0) {
        struct emu_device *device = &emu.devices[block->location];
        emu_card_lock(device->card);
        emu_card_release(device->card, device->slot, EMU_USE_MANAGED, EMU_GRANULE_BYTES);
        emu_card_unlock(device->card);
    }
    block->location = CU_DEVICE_CPU;
}

void emu_managed_detach(struct emu_range *range) {
    for (size_t index = 0; index < block_count(range); index++) {
        leave_card(&range->blocks[index]);
    }
    free(range->blocks);
    range->blocks = NULL;
    ranges_count--;
}

static bool evict_from(struct emu_range *range, const struct emu_device *device) {
    size_t first = eviction_hand > range->start ? (eviction_hand - range->start) / EMU_GRANULE_BYTES : 0;
    for (size_t index = first; index < block_count(range); index++) {
        struct emu_block *block = &range->blocks[index];
        if (block->location == device - emu.devices && block->used != work_count) {
            leave_card(block);
            eviction_hand = range->start + index * EMU_GRANULE_BYTES;
            return true;
        }
    }
    return false;
}

/* Send one block away that the present work does not need; going round, each gets its turn. */
static bool evict_one(const struct emu_device *device) {
    if (device->card->clients[device->slot].use_bytes[EMU_USE_MANAGED] == 0) {
        return false;
    }
    for (int round = 0; round < 2; round++) {
        struct emu_range *range = emu_range_find(eviction_hand);
        range = range != NULL ? range : emu_range_from(eviction_hand);
        for (; range != NULL; range = emu_range_from(range->start + 1)) {
            if (range->kind == EMU_RANGE_MANAGED && evict_from(range, device)) {
                return true;
            }
        }
        eviction_hand = 0;
    }
    return false;
}

bool emu_managed_make_room(struct emu_device *device) {
    work_count++; /* whoever asks needs none of the blocks */
    return emu_managed_exists() && evict_one(device);
}

static bool reserve_block(struct emu_device *device) {
    emu_card_lock(device->card);
    bool reserved = emu_card_reserve(device->card, device->slot, EMU_USE_MANAGED, EMU_GRANULE_BYTES);
    emu_card_unlock(device->card);
    return reserved;
}

/* Bring a block to a card, which may cost another block's way out. False when there is no room. */
static bool enter_card(struct emu_block *block, struct emu_device *device, uint64_t *cost_ns) {
    if (!reserve_block(device)) {
        if (!evict_one(device) || !reserve_block(device)) {
            return false;
        }
        *cost_ns += link_ns(EMU_GRANULE_BYTES, PREFETCH_OUT_PERMILLE);
    }
    leave_card(block);
    block->location = (int8_t)(device - emu.devices);
    return true;
}

/* Whether a block that is nowhere yet was written by the host. */
static bool has_data(const struct emu_range *range, size_t index) {
    off_t start = (off_t)(range->offset + index * EMU_GRANULE_BYTES);
    off_t data = lseek(range->backing, start, SEEK_DATA);
    return data >= 0 && (uint64_t)(data - start) < EMU_GRANULE_BYTES;
}

/* What it costs a kernel of this device to touch a block. */
static uint64_t touch(struct emu_range *range, size_t index, struct emu_device *device) {
    struct emu_block *block = &range->blocks[index];
    int ordinal = (int)(device - emu.devices);
    uint64_t cost_ns = 0;
    block->used = work_count;
    if (block->location == ordinal) {
        return 0;
    }
    bool is_new = block->location == CU_DEVICE_INVALID && !has_data(range, index);
    bool stays = block->preferred == CU_DEVICE_CPU ||
                 (block->preferred != ordinal && ((block->accessed_by >> ordinal) & 1) != 0);
    if (stays || !enter_card(block, device, &cost_ns)) {
        block->location = block->location == CU_DEVICE_INVALID ? CU_DEVICE_CPU : block->location;
        return link_ns(EMU_GRANULE_BYTES, REMOTE_PERMILLE);
    }
    return cost_ns + (is_new ? 0 : link_ns(EMU_GRANULE_BYTES, FAULT_IN_PERMILLE));
}

void emu_managed_prepare(CUcontext context, struct emu_work *work) {
    struct emu_span spans[EMU_SPANS];
    unsigned count = work->spans(work, spans);
    work_count++;
    for (unsigned span = 0; span < count; span++) {
        struct emu_range *range = emu_range_find(spans[span].start);
        if (range == NULL || range->kind != EMU_RANGE_MANAGED || spans[span].bytes == 0) {
            continue;
        }
        size_t first = (spans[span].start - range->start) / EMU_GRANULE_BYTES;
        size_t last = (spans[span].start + spans[span].bytes - 1 - range->start) / EMU_GRANULE_BYTES;
        for (size_t index = first; index <= last && index < block_count(range); index++) {
            work->duration_ns += touch(range, index, context->device);
        }
    }
}

/* ---- Prefetch
 * ------------------------------------------------------------------------------------------------------------- */

static void prepare_prefetch(CUcontext context, struct emu_work *work) {
    const struct emu_prefetch *prefetch = &work->prefetch;
    struct emu_range *range = emu_range_find(prefetch->start);
    (void)context;
    if (range == NULL || range->kind != EMU_RANGE_MANAGED) {
        return; /* freed meanwhile */
    }
    size_t last = (prefetch->start + prefetch->bytes - 1 - range->start) / EMU_GRANULE_BYTES;
    work_count++;
    for (size_t index = (prefetch->start - range->start) / EMU_GRANULE_BYTES;
         index <= last && index < block_count(range); index++) {
        struct emu_block *block = &range->blocks[index];
        bool is_new = block->location == CU_DEVICE_INVALID && !has_data(range, index);
        block->used = work_count;
        block->prefetched = (int8_t)prefetch->location;
        if (block->location == prefetch->location) {
            continue;
        }
        if (prefetch->location == CU_DEVICE_CPU) {
            leave_card(block);
        } else if (!enter_card(block, &emu.devices[prefetch->location], &work->duration_ns)) {
            continue;
        }
        work->moved_bytes += is_new ? 0 : EMU_GRANULE_BYTES;
    }
    work->duration_ns +=
        link_ns(work->moved_bytes, prefetch->location == CU_DEVICE_CPU ? PREFETCH_OUT_PERMILLE : PREFETCH_IN_PERMILLE);
}

CUresult emu_managed_location(const CUmemLocation *location, int *number) {
    struct emu_device *device = NULL;
    bool on_host = false;
    CUresult result = emu_location_device(location, &device, &on_host);
    if (result == CUDA_SUCCESS && !on_host) {
        result = emu_device_open(device);
    }
    *number = on_host || device == NULL ? CU_DEVICE_CPU : (int)(device - emu.devices);
    return result;
}

bool emu_is_managed(uint64_t start, uint64_t bytes) {
    const struct emu_range *range = emu_range_find(start);
    return range != NULL && range->kind == EMU_RANGE_MANAGED && bytes > 0 &&
           bytes <= range->bytes - (start - range->start);
}

CUresult emu_prefetch(CUdeviceptr pointer, size_t bytes, const CUmemLocation *location, CUstream handle) {
    CUcontext context = NULL;
    CUstream stream = NULL;
    struct emu_work work = {
        .type = CU_GRAPH_NODE_TYPE_MEMCPY, .prefetch = {.start = pointer, .bytes = bytes}, .prepare = prepare_prefetch};
    CUresult result = emu_enter_stream(handle, &context, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!emu_is_managed(pointer, bytes)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    result = emu_managed_location(location, &work.prefetch.location);
    if (result != CUDA_SUCCESS) {
        return emu_leave(result);
    }
    work.engine = work.prefetch.location == CU_DEVICE_CPU ? EMU_COPY_OUT : EMU_COPY_IN;
    return emu_leave(emu_submit(stream, &work, false));
}
