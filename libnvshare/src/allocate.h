// The way of an allocation that the driver makes itself: counted before it is asked for, and pinned.
#ifndef NVS_ALLOCATE_H
#define NVS_ALLOCATE_H

#include "footprint.h"
#include "library.h"
#include "thread.h"

// The device, and the context, that an allocation of the calling thread is for. NULL: none, or the driver itself
// allocates inside of a call that is counted.
static inline struct nvs_device *nvs_allocating_device(CUcontext *context) {
    if (!nvs_library_start() || nvs_thread_join() == NULL || nvs_thread_self->allocates)
        return NULL;
    return nvs_device_current(context);
}

// Marks a thread that is in the driver for memory.
static inline void nvs_allocating(bool inside) {
    if (nvs_thread_self != NULL)
        nvs_thread_self->allocates = inside;
}

// Reserves, allocates by `allocate` (an expression that gives a CUresult), remembers the result under `key`, and
// returns what the program is to be told.
#define NVS_ALLOCATE(device, context, size, allocate, key, why)                                                        \
    do {                                                                                                               \
        CUresult nvs_result = nvs_footprint_reserve((device), (size));                                                 \
        if (nvs_result != CUDA_SUCCESS)                                                                                \
            return nvs_result;                                                                                         \
        nvs_allocating(true);                                                                                          \
        nvs_result = (allocate);                                                                                       \
        nvs_allocating(false);                                                                                         \
        if (nvs_result == CUDA_SUCCESS)                                                                                \
            nvs_footprint_add((device), (context), (uint64_t)(key), (size), (why));                                    \
        else                                                                                                           \
            nvs_footprint_release((device), (size));                                                                   \
        return nvs_result;                                                                                             \
    } while (0)

#endif
