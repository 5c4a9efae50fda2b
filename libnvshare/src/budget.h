// The budget: how much of the card's time a client with a cap may still take. Pure: no clock; time comes in as
// CLOCK_MONOTONIC nanoseconds.
//
// At the start of each of its slots a client gets the slot's length as credit, and pays with the time in which its work
// ran. It may launch while it has some left, in its slot or after it: who keeps the card busy runs from the slot's
// start to its end, and who does not is never delayed below its cap. Credit is kept for one period. Work that takes
// longer than what was left is a debt, which the next slots pay off: so the share of busy time comes to length / period
// for kernels of any length. While other clients' work is on the card too, the card's time is not all its own: the
// grant says how much of the time in which its work was in flight it pays for.
#ifndef NVS_BUDGET_H
#define NVS_BUDGET_H

#include "wire.h"

#include <stdbool.h>
#include <stdint.h>

struct nvs_budget {
    uint64_t start_ns; // where a slot starts, less than a period from 0
    uint64_t length_ns;
    uint64_t period_ns;        // 0: no cap
    uint64_t paid_permille;    // of the time in which its work was in flight: the rest was its neighbours'
    uint64_t credited_to_ns;   // the time up to here has its credit: the start of the next slot
    uint64_t billed_to_ns;     // the time up to here is paid for, or nothing ran
    uint64_t running_since_ns; // since when work was in flight at each look; 0: there was none at the last one
    int64_t left_ns;           // negative: a debt
};

// The slots of the grant are in force from now on. No slots, or such as are as long as their period: no cap, and
// nothing is owed any more. Where they change, credit for what is left of the period changes with them.
void nvs_budget_plan(struct nvs_budget *budget, const nvs_grant *grant, uint64_t now_ns);

// Work of so long has ended since the last bill; `settled`: none is in flight any more. Several streams' work at once
// is paid for once: never is more billed than the time that passed.
void nvs_budget_bill(struct nvs_budget *budget, uint64_t busy_ns, bool settled, uint64_t now_ns);

// Gives the credit that is due, after the bill: what has ended before the slot began is paid from what was left.
void nvs_budget_refill(struct nvs_budget *budget, uint64_t now_ns);

// For how long its work may be in flight with what is left. Only with a cap.
uint64_t nvs_budget_affords_ns(const struct nvs_budget *budget);

#endif
