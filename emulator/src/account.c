/* The emulator's own interface (nvshare_emulator.h): time slices, the cards' accounts, and failures. */
#include "nvshare_emulator.h"

#include <errno.h>
#include <string.h>

#include "driver.h"

static int enter_client(int device, struct emu_device **found) {
    if (emu_enter() != CUDA_SUCCESS) {
        return ENXIO;
    }
    if (device < 0 || device >= emu.device_count || emu.devices[device].slot < 0) {
        emu_leave(CUDA_SUCCESS);
        return device < 0 || device >= emu.device_count ? EINVAL : ENXIO;
    }
    *found = &emu.devices[device];
    return 0;
}

EMU_EXPORT int nvshare_emulator_set_timeslice(int device, uint64_t timeslice_us) {
    struct emu_device *found = NULL;
    if (timeslice_us > 1000000000ULL) {
        return EINVAL;
    }
    int error = enter_client(device, &found);
    if (error != 0) {
        return error;
    }
    struct emu_card *card = found->card;
    emu_card_lock(card);
    emu_card_advance(card, emu_now_ns());
    emu_engine_set_slice(&card->engines[EMU_COMPUTE], found->slot, timeslice_us * 1000);
    card->clients[found->slot].timeslice_us = timeslice_us;
    emu_card_unlock(card);
    emu_leave(CUDA_SUCCESS);
    return 0;
}

EMU_EXPORT int nvshare_emulator_get_timeslice(int device, uint64_t *timeslice_us) {
    struct emu_device *found = NULL;
    int error = timeslice_us == NULL ? EINVAL : enter_client(device, &found);
    if (error != 0) {
        return error;
    }
    emu_card_lock(found->card);
    *timeslice_us = found->card->clients[found->slot].timeslice_us;
    emu_card_unlock(found->card);
    emu_leave(CUDA_SUCCESS);
    return 0;
}

/* The folder's cards, without becoming a client: for tools that only look. */
static struct emu_card *observe(int index) {
    pthread_mutex_lock(&emu.lock);
    if (emu.cards == NULL && !emu.forked) {
        emu.cards = emu_cards_open();
    }
    bool exists = emu.cards != NULL && index >= 0 && index < (int)emu.cards->settings.card_count;
    struct emu_card *card = exists ? &emu.cards->cards[index] : NULL;
    pthread_mutex_unlock(&emu.lock);
    return card;
}

static void refresh(struct emu_card *card) {
    uint64_t now_ns = emu_now_ns();
    emu_card_reap(card, now_ns, 0);
    emu_card_advance(card, now_ns);
}

static struct nvshare_emulator_account living_account(const struct emu_card *card, int slot) {
    const struct emu_client *client = &card->clients[slot];
    return (struct nvshare_emulator_account){.pid = client->pid,
                                             .alive = client->state == EMU_CLIENT_ALIVE,
                                             .present = 1,
                                             .used_bytes = client->used_bytes,
                                             .peak_bytes = client->peak_bytes,
                                             .context_bytes = client->use_bytes[EMU_USE_CONTEXTS],
                                             .linear_bytes = client->use_bytes[EMU_USE_LINEAR],
                                             .handle_bytes = client->use_bytes[EMU_USE_HANDLES],
                                             .managed_bytes = client->use_bytes[EMU_USE_MANAGED],
                                             .copied_in_bytes = card->engines[EMU_COPY_IN].queues[slot].bytes,
                                             .copied_out_bytes = card->engines[EMU_COPY_OUT].queues[slot].bytes,
                                             .busy_ns = card->engines[EMU_COMPUTE].queues[slot].busy_ns,
                                             .launches = client->launches,
                                             .timeslice_us = client->timeslice_us,
                                             .wakes = client->wakes,
                                             .joined_ns = client->joined_ns};
}

static struct nvshare_emulator_account departed_account(const struct emu_departed *departed) {
    return (struct nvshare_emulator_account){.pid = departed->pid,
                                             .peak_bytes = departed->peak_bytes,
                                             .copied_in_bytes = departed->copied_in_bytes,
                                             .copied_out_bytes = departed->copied_out_bytes,
                                             .busy_ns = departed->busy_ns,
                                             .launches = departed->launches,
                                             .wakes = departed->wakes,
                                             .joined_ns = departed->joined_ns,
                                             .left_ns = departed->left_ns};
}

EMU_EXPORT int nvshare_emulator_accounts(int index, struct nvshare_emulator_account *accounts, uint32_t *count) {
    struct emu_card *card = accounts == NULL || count == NULL ? NULL : observe(index);
    if (card == NULL) {
        return EINVAL;
    }
    uint32_t written = 0;
    emu_card_lock(card);
    refresh(card);
    for (int slot = 0; slot < EMU_MAX_CLIENTS && written < *count; slot++) {
        if (card->clients[slot].state != EMU_CLIENT_FREE) {
            accounts[written++] = living_account(card, slot);
        }
    }
    uint64_t kept = card->departed_count < EMU_HISTORY ? card->departed_count : EMU_HISTORY;
    for (uint64_t age = 1; age <= kept && written < *count; age++) {
        accounts[written++] = departed_account(&card->departed[(card->departed_count - age) % EMU_HISTORY]);
    }
    emu_card_unlock(card);
    *count = written;
    return 0;
}

EMU_EXPORT int nvshare_emulator_card(int index, struct nvshare_emulator_card *totals) {
    struct emu_card *card = totals == NULL ? NULL : observe(index);
    if (card == NULL) {
        return EINVAL;
    }
    emu_card_lock(card);
    refresh(card);
    *totals = (struct nvshare_emulator_card){.total_bytes = card->total_bytes,
                                             .used_bytes = card->used_bytes,
                                             .peak_bytes = card->peak_bytes,
                                             .memory_bytes = card->used_bytes - card->use_bytes[EMU_USE_CONTEXTS],
                                             .peak_memory_bytes = card->peak_memory_bytes,
                                             .copied_in_bytes = card->engines[EMU_COPY_IN].bytes,
                                             .copied_out_bytes = card->engines[EMU_COPY_OUT].bytes,
                                             .busy_ns = card->engines[EMU_COMPUTE].busy_ns,
                                             .switches = card->engines[EMU_COMPUTE].switches};
    memcpy(totals->uuid, card->uuid, sizeof totals->uuid);
    emu_card_unlock(card);
    return 0;
}

EMU_EXPORT int nvshare_emulator_turns(int index, struct nvshare_emulator_turn *turns, uint32_t *count) {
    struct emu_card *card = turns == NULL || count == NULL ? NULL : observe(index);
    if (card == NULL) {
        return EINVAL;
    }
    emu_card_lock(card);
    refresh(card);
    const struct emu_engine *engine = &card->engines[EMU_COMPUTE];
    uint64_t kept = engine->turn_count < EMU_TURNS ? engine->turn_count : EMU_TURNS;
    uint64_t wanted = kept < *count ? kept : *count;
    for (uint64_t offset = 0; offset < wanted; offset++) {
        const struct emu_turn *turn = &engine->turns[(engine->turn_count - wanted + offset) % EMU_TURNS];
        turns[offset] = (struct nvshare_emulator_turn){
            .pid = (int32_t)turn->owner, .start_ns = turn->start_ns, .end_ns = turn->end_ns};
    }
    emu_card_unlock(card);
    *count = (uint32_t)wanted;
    return 0;
}

/* The engine's latest transfers, as many as there is room for. */
static uint32_t write_copies(const struct emu_card *card, enum emu_engine_kind kind,
                             struct nvshare_emulator_copy *copies, uint32_t room) {
    const struct emu_engine *engine = &card->engines[kind];
    uint64_t kept = engine->transfer_count < EMU_TRANSFERS ? engine->transfer_count : EMU_TRANSFERS;
    uint64_t wanted = kept < room ? kept : room;
    for (uint64_t offset = 0; offset < wanted; offset++) {
        const struct emu_transfer *transfer =
            &engine->transfers[(engine->transfer_count - wanted + offset) % EMU_TRANSFERS];
        copies[offset] = (struct nvshare_emulator_copy){.pid = (int32_t)transfer->owner,
                                                        .out = kind == EMU_COPY_OUT,
                                                        .bytes = transfer->bytes,
                                                        .start_ns = transfer->start_ns,
                                                        .end_ns = transfer->end_ns};
    }
    return (uint32_t)wanted;
}

EMU_EXPORT int nvshare_emulator_copies(int index, struct nvshare_emulator_copy *copies, uint32_t *count) {
    struct emu_card *card = copies == NULL || count == NULL ? NULL : observe(index);
    if (card == NULL) {
        return EINVAL;
    }
    emu_card_lock(card);
    refresh(card);
    uint32_t in = write_copies(card, EMU_COPY_IN, copies, *count / 2);
    *count = in + write_copies(card, EMU_COPY_OUT, copies + in, *count - in);
    emu_card_unlock(card);
    return 0;
}

EMU_EXPORT int nvshare_emulator_reset_peaks(int index) {
    struct emu_card *card = observe(index);
    if (card == NULL) {
        return EINVAL;
    }
    emu_card_lock(card);
    refresh(card);
    card->peak_bytes = card->used_bytes;
    card->peak_memory_bytes = card->used_bytes - card->use_bytes[EMU_USE_CONTEXTS];
    emu_card_unlock(card);
    return 0;
}

EMU_EXPORT int nvshare_emulator_fail(int index, uint32_t xid, uint32_t recovery, int lost) {
    if (observe(index) == NULL) {
        return EINVAL;
    }
    emu_card_fail(emu.cards, index, xid, recovery, lost != 0);
    return 0;
}

EMU_EXPORT int nvshare_emulator_recover(int index) {
    if (observe(index) == NULL) {
        return EINVAL;
    }
    emu_card_recover(emu.cards, index);
    return 0;
}
