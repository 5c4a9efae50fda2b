// Answers lines `MOVABLE NEEDED PRESENT MOVING PINNED TARGET` with `HERE OUT_BYTES IN_BYTES`.
#include "residency.h"

#include <inttypes.h>
#include <stdio.h>

int main(void) {
    char line[256];
    while (fgets(line, sizeof line, stdin) != NULL) {
        struct nvs_residency residency = {0};
        unsigned movable;
        if (sscanf(line, "%u %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64, &movable,
                   &residency.needed_bytes, &residency.present_bytes, &residency.moving_bytes, &residency.pinned_bytes,
                   &residency.target_bytes) != 6)
            return 1;
        residency.movable = movable != 0;
        printf("%d %" PRIu64 " %" PRIu64 "\n", nvs_residency_here(&residency), nvs_residency_out_bytes(&residency),
               nvs_residency_in_bytes(&residency));
        fflush(stdout);
    }
    return 0;
}
