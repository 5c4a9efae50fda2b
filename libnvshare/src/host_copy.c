#include "host_copy.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

// A slot that copies share.
struct nvs_bin {
    char *memory;
    atomic_size_t users; // copies, and the packer while it fills it
};

static void nvs_bin_leave(struct nvs_bin *bin) {
    if (atomic_fetch_sub_explicit(&bin->users, 1, memory_order_acq_rel) != 1)
        return;
    void *slot = bin->memory;
    nvs_pool_give(1, &slot);
    free(bin);
}

void nvs_packer_close(struct nvs_packer *packer) {
    if (packer->open != NULL)
        nvs_bin_leave(packer->open);
    packer->open = NULL;
    packer->filled_bytes = 0;
}

// Fills the copy's runs from the open slot, then from the `count` of these, which are as many as it needs.
static void nvs_pack(struct nvs_packer *packer, struct nvs_host_copy *copy, struct nvs_bin **bins, size_t count,
                     uint64_t bytes) {
    while (bytes > 0) {
        if (packer->open == NULL || packer->filled_bytes == NVS_POOL_SLOT_BYTES) {
            if (count-- == 0)
                return;
            nvs_packer_close(packer);
            packer->open = *bins++;
        }
        uint64_t room_bytes = NVS_POOL_SLOT_BYTES - packer->filled_bytes;
        uint64_t taken_bytes = bytes < room_bytes ? bytes : room_bytes;
        copy->runs[copy->count++] =
            (struct nvs_run){packer->open, packer->open->memory + packer->filled_bytes, taken_bytes};
        atomic_fetch_add_explicit(&packer->open->users, 1, memory_order_relaxed);
        packer->filled_bytes += taken_bytes;
        bytes -= taken_bytes;
    }
}

// Bins for `count` slots of the pool: all, or none.
static bool nvs_bins_make(CUcontext context, size_t count, struct nvs_bin **bins, char *reason) {
    void *slots[NVS_HOST_COPY_SLOTS];
    if (!nvs_pool_take(context, count, slots, reason))
        return false;
    for (size_t i = 0; i < count; i++) {
        bins[i] = malloc(sizeof(*bins[i]));
        if (bins[i] == NULL) {
            while (i > 0)
                free(bins[--i]);
            nvs_pool_give(count, slots);
            strncpy(reason, "no host memory for the account of what was moved", NVS_POOL_REASON_SIZE);
            return false;
        }
        bins[i]->memory = slots[i];
        atomic_init(&bins[i]->users, 1);
    }
    return true;
}

struct nvs_host_copy *nvs_host_copy_make(struct nvs_packer *packer, CUcontext context, uint64_t bytes,
                                         char reason[NVS_POOL_REASON_SIZE]) {
    struct nvs_bin *bins[NVS_HOST_COPY_SLOTS] = {NULL};
    uint64_t open_bytes = packer->open == NULL ? 0 : NVS_POOL_SLOT_BYTES - packer->filled_bytes;
    size_t count = bytes > open_bytes ? nvs_pool_slots(bytes - open_bytes) : 0;
    struct nvs_host_copy *copy =
        count > NVS_HOST_COPY_SLOTS ? NULL : malloc(sizeof(*copy) + (count + 1) * sizeof(copy->runs[0]));
    if (copy == NULL) {
        strncpy(reason, "no host memory for the account of what is moved", NVS_POOL_REASON_SIZE);
        return NULL;
    }
    if (count > 0 && !nvs_bins_make(context, count, bins, reason)) {
        free(copy);
        return NULL;
    }
    copy->count = 0;
    nvs_pack(packer, copy, bins, count, bytes);
    return copy;
}

struct nvs_host_copy *nvs_host_copy_join(struct nvs_host_copy *first, struct nvs_host_copy *second) {
    struct nvs_host_copy *joined =
        realloc(first, sizeof(*joined) + (first->count + second->count) * sizeof(joined->runs[0]));
    if (joined == NULL)
        return NULL;
    memcpy(joined->runs + joined->count, second->runs, second->count * sizeof(second->runs[0]));
    joined->count += second->count;
    free(second);
    return joined;
}

void nvs_host_copy_free(struct nvs_host_copy *copy) {
    if (copy == NULL)
        return;
    for (size_t i = 0; i < copy->count; i++)
        nvs_bin_leave(copy->runs[i].bin);
    free(copy);
}
