#include "quarantine.h"

// So many are looked at for one to use again: a program that frees thousands ahead of its stream must not pay for each.
#define NVS_QUARANTINE_LOOKS 32u

void nvs_quarantine_add(struct nvs_quarantine *quarantine, struct nvs_block *block) {
    block->next_ending = NULL;
    if (quarantine->first == NULL)
        quarantine->first = block;
    else
        quarantine->last->next_ending = block;
    quarantine->last = block;
}

struct nvs_block *nvs_quarantine_take(struct nvs_quarantine *quarantine) {
    struct nvs_block *block = quarantine->first;
    if (block != NULL)
        nvs_quarantine_remove(quarantine, block);
    return block;
}

void nvs_quarantine_put_back(struct nvs_quarantine *quarantine, struct nvs_quarantine *other) {
    if (other->first == NULL)
        return;
    other->last->next_ending = quarantine->first;
    if (quarantine->first != NULL)
        other->last = quarantine->last;
    *quarantine = *other;
    *other = (struct nvs_quarantine){NULL, NULL};
}

struct nvs_block *nvs_quarantine_find(const struct nvs_quarantine *quarantine, const struct nvs_mempool *pool,
                                      uint64_t bytes) {
    struct nvs_block *block = quarantine->first;
    for (unsigned looks = 0; block != NULL && looks < NVS_QUARANTINE_LOOKS; looks++, block = block->next_ending)
        if (block->pool == pool && block->bytes >= bytes && block->bytes - bytes <= bytes / 8 + NVS_BLOCK_ALIGNMENT)
            return block;
    return NULL;
}

void nvs_quarantine_remove(struct nvs_quarantine *quarantine, struct nvs_block *block) {
    struct nvs_block *before = NULL;
    for (struct nvs_block *other = quarantine->first; other != block; other = other->next_ending)
        before = other;
    if (before == NULL)
        quarantine->first = block->next_ending;
    else
        before->next_ending = block->next_ending;
    if (quarantine->last == block)
        quarantine->last = before;
    block->next_ending = NULL;
}
