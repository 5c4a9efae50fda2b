/* Memory of a card that several processes hold: exported handles and legacy IPC.
 *
 * It is named by its memfd's inode, and its bytes are charged once, to one of its holders; when that one lets go, the
 * charge passes to another, and with the last holder the bytes go back to the card. Every function runs under the
 * card's lock.
 */
#ifndef EMU_SHARED_H
#define EMU_SHARED_H

#include <stdbool.h>
#include <stdint.h>

#define EMU_SHARED_ENTRIES 4096
#define EMU_SHARED_NONE (-1)

struct emu_card;

struct emu_shared {
    uint64_t key;     /* the memfd's inode */
    uint64_t bytes;   /* 0: the entry is free */
    uint64_t holders; /* bit s: the client in slot s */
    int32_t charged;  /* the slot whose used_bytes they are part of */
    uint32_t reserved;
};

/* The entry of this key, or EMU_SHARED_NONE. */
int emu_shared_find(const struct emu_card *card, uint64_t key);

/* Enter memory that is already charged to the client. EMU_SHARED_NONE when the table is full. */
int emu_shared_enter(struct emu_card *card, int slot, uint64_t key, uint64_t bytes);

/* Add a holder, or let one go. */
void emu_shared_hold(struct emu_card *card, int slot, int entry);
void emu_shared_let_go(struct emu_card *card, int slot, int entry);

/* Let a client that is gone go everywhere. */
void emu_shared_forget(struct emu_card *card, int slot);

#endif
