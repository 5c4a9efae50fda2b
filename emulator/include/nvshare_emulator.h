/* What the emulated GPU offers beyond the driver's interface: time slices, the card's own account, and failures.
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
    uint64_t used_bytes; /* now, for all uses */
    uint64_t peak_bytes;
    uint64_t context_bytes; /* the parts of used_bytes: contexts, */
    uint64_t linear_bytes;  /* cuMemAlloc and pools, */
    uint64_t handle_bytes;  /* handles of cuMemCreate; what several processes hold counts for one of them, */
    uint64_t managed_bytes; /* managed memory that is on the card */
    uint64_t copied_in_bytes;
    uint64_t copied_out_bytes; /* over the link; completed copies */
    uint64_t busy_ns;          /* of the compute engine */
    uint64_t launches;         /* items of the compute engine */
    uint64_t timeslice_us;
    uint64_t joined_ns; /* CLOCK_MONOTONIC */
    uint64_t left_ns;   /* 0 while present */
    uint64_t wakes;     /* how often work, or an event, came to the compute engine that had nothing of the process */
};

/* What a card has done in all. */
struct nvshare_emulator_card {
    uint64_t total_bytes;
    uint64_t used_bytes;        /* of all processes, of dead ones too while others hold their memory */
    uint64_t peak_bytes;        /* the most that it ever was, since the card was made or nvshare_emulator_reset_peaks */
    uint64_t memory_bytes;      /* used_bytes without contexts */
    uint64_t peak_memory_bytes; /* the most that that ever was */
    uint64_t copied_in_bytes;
    uint64_t copied_out_bytes; /* over the link; completed copies */
    uint64_t busy_ns;          /* of the compute engine */
    uint64_t switches;         /* of the compute engine between clients */
    uint8_t uuid[16];
};

/* One turn of a process on the compute engine. */
struct nvshare_emulator_turn {
    int32_t pid;
    uint32_t reserved;
    uint64_t start_ns; /* CLOCK_MONOTONIC */
    uint64_t end_ns;
};

/* A completed copy over the link, from its first moment on the copy engine to its last. */
struct nvshare_emulator_copy {
    int32_t pid;
    uint32_t out; /* 0: from host to device; 1: the other way */
    uint64_t bytes;
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

/* The latest copies of both engines, those in first, each engine's oldest first; *count as above. */
int nvshare_emulator_copies(int card, struct nvshare_emulator_copy *copies, uint32_t *count);

/* Let the card's two peaks begin anew at what is in use now. */
int nvshare_emulator_reset_peaks(int card);

/* Let a card fail, by its index in the folder: an Xid error that NVML's events tell. `recovery` is what would repair
 * the card, as an nvmlDeviceGpuRecoveryAction_t (0: nothing is needed); `lost` other than 0: it has fallen off the bus,
 * and NVML answers NVML_ERROR_GPU_IS_LOST. Programs that use the card go on: it is NVML's view that fails. */
int nvshare_emulator_fail(int card, uint32_t xid, uint32_t recovery, int lost);

/* Let the card be well again. */
int nvshare_emulator_recover(int card);

#ifdef __cplusplus
}
#endif

#endif
