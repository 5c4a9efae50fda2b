// Answers lines of numbers. `at MAY_LAUNCH SLOT_START_US SLOT_LENGTH_US PERIOD_US NOW_NS` gives `OPEN UNTIL_NS`;
// `newer GENERATION EPOCH SEQUENCE GENERATION EPOCH SEQUENCE` gives 1 if the second comes after the first, else 0.
#include "plan.h"

#include <inttypes.h>
#include <stdio.h>

int main(void) {
    char line[256];
    while (fgets(line, sizeof line, stdin) != NULL) {
        nvs_grant now = {0}, next = {0};
        uint64_t now_ns;
        unsigned may_launch;
        if (sscanf(line, "at %u %" SCNu64 " %" SCNu32 " %" SCNu32 " %" SCNu64, &may_launch, &now.slot_start_us,
                   &now.slot_length_us, &now.period_us, &now_ns) == 5) {
            now.may_launch = may_launch != 0;
            struct nvs_slot_answer answer = nvs_plan_at(&now, now_ns);
            printf("%d %" PRIu64 "\n", answer.open, answer.until_ns);
        } else if (sscanf(line, "newer %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64,
                          &now.generation, &now.epoch, &now.sequence, &next.generation, &next.epoch,
                          &next.sequence) == 6) {
            printf("%d\n", nvs_grant_newer(&now, &next));
        } else {
            return 1;
        }
        fflush(stdout);
    }
    return 0;
}
