/* cuInit. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <time.h>

#include "driver.h"
#include "visible.h"

struct emu_driver emu = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void after_fork(void) {
    emu.forked = emu.initialized;
}

/* Waits on emu.changed have deadlines on the cards' clock. */
static bool make_condition(void) {
    pthread_condattr_t attributes;
    return pthread_condattr_init(&attributes) == 0 && pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 &&
           pthread_cond_init(&emu.changed, &attributes) == 0;
}

EMU_EXPORT CUresult CUDAAPI cuInit(unsigned flags) {
    static bool fork_handler;
    if (flags != 0) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (emu.forked) {
        return CUDA_ERROR_NOT_INITIALIZED;
    }
    pthread_mutex_lock(&emu.lock);
    CUresult result = CUDA_SUCCESS;
    if (!emu.initialized) {
        int order[EMU_MAX_CARDS];
        if (emu.cards == NULL) {
            emu.cards = emu_cards_open();
        }
        emu.device_count = emu.cards == NULL ? 0 : emu_visible_cards(emu.cards, getenv("CUDA_VISIBLE_DEVICES"), order);
        for (int index = 0; index < emu.device_count; index++) {
            emu.devices[index] =
                (struct emu_device){.index = order[index], .card = &emu.cards->cards[order[index]], .slot = -1};
        }
        if (emu.device_count == 0) {
            result = CUDA_ERROR_NO_DEVICE;
        } else {
            if (!fork_handler) {
                fork_handler = pthread_atfork(NULL, NULL, after_fork) == 0;
            }
            result = make_condition() ? emu_executor_start() : CUDA_ERROR_OPERATING_SYSTEM;
        }
        __atomic_store_n(&emu.initialized, result == CUDA_SUCCESS, __ATOMIC_RELEASE);
    }
    return emu_leave(result);
}
