// The activity: when a client's work was in flight, by the clock that all processes of a node share. From those of all
// clients of a GPU the scheduler knows how much of that time another one had the card (decision 0014).
//
// Time is cut into steps of 10 ms, counted from CLOCK_MONOTONIC 0; only the last ones are kept. Any thread may add.
#ifndef NVS_ACTIVITY_H
#define NVS_ACTIVITY_H

#include "wire.h"

#include <stdatomic.h>
#include <stdint.h>

#define NVS_ACTIVITY_STEP_NS UINT64_C(10000000)
#define NVS_ACTIVITY_STEPS (NVS_ACTIVITY_SIZE - 1)

struct nvs_activity {
    _Atomic uint64_t steps[NVS_ACTIVITY_STEPS]; // the step's number, above the ns of it in which work was in flight
};

// Work was in flight for `busy_ns` between these times. What is older than those is left out.
void nvs_activity_add(struct nvs_activity *activity, uint64_t from_ns, uint64_t to_ns, uint64_t busy_ns);

// Writes the steps that are over, a character for each (client.proto); nothing if none of them has any. Returns the
// time at the end of the last.
uint64_t nvs_activity_write(struct nvs_activity *activity, uint64_t now_ns, char text[NVS_ACTIVITY_SIZE]);

#endif
