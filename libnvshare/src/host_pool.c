#include "host_pool.h"

#include "background.h"
#include "clock.h"
#include "host_memory.h"
#include "host_pin.h"
#include "host_segment.h"
#include "host_slots.h"
#include "log.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#define TRY_AGAIN_NS NVS_NS_PER_SECOND       // after growing failed, while nobody waits for it
#define KEEP_NS (5 * NVS_NS_PER_SECOND)      // what is more than wished is kept so long
#define GIVE_BACK_NS (NVS_NS_PER_SECOND / 2) // and then leaves one segment at a time
#define LEAVE_WITHIN_NS (100 * NVS_NS_PER_MS)
#define ROOM_AGE_NS NVS_NS_PER_SECOND

_Static_assert(NVS_POOL_REASON_SIZE == NVS_SEGMENT_REASON_SIZE, "a segment's reason is the pool's");

static pthread_mutex_t registering = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work;    // for the pool's thread
static pthread_cond_t changed; // for those who wait for it
static pthread_once_t conditions_once = PTHREAD_ONCE_INIT;
static atomic_bool leaving;

// Under `lock`. Segments are added and removed by the pool's thread alone, so it may look at theirs without.
static struct {
    bool started;
    bool woken; // the thread has not looked since
    struct nvs_slots slots;
    size_t waiting_slots; // that threads wait for
    uint64_t wish_bytes;
    uint64_t failures; // times that growing failed
    char failure[NVS_POOL_REASON_SIZE];
    uint64_t try_again_ns; // not before, unless somebody waits
    uint64_t excess_ns;    // when what is more than wished goes, or the next part of it; 0: there is none
    uint64_t room_bytes;   // beside the segments, at
    uint64_t room_ns;      // 0: never asked
} pool;

static void make_conditions(void) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&work, &attributes);
    pthread_cond_init(&changed, &attributes);
    pthread_condattr_destroy(&attributes);
}

static uint64_t needed_bytes(void) {
    uint64_t used_bytes = (pool.slots.used + pool.waiting_slots) * NVS_POOL_SLOT_BYTES;
    return used_bytes > pool.wish_bytes ? used_bytes : pool.wish_bytes;
}

// ---- The pool's thread

// Registers one segment that is not yet. True: there was one.
static bool register_one(void) {
    pthread_mutex_lock(&registering);
    pthread_mutex_lock(&lock);
    CUcontext context = pool.slots.context;
    struct nvs_slots_segment *segment = nvs_slots_unregistered(&pool.slots);
    pthread_mutex_unlock(&lock);
    if (segment == NULL || atomic_load(&leaving)) {
        pthread_mutex_unlock(&registering);
        return false;
    }
    CUresult result = nvs_host_pin(context, segment->memory.address, segment->memory.bytes);
    if (result != CUDA_SUCCESS)
        nvs_log_once(NVS_LOG_WARN,
                     "host memory cannot be registered with the driver (error %d): memory moves more slowly",
                     (int)result);
    pthread_mutex_lock(&lock);
    segment->context = result == CUDA_SUCCESS ? context : NULL;
    segment->unpinned = result != CUDA_SUCCESS;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&registering);
    return true;
}

static int numa_node(void) {
    pthread_mutex_lock(&registering);
    pthread_mutex_lock(&lock);
    CUcontext context = pool.slots.context;
    pthread_mutex_unlock(&lock);
    int node = context != NULL && !atomic_load(&leaving) ? nvs_host_pin_numa_node(context) : NVS_NUMA_UNKNOWN;
    pthread_mutex_unlock(&registering);
    return node;
}

// Makes one segment if there are too few. True: there were, and one was made.
static bool grow_one(void) {
    pthread_mutex_lock(&lock);
    uint64_t missing_bytes = needed_bytes() > pool.slots.bytes ? needed_bytes() - pool.slots.bytes : 0;
    bool wait = pool.waiting_slots == 0 && nvs_clock_ns() < pool.try_again_ns;
    bool full = pool.slots.segment_count == NVS_SLOTS_SEGMENTS_MAX;
    pthread_mutex_unlock(&lock);
    if (missing_bytes == 0 || wait || atomic_load(&leaving))
        return false;
    uint64_t bytes = nvs_pool_slots(missing_bytes) * NVS_POOL_SLOT_BYTES;
    if (bytes > NVS_POOL_SEGMENT_BYTES)
        bytes = NVS_POOL_SEGMENT_BYTES;
    struct nvs_segment memory;
    char reason[NVS_POOL_REASON_SIZE] = "the pool has as many segments as it can have";
    bool made = !full && nvs_segment_make(bytes, numa_node(), &memory, reason);
    pthread_mutex_lock(&lock);
    if (made) {
        (void)nvs_slots_add(&pool.slots, &memory); // it is not full, and grows here alone
        pool.room_ns = 0;
    } else {
        pool.failures++;
        memcpy(pool.failure, reason, sizeof pool.failure);
        pool.try_again_ns = nvs_clock_ns() + TRY_AGAIN_NS;
    }
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    if (!made)
        nvs_log_once(NVS_LOG_INFO, "the pool of host memory cannot grow: %s", reason);
    return made;
}

// A segment that nobody needs for long enough; NULL: none.
static struct nvs_slots_segment *choose_excess(uint64_t now_ns) {
    struct nvs_slots_segment *segment = nvs_slots_excess(&pool.slots, needed_bytes());
    if (segment == NULL)
        pool.excess_ns = 0;
    else if (pool.excess_ns == 0)
        pool.excess_ns = now_ns + KEEP_NS;
    return segment != NULL && now_ns >= pool.excess_ns ? segment : NULL;
}

// Gives one segment back if there are too many. True: there were.
static bool shrink_one(void) {
    pthread_mutex_lock(&registering);
    pthread_mutex_lock(&lock);
    uint64_t now_ns = nvs_clock_ns();
    struct nvs_slots_segment *segment = atomic_load(&leaving) ? NULL : choose_excess(now_ns);
    if (segment != NULL) {
        nvs_slots_close(&pool.slots, segment);
        pool.excess_ns = now_ns + GIVE_BACK_NS;
    }
    pthread_mutex_unlock(&lock);
    if (segment != NULL && segment->context != NULL)
        nvs_host_unpin(segment->context, segment->memory.address);
    pthread_mutex_unlock(&registering);
    if (segment == NULL)
        return false;
    nvs_segment_give(&segment->memory);
    pthread_mutex_lock(&lock);
    nvs_slots_remove(&pool.slots, segment);
    pool.room_ns = 0;
    pthread_mutex_unlock(&lock);
    return true;
}

// Until there may be something to do. Each second when growing failed, or something is to be given back.
static void wait_for_work(void) {
    uint64_t until_ns = nvs_clock_ns() + TRY_AGAIN_NS;
    struct timespec until = {(time_t)(until_ns / NVS_NS_PER_SECOND), (long)(until_ns % NVS_NS_PER_SECOND)};
    pthread_mutex_lock(&lock);
    bool idle = needed_bytes() <= pool.slots.bytes && pool.excess_ns == 0;
    int error = 0;
    while (!pool.woken && error == 0)
        error = idle ? pthread_cond_wait(&work, &lock) : pthread_cond_timedwait(&work, &lock, &until);
    pool.woken = false;
    pthread_mutex_unlock(&lock);
}

static void *run(void *unused) {
    (void)unused;
    prctl(PR_SET_NAME, "nvshare-pool");
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED; // registering must not end a capture of the program
    if (nvs_real.cuThreadExchangeStreamCaptureMode != NULL)
        (void)nvs_real.cuThreadExchangeStreamCaptureMode(&mode);
    while (!atomic_load(&leaving))
        if (!register_one() && !grow_one() && !shrink_one())
            wait_for_work();
    return NULL;
}

// ---- What other threads call

// With the lock held.
static void wake(void) {
    if (!pool.started) {
        int error = nvs_background_start(run, NULL);
        pool.started = error == 0;
        if (error != 0)
            nvs_log_once(NVS_LOG_ERROR, "cannot start the thread of the host memory pool: %s", strerror(error));
    }
    pool.woken = true;
    pthread_cond_signal(&work);
}

void nvs_pool_start(void) {
    pthread_once(&conditions_once, make_conditions);
}

void nvs_pool_prepare(CUcontext context, uint64_t bytes) {
    pthread_once(&conditions_once, make_conditions);
    pthread_mutex_lock(&lock);
    nvs_slots_use_context(&pool.slots, context);
    pool.wish_bytes = bytes;
    if (bytes != 0 || pool.started)
        wake();
    pthread_mutex_unlock(&lock);
}

bool nvs_pool_take(CUcontext context, size_t count, void **slots, char reason[NVS_POOL_REASON_SIZE]) {
    pthread_once(&conditions_once, make_conditions);
    pthread_mutex_lock(&lock);
    nvs_slots_use_context(&pool.slots, context);
    pool.waiting_slots += count;
    uint64_t failures = pool.failures;
    while (nvs_slots_free(&pool.slots) < count && pool.failures == failures && !atomic_load(&leaving)) {
        wake();
        if (!pool.started) {
            snprintf(pool.failure, sizeof pool.failure, "the thread that makes host memory ready cannot be started");
            break;
        }
        pthread_cond_wait(&changed, &lock);
    }
    pool.waiting_slots -= count;
    bool taken = nvs_slots_free(&pool.slots) >= count;
    if (taken)
        nvs_slots_hand_out(&pool.slots, count, slots);
    else
        snprintf(reason, NVS_POOL_REASON_SIZE, "%s", atomic_load(&leaving) ? "the program ends" : pool.failure);
    pthread_mutex_unlock(&lock);
    return taken;
}

void nvs_pool_give(size_t count, void *const *slots) {
    pthread_mutex_lock(&lock);
    nvs_slots_take_back(&pool.slots, count, slots);
    if (pool.started)
        wake(); // there may be too much now
    if (pool.waiting_slots != 0)
        pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

uint64_t nvs_pool_room_bytes(void) {
    uint64_t now_ns = nvs_clock_ns();
    pthread_mutex_lock(&lock);
    bool is_old = pool.room_ns == 0 || now_ns - pool.room_ns >= ROOM_AGE_NS;
    pthread_mutex_unlock(&lock);
    uint64_t room_bytes = is_old ? nvs_segment_room_bytes() : 0;
    pthread_mutex_lock(&lock);
    if (is_old) {
        pool.room_bytes = room_bytes;
        pool.room_ns = now_ns;
    }
    room_bytes = pool.slots.bytes + pool.room_bytes;
    pthread_mutex_unlock(&lock);
    return room_bytes;
}

uint64_t nvs_pool_ready_bytes(void) {
    pthread_mutex_lock(&lock);
    uint64_t bytes = nvs_slots_ready_bytes(&pool.slots);
    pthread_mutex_unlock(&lock);
    return bytes;
}

uint64_t nvs_pool_reserve(uint64_t bytes) {
    (void)bytes;
    return nvs_pool_room_bytes();
}

void nvs_pool_context_hold(void) {
    pthread_mutex_lock(&registering);
}

void nvs_pool_context_release(CUcontext context, bool ended) {
    pthread_mutex_lock(&lock);
    if (ended)
        nvs_slots_context_ended(&pool.slots, context);
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&registering);
}

void nvs_pool_leave(void) {
    pthread_once(&conditions_once, make_conditions);
    pthread_mutex_lock(&lock);
    atomic_store(&leaving, true);
    pool.woken = true;
    pthread_cond_broadcast(&work);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until); // what pthread_mutex_timedlock counts in
    until.tv_nsec += (long)LEAVE_WITHIN_NS;
    until.tv_sec += until.tv_nsec / (long)NVS_NS_PER_SECOND;
    until.tv_nsec %= (long)NVS_NS_PER_SECOND;
    if (pthread_mutex_timedlock(&registering, &until) == 0)
        pthread_mutex_unlock(&registering);
}

// ---- Fork

void nvs_pool_atfork_prepare(void) {
    pthread_mutex_lock(&lock);
}

void nvs_pool_atfork_parent(void) {
    pthread_mutex_unlock(&lock);
}

void nvs_pool_atfork_child(void) {
    pool.started = false;
    pool.woken = false;
    nvs_slots_clear(&pool.slots);
    pool.waiting_slots = 0;
    pool.wish_bytes = 0;
    pool.excess_ns = 0;
    pool.room_ns = 0;
    pthread_mutex_init(&registering, NULL);
    pthread_mutex_init(&lock, NULL);
    make_conditions();
}
