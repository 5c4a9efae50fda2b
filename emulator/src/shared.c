#include "shared.h"

#include "card.h"

int emu_shared_find(const struct emu_card *card, uint64_t key) {
    for (uint32_t entry = 0; entry < card->shared_end; entry++) {
        if (card->shared[entry].bytes > 0 && card->shared[entry].key == key) {
            return (int)entry;
        }
    }
    return EMU_SHARED_NONE;
}

int emu_shared_enter(struct emu_card *card, int slot, uint64_t key, uint64_t bytes) {
    uint32_t entry = 0;
    while (entry < card->shared_end && card->shared[entry].bytes > 0) {
        entry++;
    }
    if (entry == EMU_SHARED_ENTRIES) {
        return EMU_SHARED_NONE;
    }
    card->shared[entry] =
        (struct emu_shared){.key = key, .bytes = bytes, .holders = 1ULL << slot, .charged = (int32_t)slot};
    card->shared_end = entry == card->shared_end ? entry + 1 : card->shared_end;
    return (int)entry;
}

void emu_shared_hold(struct emu_card *card, int slot, int entry) {
    card->shared[entry].holders |= 1ULL << slot;
}

void emu_shared_let_go(struct emu_card *card, int slot, int entry) {
    struct emu_shared *shared = &card->shared[entry];
    shared->holders &= ~(1ULL << slot);
    if (shared->charged == slot) {
        emu_card_release(card, slot, EMU_USE_HANDLES, shared->bytes);
        if (shared->holders != 0) {
            shared->charged = (int32_t)__builtin_ctzll(shared->holders);
            emu_card_charge(card, shared->charged, EMU_USE_HANDLES, shared->bytes);
        }
    }
    if (shared->holders == 0) {
        shared->bytes = 0;
    }
}

void emu_shared_forget(struct emu_card *card, int slot) {
    for (uint32_t entry = 0; entry < card->shared_end; entry++) {
        if (card->shared[entry].bytes > 0 && ((card->shared[entry].holders >> slot) & 1) != 0) {
            emu_shared_let_go(card, slot, (int)entry);
        }
    }
}
