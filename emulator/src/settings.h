/* The environment of the emulated GPU (docs/protocol.md), read by whoever makes the folder's state first. */
#ifndef EMU_SETTINGS_H
#define EMU_SETTINGS_H

#include <stdint.h>

#define EMU_MAX_CARDS 16

struct emu_settings {
    uint32_t card_count;
    uint64_t card_bytes;
    uint64_t slice_ns;
    uint64_t switch_ns;
    uint64_t link_bytes_per_second;
    uint64_t link_kept_permille; /* of a direction's speed, while the other one is busy */
};

/* Read the settings; what is missing or malformed has its default, with a line on standard error for the malformed. */
void emu_settings_read(struct emu_settings *settings);

/* The folder of the cards' state, made if it is not there, without a slash at its end. Returns 0, or an errno. */
int emu_settings_folder(char *path, unsigned long size);

#endif
