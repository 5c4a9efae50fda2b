#include "host_segment.h"

#include "host_memory.h"
#include "host_room.h"
#include "settings.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SPARSE_ROOM_BYTES ((uint64_t)1 << 40)
#define MIB ((uint64_t)1 << 20)

static bool is_sparse(void) {
    return nvs_settings_read()->host_source == NVS_HOST_SPARSE;
}

uint64_t nvs_segment_room_bytes(void) {
    return is_sparse() ? SPARSE_ROOM_BYTES : nvs_host_room_bytes("");
}

bool nvs_segment_make(size_t bytes, int numa_node, struct nvs_segment *segment, char reason[NVS_SEGMENT_REASON_SIZE]) {
    uint64_t room_bytes = nvs_segment_room_bytes();
    if (room_bytes < bytes) {
        snprintf(
            reason, NVS_SEGMENT_REASON_SIZE,
            "this process may have %llu MiB more host memory (its cgroup, its limits and the host), and %llu MiB are "
            "needed",
            (unsigned long long)(room_bytes / MIB), (unsigned long long)(bytes / MIB));
        return false;
    }
    char *address = nvs_host_memory_map(bytes, numa_node);
    int error = address == NULL ? errno : 0;
    if (error == 0 && !is_sparse()) {
        error = nvs_host_memory_fault_in(address, bytes);
        if (error != 0)
            nvs_host_memory_unmap(address, bytes);
    }
    if (error != 0) {
        snprintf(reason, NVS_SEGMENT_REASON_SIZE, "the host gives this process no further %llu MiB of memory: %s",
                 (unsigned long long)(bytes / MIB), strerror(error));
        return false;
    }
    *segment = (struct nvs_segment){address, bytes};
    return true;
}

void nvs_segment_give(const struct nvs_segment *segment) {
    nvs_host_memory_unmap(segment->address, segment->bytes);
}
