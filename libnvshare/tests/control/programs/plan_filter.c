// Answers lines of numbers: `newer GENERATION EPOCH SEQUENCE GENERATION EPOCH SEQUENCE` gives 1 if the second comes
// after the first, else 0.
#include "plan.h"

#include <inttypes.h>
#include <stdio.h>

int main(void) {
    char line[256];
    while (fgets(line, sizeof line, stdin) != NULL) {
        nvs_grant now = {0}, next = {0};
        if (sscanf(line, "newer %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64, &now.generation,
                   &now.epoch, &now.sequence, &next.generation, &next.epoch, &next.sequence) == 6) {
            printf("%d\n", nvs_grant_newer(&now, &next));
        } else {
            return 1;
        }
        fflush(stdout);
    }
    return 0;
}
