#define _GNU_SOURCE
#include "failure.h"

#include <limits.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "card.h"

/* The word lies in the file that all processes map, so it is no private futex. */
static void tell(struct emu_cards *cards) {
    __atomic_add_fetch(&cards->news, 1, __ATOMIC_RELEASE);
    (void)syscall(SYS_futex, &cards->news, FUTEX_WAKE, INT_MAX, NULL, NULL, 0); /* nobody may wait: fine */
}

void emu_card_fail(struct emu_cards *cards, int index, uint32_t xid, uint32_t recovery, bool lost) {
    struct emu_card *card = &cards->cards[index];
    emu_card_lock(card);
    struct emu_failure *failure = &card->failure;
    failure->xids[failure->xid_count % EMU_XIDS] = xid;
    failure->xid_count++;
    failure->recovery = recovery > failure->recovery ? recovery : failure->recovery;
    if (lost) {
        __atomic_store_n(&failure->lost, 1, __ATOMIC_RELEASE);
    }
    emu_card_unlock(card);
    tell(cards);
}

void emu_card_recover(struct emu_cards *cards, int index) {
    struct emu_card *card = &cards->cards[index];
    emu_card_lock(card);
    card->failure.recovery = 0;
    __atomic_store_n(&card->failure.lost, 0, __ATOMIC_RELEASE);
    emu_card_unlock(card);
    tell(cards);
}

bool emu_card_is_lost(const struct emu_card *card) {
    return __atomic_load_n(&card->failure.lost, __ATOMIC_ACQUIRE) != 0;
}

uint32_t emu_cards_news(const struct emu_cards *cards) {
    return __atomic_load_n(&cards->news, __ATOMIC_ACQUIRE);
}

void emu_cards_await_news(struct emu_cards *cards, uint32_t seen, uint64_t timeout_ns) {
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / 1000000000ULL),
                               .tv_nsec = (long)(timeout_ns % 1000000000ULL)};
    (void)syscall(SYS_futex, &cards->news, FUTEX_WAIT, seen, &timeout, NULL, 0); /* however it ends, the caller looks */
}
