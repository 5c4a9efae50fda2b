#include "host_segment.h"

#include "host_memory.h"
#include "host_room.h"
#include "node_arena.h"
#include "settings.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define SPARSE_ROOM_BYTES ((uint64_t)1 << 40)
#define MIB(bytes) ((unsigned long long)((bytes) >> 20))

// The relay has answered: a socket that is missing for a moment, while it starts anew, changes nothing.
static atomic_bool arena_answered;

// Own memory is ready five times as soon: it has huge pages. Only a limit of a cgroup makes the arena worth its price.
static bool is_limited;
static pthread_once_t limit_once = PTHREAD_ONCE_INIT;

static void read_limit(void) {
    is_limited = nvs_host_is_limited("");
}

bool nvs_segment_from_arena(void) {
    enum nvs_host_source source = nvs_settings_read()->host_source;
    if (source != NVS_HOST_AUTO)
        return source == NVS_HOST_ARENA;
    pthread_once(&limit_once, read_limit);
    if (!is_limited)
        return false;
    return atomic_load_explicit(&arena_answered, memory_order_relaxed) || nvs_arena_exists();
}

static bool is_sparse(void) {
    return nvs_settings_read()->host_source == NVS_HOST_SPARSE;
}

uint64_t nvs_segment_room_bytes(void) {
    return is_sparse() ? SPARSE_ROOM_BYTES : nvs_host_room_bytes("");
}

static void take_sums(const struct nvs_arena_sums *sums, struct nvs_segment_room *room) {
    atomic_store_explicit(&arena_answered, true, memory_order_relaxed);
    *room = (struct nvs_segment_room){sums->kept_bytes, sums->free_bytes};
}

bool nvs_segment_keep(uint64_t bytes, struct nvs_segment_room *room) {
    struct nvs_arena_sums sums;
    if (nvs_arena_reserve(bytes, &sums) != 0)
        return false;
    take_sums(&sums, room);
    return true;
}

static bool make_of_arena(size_t bytes, int numa_node, struct nvs_segment *segment, struct nvs_segment_room *room,
                          char reason[NVS_SEGMENT_REASON_SIZE]) {
    struct nvs_arena_sums sums = {room->kept_bytes, room->free_bytes};
    int descriptor = -1;
    int error = nvs_arena_make(bytes, numa_node, &descriptor, &sums);
    if (error == 0 || error == ENOMEM)
        take_sums(&sums, room);
    if (error == ENOMEM) {
        snprintf(
            reason, NVS_SEGMENT_REASON_SIZE,
            "the node arena keeps %llu MiB for this process and has %llu MiB more for it, and %llu MiB more than it "
            "has are needed",
            MIB(sums.kept_bytes), MIB(sums.free_bytes), MIB((uint64_t)bytes));
        return false;
    }
    if (error != 0) {
        snprintf(reason, NVS_SEGMENT_REASON_SIZE, "the relay, which has the node arena, is away: %s", strerror(error));
        return false;
    }
    char *address = nvs_host_memory_map_shared(descriptor, bytes);
    if (address == NULL) {
        snprintf(reason, NVS_SEGMENT_REASON_SIZE, "memory of the node arena cannot be mapped: %s", strerror(errno));
        nvs_arena_give(descriptor);
        return false;
    }
    // The pages are there; this is their way into the page table, which registering would have to go alone.
    (void)nvs_host_memory_fault_in(address, bytes);
    *segment = (struct nvs_segment){address, bytes, descriptor};
    return true;
}

static bool make_own(size_t bytes, int numa_node, struct nvs_segment *segment, char reason[NVS_SEGMENT_REASON_SIZE]) {
    uint64_t room_bytes = nvs_segment_room_bytes();
    if (room_bytes < bytes) {
        snprintf(reason, NVS_SEGMENT_REASON_SIZE,
                 "this process may have %llu MiB more host memory (its cgroup, its limits and the host), and %llu MiB "
                 "are needed",
                 MIB(room_bytes), MIB((uint64_t)bytes));
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
                 MIB((uint64_t)bytes), strerror(error));
        return false;
    }
    *segment = (struct nvs_segment){address, bytes, -1};
    return true;
}

bool nvs_segment_make(size_t bytes, int numa_node, struct nvs_segment *segment, struct nvs_segment_room *room,
                      char reason[NVS_SEGMENT_REASON_SIZE]) {
    return nvs_segment_from_arena() ? make_of_arena(bytes, numa_node, segment, room, reason)
                                    : make_own(bytes, numa_node, segment, reason);
}

void nvs_segment_give(const struct nvs_segment *segment) {
    nvs_host_memory_unmap(segment->address, segment->bytes);
    if (segment->descriptor >= 0)
        nvs_arena_give(segment->descriptor);
}

void nvs_segment_atfork_child(void) {
    nvs_arena_atfork_child();
    atomic_store(&arena_answered, false);
}
