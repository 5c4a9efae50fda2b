/* Which cards a process sees, and how their UUIDs are written. Used by both libraries. */
#ifndef EMU_VISIBLE_H
#define EMU_VISIBLE_H

#include "card.h"

#define EMU_UUID_TEXT_BYTES 41 /* "GPU-" and 36 characters and the end */

void emu_uuid_text(const uint8_t uuid[16], char text[EMU_UUID_TEXT_BYTES]);

/* The card of a PCI bus ID (domain:bus:device.function, hexadecimal), by its index in the folder; -1 without one. */
int emu_card_of_bus_id(const struct emu_cards *cards, const char *text);

/* The cards of CUDA_VISIBLE_DEVICES (indices, or UUIDs or beginnings of them, up to the first that is not valid), all
 * without it, in `order`; returns how many. */
int emu_visible_cards(const struct emu_cards *cards, const char *setting, int order[EMU_MAX_CARDS]);

#endif
