// Answers lines about one client's activity: `add FROM_NS TO_NS BUSY_NS`, with an empty line; `write NOW_NS`, with the
// time at the end of the last step and the characters of the report; `reset`.
#include "activity.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    static struct nvs_activity activity;
    char line[256];
    while (fgets(line, sizeof line, stdin) != NULL) {
        char text[NVS_ACTIVITY_SIZE];
        uint64_t from_ns, to_ns, busy_ns;
        if (sscanf(line, "add %" SCNu64 " %" SCNu64 " %" SCNu64, &from_ns, &to_ns, &busy_ns) == 3) {
            nvs_activity_add(&activity, from_ns, to_ns, busy_ns);
            puts("");
        } else if (sscanf(line, "write %" SCNu64, &to_ns) == 1) {
            uint64_t end = nvs_activity_write(&activity, to_ns, text);
            printf("%" PRIu64 " %s\n", end, text);
        } else if (strncmp(line, "reset", 5) == 0) {
            memset(&activity, 0, sizeof activity);
            puts("");
        } else {
            return 1;
        }
        fflush(stdout);
    }
    return 0;
}
