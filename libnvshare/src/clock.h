// The clock that the plan is followed by.
#ifndef NVS_CLOCK_H
#define NVS_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NVS_NS_PER_MS UINT64_C(1000000)
#define NVS_NS_PER_SECOND UINT64_C(1000000000)

// CLOCK_MONOTONIC in nanoseconds. The processes of one host share it, and no one can set it.
static inline uint64_t nvs_clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); // fails only for a clock that does not exist
    return (uint64_t)now.tv_sec * NVS_NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

#endif
