#include "plan.h"

#define NS_PER_US 1000u

bool nvs_grant_newer(const nvs_grant *now, const nvs_grant *next) {
    if (next->generation != now->generation)
        return next->generation > now->generation;
    if (next->epoch != now->epoch)
        return next->epoch > now->epoch;
    return next->sequence > now->sequence;
}

static uint64_t us_to_ns(uint64_t us) {
    return us > UINT64_MAX / NS_PER_US ? UINT64_MAX : us * NS_PER_US;
}

static uint64_t add(uint64_t a, uint64_t b) {
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

struct nvs_slot_answer nvs_plan_at(const nvs_grant *grant, uint64_t now_ns) {
    if (!grant->may_launch)
        return (struct nvs_slot_answer){.open = false, .until_ns = NVS_PLAN_NEVER_NS};
    if (grant->slot_length_us == 0 || grant->period_us <= grant->slot_length_us)
        return (struct nvs_slot_answer){.open = true, .until_ns = NVS_PLAN_NEVER_NS};

    uint64_t start_ns = us_to_ns(grant->slot_start_us);
    if (now_ns < start_ns)
        return (struct nvs_slot_answer){.open = false, .until_ns = start_ns};

    uint64_t length_ns = us_to_ns(grant->slot_length_us);
    uint64_t period_ns = us_to_ns(grant->period_us);
    uint64_t into_period_ns = (now_ns - start_ns) % period_ns;
    uint64_t slot_ns = now_ns - into_period_ns; // where the latest slot began
    if (into_period_ns < length_ns)
        return (struct nvs_slot_answer){.open = true, .until_ns = add(slot_ns, length_ns)};
    return (struct nvs_slot_answer){.open = false, .until_ns = add(slot_ns, period_ns)};
}
