/* What the sources of libnvidia-ml.so.1 share. */
#ifndef EMU_NVML_LIBRARY_H
#define EMU_NVML_LIBRARY_H

#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include <nvml.h>

#include "card.h"

#define EMU_EXPORT __attribute__((visibility("default")))

struct nvmlDevice_st {
    unsigned index; /* of the card in the folder: NVML knows nothing of CUDA_VISIBLE_DEVICES */
};

struct emu_nvml {
    pthread_mutex_t lock;
    unsigned users; /* of nvmlInit */
    struct emu_cards *cards;
    struct nvmlDevice_st devices[EMU_MAX_CARDS];
};

extern struct emu_nvml emu_nvml;

bool emu_nvml_is_ready(void);

/* Copy a text to the caller's room. */
nvmlReturn_t emu_nvml_put_text(char *target, unsigned length, const char *text);

/* The card of a handle; an error if the library is not ready, the handle is none, or `target` is NULL, or the card is
 * lost. */
nvmlReturn_t emu_nvml_card(nvmlDevice_t device, const void *target, struct emu_card **card);

#endif
