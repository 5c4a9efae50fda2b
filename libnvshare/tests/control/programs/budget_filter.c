// Answers lines of numbers about one budget, with what is left in ns and when the next credit is due: `plan START_US
// LENGTH_US PERIOD_US NOW_NS`, `look BUSY_NS SETTLED NOW_NS`, which pays and then refills, `reset`.
#include "budget.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    struct nvs_budget budget = {0};
    char line[256];
    while (fgets(line, sizeof line, stdin) != NULL) {
        nvs_grant grant = {0};
        uint64_t busy_ns, now_ns;
        unsigned settled;
        if (sscanf(line, "plan %" SCNu64 " %" SCNu32 " %" SCNu32 " %" SCNu64, &grant.slot_start_us,
                   &grant.slot_length_us, &grant.period_us, &now_ns) == 4) {
            nvs_budget_plan(&budget, &grant, now_ns);
            nvs_budget_refill(&budget, now_ns);
        } else if (sscanf(line, "look %" SCNu64 " %u %" SCNu64, &busy_ns, &settled, &now_ns) == 3) {
            nvs_budget_bill(&budget, busy_ns, settled != 0, now_ns);
            nvs_budget_refill(&budget, now_ns);
        } else if (strncmp(line, "reset", 5) == 0) {
            budget = (struct nvs_budget){0};
        } else {
            return 1;
        }
        printf("%" PRId64 " %" PRIu64 "\n", budget.left_ns, budget.credited_to_ns);
        fflush(stdout);
    }
    return 0;
}
