/* Failures of a card, put in from outside: Xid errors, a card that is lost, and recovery. */
#ifndef EMU_FAILURE_H
#define EMU_FAILURE_H

#include <stdbool.h>
#include <stdint.h>

#define EMU_XIDS 64 /* that are kept; who waits hears them within that many */

struct emu_cards;
struct emu_card;

struct emu_failure {
    uint32_t lost;      /* 1: the card has fallen off the bus; NVML does not reach it */
    uint32_t recovery;  /* what would repair it, as an nvmlDeviceGpuRecoveryAction_t; 0: nothing is needed */
    uint64_t xid_count; /* ever; the latest lies in xids[(xid_count - 1) % EMU_XIDS] */
    uint32_t xids[EMU_XIDS];
};

/* Put an Xid error in, and tell whoever waits. `recovery` and `lost` add to what is wrong already. */
void emu_card_fail(struct emu_cards *cards, int index, uint32_t xid, uint32_t recovery, bool lost);

/* The card is well again. */
void emu_card_recover(struct emu_cards *cards, int index);

bool emu_card_is_lost(const struct emu_card *card);

/* Wait until something was put into any card since `seen` was read, at most so long. A wait that ends early does no
 * harm: the caller looks. */
uint32_t emu_cards_news(const struct emu_cards *cards);
void emu_cards_await_news(struct emu_cards *cards, uint32_t seen, uint64_t timeout_ns);

#endif
