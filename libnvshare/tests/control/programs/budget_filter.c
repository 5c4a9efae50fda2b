// Answers lines of numbers about one budget, with what is left in ns and when the next credit is due: `plan START_US
// LENGTH_US PERIOD_US NOW_NS [PAID_PERMILLE]`, `look BUSY_NS SETTLED NOW_NS`, which pays and then refills, `reset`.
#include "budget.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_KERNELS 16

static void look(struct nvs_budget *budget, uint64_t busy_ns, bool settled, uint64_t now_ns) {
    nvs_budget_bill(budget, busy_ns, settled, now_ns);
    nvs_budget_refill(budget, now_ns);
}

// Time passes, with a look whenever credit is due.
static void pass(struct nvs_budget *budget, bool settled, uint64_t until_ns) {
    while (budget->credited_to_ns < until_ns)
        look(budget, 0, settled, budget->credited_to_ns);
}

// `run NOW_NS UNTIL_NS {LENGTH_NS PAUSE_NS}`: a program that launches these kernels in turn, over and over, each as
// soon as it may after the pause behind the one before. Answers for how long they ran, for how long the program waited
// until it might launch, and when its last pause was over, the first after UNTIL_NS.
static void run(struct nvs_budget *budget, char *numbers) {
    uint64_t now_ns = strtoull(numbers, &numbers, 10), until_ns = strtoull(numbers, &numbers, 10);
    uint64_t lengths_ns[MOST_KERNELS], pauses_ns[MOST_KERNELS], busy_ns = 0, waited_ns = 0;
    size_t count = 0;
    for (char *rest = numbers; count < MOST_KERNELS; count++, numbers = rest) {
        lengths_ns[count] = strtoull(numbers, &rest, 10);
        if (rest == numbers)
            break;
        pauses_ns[count] = strtoull(rest, &rest, 10);
    }
    look(budget, 0, true, now_ns);
    for (size_t turn = 0; now_ns < until_ns && count > 0; turn = (turn + 1) % count) {
        while (budget->left_ns <= 0) {
            waited_ns += budget->credited_to_ns - now_ns;
            now_ns = budget->credited_to_ns;
            look(budget, 0, true, now_ns);
        }
        uint64_t end_ns = now_ns + lengths_ns[turn];
        look(budget, 0, false, now_ns);
        pass(budget, false, end_ns);
        look(budget, lengths_ns[turn], true, end_ns);
        busy_ns += lengths_ns[turn];
        now_ns = end_ns + pauses_ns[turn];
        pass(budget, true, now_ns);
    }
    printf("%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", busy_ns, waited_ns, now_ns);
    fflush(stdout);
}

int main(void) {
    struct nvs_budget budget = {0};
    char line[1024];
    while (fgets(line, sizeof line, stdin) != NULL) {
        nvs_grant grant = {0};
        uint64_t busy_ns, now_ns;
        unsigned settled;
        if (sscanf(line, "plan %" SCNu64 " %" SCNu32 " %" SCNu32 " %" SCNu64 " %" SCNu32, &grant.slot_start_us,
                   &grant.slot_length_us, &grant.period_us, &now_ns, &grant.paid_permille) >= 4) {
            nvs_budget_plan(&budget, &grant, now_ns);
            nvs_budget_refill(&budget, now_ns);
        } else if (sscanf(line, "look %" SCNu64 " %u %" SCNu64, &busy_ns, &settled, &now_ns) == 3) {
            look(&budget, busy_ns, settled != 0, now_ns);
        } else if (strncmp(line, "run ", 4) == 0) {
            run(&budget, line + 4);
            continue;
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
