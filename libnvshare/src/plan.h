// What a grant says about a moment. Pure: no clock, no state; time comes in as CLOCK_MONOTONIC nanoseconds.
#ifndef NVS_PLAN_H
#define NVS_PLAN_H

#include "wire.h"

#include <stdbool.h>
#include <stdint.h>

#define NVS_PLAN_NEVER_NS UINT64_MAX

struct nvs_slot_answer {
    bool open;         // the client may launch now
    uint64_t until_ns; // the answer holds before this moment; NVS_PLAN_NEVER_NS: until another grant comes
};

// True if `next` comes after `now` in the order (generation, epoch, sequence). Only then may it be applied.
bool nvs_grant_newer(const nvs_grant *now, const nvs_grant *next);

// Whether the grant lets its client launch at `now_ns`, and until when that holds.
//   may_launch false                              closed for good
//   slot_length_us 0, or period_us <= slot_length_us   open for good (the plan is OPEN)
//   otherwise                                     open during slots: slot k covers [start + k*period, start + k*period
//   + length)
//                                                 for k = 0, 1, 2, …; closed before the first and between them
// Values that would pass the end of the 64-bit clock are held at it.
struct nvs_slot_answer nvs_plan_at(const nvs_grant *grant, uint64_t now_ns);

#endif
