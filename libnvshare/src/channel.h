// The channel groups of this process: what the kernel driver schedules on the card, each with a time slice of its own.
//
// They are learnt from the process's own requests to the kernel driver, which libcuda makes with libc's ioctl(2) and
// which therefore pass through this library. Numbers and layouts are those of NVIDIA's open kernel modules
// (nv_escape.h, nvos.h, ctrla06c.h); a request of another shape is not understood and changes nothing. decision 0010
// says what was measured and what is risked.
//
// On an emulated GPU, which the emulator's own interface is found on (nvshare_emulator.h), a process counts as one
// group.
//
// Owner of the table: this module. Its lock is a leaf.
#ifndef NVS_CHANNEL_H
#define NVS_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define NVS_CHANNEL_GROUPS_MAX 256u

struct nvs_channel_group {
    int descriptor;  // that it was made on; -1: it is the emulator's
    dev_t file;      // what that was open on then
    uint32_t client; // handles, as the process chose them
    uint32_t parent; // of the device
    uint32_t object; // of the group
    bool computes;   // it serves kernels, not copies
    int ordinal;     // of the device; -1: not known
    uint64_t made;   // numbers the groups of a process from 1
};

// What the calling thread makes from now on is for this device; -1: for one that is known from other groups.
void nvs_channel_making(int ordinal);

// A request has been answered without an error of the system. Safe from every thread; calls no CUDA function.
void nvs_channel_seen(int descriptor, unsigned long request, const void *argument);

// The device's groups that compute, oldest first, at most `most`; their number. `alone`: there is no other device.
size_t nvs_channel_groups(int ordinal, bool alone, struct nvs_channel_group *groups, size_t most);

// Another value whenever a group came or went.
uint64_t nvs_channel_changes(void);

// Reads (sets) the group's time slice. False: refused, or the group is no more.
bool nvs_channel_slice(const struct nvs_channel_group *group, uint64_t *timeslice_us);
bool nvs_channel_set_slice(const struct nvs_channel_group *group, uint64_t timeslice_us);

// After a fork: none of them is the child's.
void nvs_channel_atfork_child(void);

#endif
