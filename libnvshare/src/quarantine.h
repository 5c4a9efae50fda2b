// Blocks that their program has freed, in the order of that, until the work that may use them has ended.
//
// Pure lists: a memory has one of what was freed after all work so far, each stream one for each device of what was
// freed in its order. Owned by the memory whose blocks they are, under its lock.
#ifndef NVS_QUARANTINE_H
#define NVS_QUARANTINE_H

#include "arena.h"

struct nvs_quarantine {
    struct nvs_block *first, *last; // NULL: empty
};

void nvs_quarantine_add(struct nvs_quarantine *quarantine, struct nvs_block *block);

// The first block leaves; NULL: there is none.
struct nvs_block *nvs_quarantine_take(struct nvs_quarantine *quarantine);

// All blocks of another one go before the own ones.
void nvs_quarantine_put_back(struct nvs_quarantine *quarantine, struct nvs_quarantine *other);

// A block of the pool that fits, not much larger than what is asked for, among the few that were freed first. NULL:
// none.
struct nvs_block *nvs_quarantine_find(const struct nvs_quarantine *quarantine, const struct nvs_mempool *pool,
                                      uint64_t bytes);

// Takes a block out that was found there.
void nvs_quarantine_remove(struct nvs_quarantine *quarantine, struct nvs_block *block);

#endif
