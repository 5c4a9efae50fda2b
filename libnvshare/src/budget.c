#include "budget.h"

#define NS_PER_US UINT64_C(1000)
#define ALL_PERMILLE UINT64_C(1000)

// A stream that waits for something looks as if it worked. That must not close the gate for ever.
#define NVS_DEBT_MAX_NS INT64_C(10000000000)

// What the slots give for so much time, which is held at what pays any debt.
static int64_t nvs_budget_share(const struct nvs_budget *budget, uint64_t time_ns) {
    double share_ns = (double)budget->length_ns / (double)budget->period_ns * (double)time_ns;
    double most_ns = (double)(NVS_DEBT_MAX_NS + (int64_t)budget->length_ns);
    return (int64_t)(share_ns < most_ns ? share_ns : most_ns);
}

void nvs_budget_plan(struct nvs_budget *budget, const nvs_grant *grant, uint64_t now_ns) {
    bool capped = grant->slot_length_us != 0 && grant->slot_length_us < grant->period_us;
    if (!capped) {
        *budget = (struct nvs_budget){0};
        return;
    }
    uint64_t length_ns = grant->slot_length_us * NS_PER_US, period_ns = grant->period_us * NS_PER_US;
    uint64_t start_ns = grant->slot_start_us % grant->period_us * NS_PER_US;
    bool all = grant->paid_permille == 0 || grant->paid_permille > ALL_PERMILLE;
    budget->paid_permille = all ? ALL_PERMILLE : grant->paid_permille;
    if (budget->length_ns == length_ns && budget->period_ns == period_ns && budget->start_ns == start_ns)
        return;
    if (budget->period_ns == 0)
        budget->billed_to_ns = now_ns;
    else if (budget->credited_to_ns > now_ns)
        budget->left_ns -= nvs_budget_share(budget, budget->credited_to_ns - now_ns);
    budget->start_ns = start_ns;
    budget->length_ns = length_ns;
    budget->period_ns = period_ns;
    budget->credited_to_ns = now_ns;
}

void nvs_budget_bill(struct nvs_budget *budget, uint64_t busy_ns, bool settled, uint64_t now_ns) {
    if (budget->period_ns == 0)
        return;
    // Time that was not paid for is kept for as long as the work took, or for a period, and no longer: from more of it
    // two streams at once could be paid.
    uint64_t kept_ns = busy_ns > budget->period_ns ? busy_ns : budget->period_ns;
    if (busy_ns > 0 && now_ns > budget->billed_to_ns + kept_ns)
        budget->billed_to_ns = now_ns - kept_ns;
    uint64_t passed_ns = now_ns - budget->billed_to_ns;
    uint64_t billed_ns = busy_ns < passed_ns ? busy_ns : passed_ns;
    budget->billed_to_ns = settled ? now_ns : budget->billed_to_ns + billed_ns;
    if (settled)
        budget->running_since_ns = 0;
    else if (budget->running_since_ns == 0)
        budget->running_since_ns = now_ns;
    billed_ns = billed_ns < (uint64_t)NVS_DEBT_MAX_NS ? billed_ns : (uint64_t)NVS_DEBT_MAX_NS;
    budget->left_ns -= (int64_t)(billed_ns * budget->paid_permille / ALL_PERMILLE);
    if (budget->left_ns < -NVS_DEBT_MAX_NS)
        budget->left_ns = -NVS_DEBT_MAX_NS;
}

void nvs_budget_refill(struct nvs_budget *budget, uint64_t now_ns) {
    if (budget->period_ns == 0 || now_ns < budget->credited_to_ns)
        return;
    uint64_t period_ns = budget->period_ns;
    uint64_t into_ns = (now_ns % period_ns + period_ns - budget->start_ns) % period_ns;
    uint64_t next_ns = now_ns - into_ns + period_ns;
    budget->left_ns += nvs_budget_share(budget, next_ns - budget->credited_to_ns);
    budget->credited_to_ns = next_ns;
    // Work that runs is paid for when it has ended: what it costs so far is kept beside.
    uint64_t running_ns = budget->running_since_ns == 0 ? 0 : now_ns - budget->running_since_ns;
    uint64_t most_ns = budget->length_ns + running_ns;
    if (budget->left_ns > 0 && (uint64_t)budget->left_ns > most_ns)
        budget->left_ns = (int64_t)most_ns;
}

uint64_t nvs_budget_affords_ns(const struct nvs_budget *budget) {
    return budget->left_ns > 0 ? (uint64_t)budget->left_ns * ALL_PERMILLE / budget->paid_permille : 0;
}
