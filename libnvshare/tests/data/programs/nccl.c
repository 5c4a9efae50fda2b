// Stands for NCCL: functions that say what they were called with.
#include <stddef.h>

struct unique_id {
    char internal[128];
};

int ncclCommInitRank(void **comm, int ranks, struct unique_id id, int rank) {
    *comm = NULL;
    return 1000 + 100 * ranks + 10 * rank + id.internal[127];
}

int ncclCommInitAll(void **comms, int count, const int *ordinals) {
    *comms = NULL;
    return 2000 + 10 * count + (ordinals == NULL ? 0 : ordinals[count - 1]);
}

int ncclCommInitOther(void) {
    return 3000;
}
