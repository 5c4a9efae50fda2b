#include "activity.h"

#define NS_BITS 24u // a step's ns fit
#define LEVELS 63u

static uint64_t nvs_activity_ns(uint64_t word) {
    return word & ((UINT64_C(1) << NS_BITS) - 1);
}

// Adds to one step, unless its place has a later one by now.
static void nvs_activity_add_to(struct nvs_activity *activity, uint64_t step, uint64_t busy_ns) {
    _Atomic uint64_t *place = &activity->steps[step % NVS_ACTIVITY_STEPS];
    uint64_t before = atomic_load_explicit(place, memory_order_relaxed), after;
    do {
        if (before >> NS_BITS > step)
            return;
        uint64_t ns = before >> NS_BITS == step ? nvs_activity_ns(before) + busy_ns : busy_ns;
        after = step << NS_BITS | (ns < NVS_ACTIVITY_STEP_NS ? ns : NVS_ACTIVITY_STEP_NS);
    } while (!atomic_compare_exchange_weak_explicit(place, &before, after, memory_order_relaxed, memory_order_relaxed));
}

void nvs_activity_add(struct nvs_activity *activity, uint64_t from_ns, uint64_t to_ns, uint64_t busy_ns) {
    if (from_ns >= to_ns)
        return;
    double density = (double)busy_ns / (double)(to_ns - from_ns);
    uint64_t last = (to_ns - 1) / NVS_ACTIVITY_STEP_NS, step = from_ns / NVS_ACTIVITY_STEP_NS;
    if (last - step >= NVS_ACTIVITY_STEPS)
        step = last - NVS_ACTIVITY_STEPS + 1;
    for (; step <= last; step++) {
        uint64_t start_ns = step * NVS_ACTIVITY_STEP_NS, end_ns = start_ns + NVS_ACTIVITY_STEP_NS;
        uint64_t part_ns = (to_ns < end_ns ? to_ns : end_ns) - (from_ns > start_ns ? from_ns : start_ns);
        nvs_activity_add_to(activity, step, (uint64_t)(density * (double)part_ns));
    }
}

uint64_t nvs_activity_write(struct nvs_activity *activity, uint64_t now_ns, char text[NVS_ACTIVITY_SIZE]) {
    uint64_t end = now_ns / NVS_ACTIVITY_STEP_NS;
    bool any = false;
    for (uint64_t i = 0; i < NVS_ACTIVITY_STEPS; i++) {
        uint64_t step = end + i - NVS_ACTIVITY_STEPS; // a clock that runs is past the first steps
        uint64_t word = atomic_load_explicit(&activity->steps[step % NVS_ACTIVITY_STEPS], memory_order_relaxed);
        uint64_t ns = word >> NS_BITS == step ? nvs_activity_ns(word) : 0;
        uint64_t level = (ns * LEVELS + NVS_ACTIVITY_STEP_NS / 2) / NVS_ACTIVITY_STEP_NS;
        any = any || level > 0;
        text[i] = (char)('0' + level);
    }
    text[any ? NVS_ACTIVITY_STEPS : 0] = '\0';
    return end * NVS_ACTIVITY_STEP_NS;
}
