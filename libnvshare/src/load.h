// A load: the extents that are copied between two events, and what happens to them before and after.
//
// A load is one extent, or as many small ones as make it worth an event. While it is under way its extents are LEAVING
// or COMING: they count as moving, and nobody but its mover touches them. Which extents make the next load follows from
// the residency alone.
#ifndef NVS_LOAD_H
#define NVS_LOAD_H

#include "device.h"
#include "host_copy.h"
#include "memory.h"

#define NVS_LOAD_BYTES (UINT64_C(64) << 20)
#define NVS_LOAD_EXTENTS 32u

enum nvs_way {
    NVS_OUT,
    NVS_IN,
};

struct nvs_load {
    enum nvs_way way;
    unsigned count;
    uint64_t bytes;
    struct nvs_extent *extents[NVS_LOAD_EXTENTS];
};

// Why a load, or a part of it, did not move.
struct nvs_trouble {
    bool card;       // memory of the card is missing, which may come free any moment
    CUresult result; // of the driver; CUDA_SUCCESS: it has not failed
    char reason[NVS_REASON_SIZE];
};

// Which way the device's memory is to move now. False: neither. Caller holds the device's lock.
bool nvs_load_way(const struct nvs_device *device, enum nvs_way *way);

// Bytes that may begin to move this way now. Takes the device's lock, as the next one.
uint64_t nvs_load_allowed_bytes(struct nvs_device *device, enum nvs_way way);

// What an extent's way changes in the device's account.
void nvs_load_account(struct nvs_device *device, int64_t present_bytes, int64_t moving_bytes);

// Takes the next extents that go this way, if any still should, and gives those that come physical memory. The load may
// be empty. False: trouble, and the load has what was got before it.
bool nvs_load_take(struct nvs_device *device, enum nvs_way way, struct nvs_load *load, struct nvs_trouble *trouble);

// Finds room in host memory for those that leave; it may wait for the pool. False: trouble, and the load has only those
// that found room: the others stay.
bool nvs_load_room(struct nvs_device *device, struct nvs_load *load, struct nvs_packer *packer, CUcontext context,
                   struct nvs_trouble *trouble);

// Puts the copies on the stream. CUDA_SUCCESS, or the driver's error, with some of them on it.
CUresult nvs_load_copy(const struct nvs_load *load, CUstream stream);

// The copies have ended, with this result: the extents are where they should be, or as they were. What the target wants
// otherwise by now turns round without another copy. Returns the bytes that moved. A failed result is the caller's to
// tell; false in `dropped` says that the driver did not take memory back. What could neither come nor be unmapped is
// left in the load: it is to be copied again.
uint64_t nvs_load_end(struct nvs_device *device, struct nvs_load *load, CUresult result, bool *dropped);

#endif
