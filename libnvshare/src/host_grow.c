// The thread of the pool: it makes segments and registers them, gives back what is too much, and asks the arena.
#include "clock.h"
#include "host_memory.h"
#include "host_pin.h"
#include "host_pool_state.h"
#include "log.h"

#include <string.h>
#include <sys/prctl.h>

#define TRY_AGAIN_NS NVS_NS_PER_SECOND       // after growing failed, while nobody waits for it
#define KEEP_NS (5 * NVS_NS_PER_SECOND)      // what is more than wished is kept so long
#define GIVE_BACK_NS (NVS_NS_PER_SECOND / 2) // and then leaves one segment at a time
#define ROOM_AGE_NS NVS_NS_PER_SECOND

uint64_t nvs_pool_needed_bytes(void) {
    uint64_t used_bytes = (nvs_pool.slots.used + nvs_pool.waiting_slots) * NVS_POOL_SLOT_BYTES;
    return used_bytes > nvs_pool.wish_bytes ? used_bytes : nvs_pool.wish_bytes;
}

uint64_t nvs_pool_kept_wish_bytes(void) {
    uint64_t bytes =
        nvs_pool_needed_bytes() > nvs_pool.reserve_bytes ? nvs_pool_needed_bytes() : nvs_pool.reserve_bytes;
    return (bytes + NVS_POOL_SEGMENT_BYTES - 1) / NVS_POOL_SEGMENT_BYTES * NVS_POOL_SEGMENT_BYTES;
}

struct timespec nvs_pool_time_in(uint64_t pause_ns) {
    uint64_t then_ns = nvs_clock_ns() + pause_ns;
    return (struct timespec){(time_t)(then_ns / NVS_NS_PER_SECOND), (long)(then_ns % NVS_NS_PER_SECOND)};
}

// Asks an arena to keep what is needed: when that changed, and each second, to know its room and that its relay lives.
static void keep_room(void) {
    if (!nvs_segment_from_arena() || atomic_load(&nvs_pool.leaving))
        return;
    uint64_t now_ns = nvs_clock_ns();
    pthread_mutex_lock(&nvs_pool.lock);
    uint64_t wish_bytes = nvs_pool_kept_wish_bytes();
    struct nvs_segment_room kept = nvs_pool.kept;
    bool due = nvs_pool.ask || wish_bytes != nvs_pool.asked_bytes || now_ns - nvs_pool.asked_ns >= ROOM_AGE_NS;
    nvs_pool.ask = false;
    pthread_mutex_unlock(&nvs_pool.lock);
    if (!due)
        return;
    bool answered = nvs_segment_keep(wish_bytes, &kept);
    if (!answered)
        nvs_log_once(NVS_LOG_WARN, "the relay, which has the node arena, is away; trying again each second");
    pthread_mutex_lock(&nvs_pool.lock);
    nvs_pool.kept = kept;
    nvs_pool.asked_bytes = wish_bytes;
    nvs_pool.asked_ns = now_ns;
    nvs_pool.answers++;
    pthread_cond_broadcast(&nvs_pool.changed);
    pthread_mutex_unlock(&nvs_pool.lock);
}

// Registers one segment that is not yet. True: there was one.
static bool register_one(void) {
    pthread_mutex_lock(&nvs_pool.registering);
    pthread_mutex_lock(&nvs_pool.lock);
    CUcontext context = nvs_pool.slots.context;
    struct nvs_slots_segment *segment = nvs_slots_unregistered(&nvs_pool.slots);
    pthread_mutex_unlock(&nvs_pool.lock);
    if (segment == NULL || atomic_load(&nvs_pool.leaving)) {
        pthread_mutex_unlock(&nvs_pool.registering);
        return false;
    }
    CUresult result = nvs_host_pin(context, segment->memory.address, segment->memory.bytes);
    if (result != CUDA_SUCCESS)
        nvs_log_once(NVS_LOG_WARN,
                     "host memory cannot be registered with the driver (error %d): memory moves more slowly",
                     (int)result);
    pthread_mutex_lock(&nvs_pool.lock);
    segment->context = result == CUDA_SUCCESS ? context : NULL;
    segment->unpinned = result != CUDA_SUCCESS;
    pthread_cond_broadcast(&nvs_pool.changed);
    pthread_mutex_unlock(&nvs_pool.lock);
    pthread_mutex_unlock(&nvs_pool.registering);
    return true;
}

static int numa_node(void) {
    pthread_mutex_lock(&nvs_pool.registering);
    pthread_mutex_lock(&nvs_pool.lock);
    CUcontext context = nvs_pool.slots.context;
    pthread_mutex_unlock(&nvs_pool.lock);
    int node = context != NULL && !atomic_load(&nvs_pool.leaving) ? nvs_host_pin_numa_node(context) : NVS_NUMA_UNKNOWN;
    pthread_mutex_unlock(&nvs_pool.registering);
    return node;
}

// How large the next segment is: what is missing, or of an arena what is left of what it keeps for us.
static uint64_t piece_bytes(uint64_t missing_bytes, uint64_t left_bytes) {
    uint64_t bytes = nvs_pool_slots(missing_bytes) * NVS_POOL_SLOT_BYTES;
    if (bytes > NVS_POOL_SEGMENT_BYTES)
        bytes = NVS_POOL_SEGMENT_BYTES;
    if (nvs_segment_from_arena() && left_bytes >= NVS_POOL_SLOT_BYTES && left_bytes < bytes)
        bytes = left_bytes / NVS_POOL_SLOT_BYTES * NVS_POOL_SLOT_BYTES;
    return bytes;
}

// What those who wait need beyond what there is, of one segment. Caller holds the lock.
static uint64_t least_bytes(void) {
    uint64_t wanted_bytes = (nvs_pool.slots.used + nvs_pool.waiting_slots) * NVS_POOL_SLOT_BYTES;
    uint64_t bytes = wanted_bytes > nvs_pool.slots.bytes ? wanted_bytes - nvs_pool.slots.bytes : 0;
    return bytes < NVS_POOL_SEGMENT_BYTES ? bytes : NVS_POOL_SEGMENT_BYTES;
}

// Makes one segment if there are too few. True: there may still be too few.
static bool grow_one(void) {
    pthread_mutex_lock(&nvs_pool.lock);
    uint64_t missing_bytes =
        nvs_pool_needed_bytes() > nvs_pool.slots.bytes ? nvs_pool_needed_bytes() - nvs_pool.slots.bytes : 0;
    bool wait = nvs_pool.waiting_slots == 0 && nvs_clock_ns() < nvs_pool.try_again_ns;
    uint64_t least = least_bytes();
    bool full = nvs_pool.slots.segment_count == NVS_SLOTS_SEGMENTS_MAX;
    struct nvs_segment_room kept = nvs_pool.kept;
    bool outdated = nvs_segment_from_arena() && nvs_pool_kept_wish_bytes() != nvs_pool.asked_bytes;
    uint64_t left_bytes = kept.kept_bytes > nvs_pool.slots.bytes ? kept.kept_bytes - nvs_pool.slots.bytes : 0;
    pthread_mutex_unlock(&nvs_pool.lock);
    if (missing_bytes == 0 || wait || atomic_load(&nvs_pool.leaving))
        return false;
    if (outdated) // more is needed than room was asked for
        return true;
    uint64_t bytes = piece_bytes(missing_bytes, left_bytes);
    struct nvs_segment memory;
    char reason[NVS_POOL_REASON_SIZE] = "the pool has as many segments as it can have";
    int node = numa_node();
    bool made = !full && nvs_segment_make(bytes, node, &memory, &kept, reason);
    if (!made && !full && least > 0 && least < bytes) // who waits needs less than was wished
        made = nvs_segment_make(least, node, &memory, &kept, reason);
    pthread_mutex_lock(&nvs_pool.lock);
    nvs_pool.kept = kept;
    if (made) {
        (void)nvs_slots_add(&nvs_pool.slots, &memory); // it is not full, and grows here alone
        nvs_pool.room_ns = 0;
    } else {
        nvs_pool.failures++;
        memcpy(nvs_pool.failure, reason, sizeof nvs_pool.failure);
        nvs_pool.try_again_ns = nvs_clock_ns() + TRY_AGAIN_NS;
    }
    pthread_cond_broadcast(&nvs_pool.changed);
    pthread_mutex_unlock(&nvs_pool.lock);
    if (!made)
        nvs_log_once(NVS_LOG_INFO, "the pool of host memory cannot grow: %s", reason);
    return made;
}

// A segment that nobody needs for long enough; NULL: none.
static struct nvs_slots_segment *choose_excess(uint64_t now_ns) {
    struct nvs_slots_segment *segment = nvs_slots_excess(&nvs_pool.slots, nvs_pool_needed_bytes());
    if (segment == NULL)
        nvs_pool.excess_ns = 0;
    else if (nvs_pool.excess_ns == 0)
        nvs_pool.excess_ns = now_ns + KEEP_NS;
    return segment != NULL && now_ns >= nvs_pool.excess_ns ? segment : NULL;
}

// Gives one segment back if there are too many. True: there were.
static bool shrink_one(void) {
    pthread_mutex_lock(&nvs_pool.registering);
    pthread_mutex_lock(&nvs_pool.lock);
    uint64_t now_ns = nvs_clock_ns();
    struct nvs_slots_segment *segment = atomic_load(&nvs_pool.leaving) ? NULL : choose_excess(now_ns);
    if (segment != NULL) {
        nvs_slots_close(&nvs_pool.slots, segment);
        nvs_pool.excess_ns = now_ns + GIVE_BACK_NS;
    }
    pthread_mutex_unlock(&nvs_pool.lock);
    if (segment != NULL && segment->context != NULL)
        nvs_host_unpin(segment->context, segment->memory.address);
    pthread_mutex_unlock(&nvs_pool.registering);
    if (segment == NULL)
        return false;
    nvs_segment_give(&segment->memory);
    pthread_mutex_lock(&nvs_pool.lock);
    nvs_slots_remove(&nvs_pool.slots, segment);
    nvs_pool.room_ns = 0;
    pthread_mutex_unlock(&nvs_pool.lock);
    return true;
}

// Says once that all that is wished is ready: who waits for it need not wait for the next report.
static void tell_when_ready(void) {
    pthread_mutex_lock(&nvs_pool.lock);
    uint64_t wish_bytes = nvs_pool.wish_bytes;
    bool is_ready = wish_bytes > 0 && nvs_slots_ready_bytes(&nvs_pool.slots) >= wish_bytes;
    bool tells = is_ready && nvs_pool.told_bytes != wish_bytes;
    nvs_pool.told_bytes = is_ready ? wish_bytes : 0;
    void (*ready)(void) = nvs_pool.ready;
    pthread_mutex_unlock(&nvs_pool.lock);
    if (tells && ready != NULL && !atomic_load(&nvs_pool.leaving))
        ready();
}

// Until there may be something to do. Each second when growing failed, or something is to be given back.
static void wait_for_work(void) {
    struct timespec until = nvs_pool_time_in(TRY_AGAIN_NS);
    bool from_arena = nvs_segment_from_arena();
    pthread_mutex_lock(&nvs_pool.lock);
    bool idle = nvs_pool_needed_bytes() <= nvs_pool.slots.bytes && nvs_pool.excess_ns == 0 && !from_arena;
    int error = 0;
    while (!nvs_pool.woken && error == 0)
        error = idle ? pthread_cond_wait(&nvs_pool.work, &nvs_pool.lock)
                     : pthread_cond_timedwait(&nvs_pool.work, &nvs_pool.lock, &until);
    nvs_pool.woken = false;
    pthread_mutex_unlock(&nvs_pool.lock);
}

void *nvs_pool_run(void *unused) {
    (void)unused;
    prctl(PR_SET_NAME, "nvshare-pool");
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED; // registering must not end a capture of the program
    if (nvs_real.cuThreadExchangeStreamCaptureMode != NULL)
        (void)nvs_real.cuThreadExchangeStreamCaptureMode(&mode);
    while (!atomic_load(&nvs_pool.leaving)) {
        keep_room();
        tell_when_ready();
        if (!register_one() && !grow_one() && !shrink_one())
            wait_for_work();
    }
    return NULL;
}
