/* What the emulated GPU offers beyond the driver's interface: time slices, and the card's own account.
 *
 * Exported by the emulator's libcuda.so.1: look the symbols up with dlsym; on a real driver they are absent. `device`
 * is an ordinal as cuDeviceGet counts them, with CUDA_VISIBLE_DEVICES applied. All functions return 0, or an errno
 * value: EINVAL for a device that is not there or a bad argument, ENXIO before the process has used the device.
 */
#ifndef NVSHARE_EMULATOR_H
#define NVSHARE_EMULATOR_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Set this process's compute time slice on a device, with effect at once, on a running kernel too. 0 and 1 mean the
 * floor. */
int nvshare_emulator_set_timeslice(int device, uint64_t timeslice_us);

/* The value of the last set, or the card's default. */
int nvshare_emulator_get_timeslice(int device, uint64_t *timeslice_us);

/* What one process has had of a card. */
struct nvshare_emulator_account {
    int32_t pid;
    uint32_t alive;   /* 1: it lives; 0: it is dead and others hold its memory, or it has left */
    uint32_t present; /* 1: its memory counts; 0: it has left */
    uint32_t reserved;
    uint64_t used_bytes; /* now */
    uint64_t peak_bytes;
    uint64_t busy_ns;  /* of the compute engine */
    uint64_t launches; /* items of the compute engine */
    uint64_t timeslice_us;
    uint64_t joined_ns; /* CLOCK_MONOTONIC */
    uint64_t left_ns;   /* 0 while present */
};

/* What a card has done in all. */
struct nvshare_emulator_card {
    uint64_t total_bytes;
    uint64_t used_bytes;
    uint64_t busy_ns;  /* of the compute engine */
    uint64_t switches; /* of the compute engine between clients */
    uint8_t uuid[16];
};

/* One turn of a process on the compute engine. */
struct nvshare_emulator_turn {
    int32_t pid;
    uint32_t reserved;
    uint64_t start_ns; /* CLOCK_MONOTONIC */
    uint64_t end_ns;
};

/* The accounts of a card by its index in the folder (not by CUDA_VISIBLE_DEVICES): living ones first, then those that
 * left last. *count is the room on entry and the number written on return. Works in a process that uses no device. */
int nvshare_emulator_accounts(int card, struct nvshare_emulator_account *accounts, uint32_t *count);

/* The totals of a card by its index in the folder. */
int nvshare_emulator_card(int card, struct nvshare_emulator_card *totals);

/* The latest turns, oldest first; *count as above. Neighbouring turns of one process are one. */
int nvshare_emulator_turns(int card, struct nvshare_emulator_turn *turns, uint32_t *count);

#ifdef __cplusplus
}
#endif

#endif
