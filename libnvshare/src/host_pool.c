#include "background.h"
#include "clock.h"
#include "host_pool_state.h"
#include "log.h"
#include "node_arena.h"

#include <stdio.h>
#include <string.h>

#define LEAVE_WITHIN_NS (100 * NVS_NS_PER_MS)
#define ROOM_AGE_NS NVS_NS_PER_SECOND
#define ANSWER_WITHIN_NS (200 * NVS_NS_PER_MS) // of the arena, for those who wait for it

_Static_assert(NVS_POOL_REASON_SIZE == NVS_SEGMENT_REASON_SIZE, "a segment's reason is the pool's");

struct nvs_pool_state nvs_pool = {.registering = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER};
static pthread_once_t conditions_once = PTHREAD_ONCE_INIT;

static void make_conditions(void) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&nvs_pool.work, &attributes);
    pthread_cond_init(&nvs_pool.changed, &attributes);
    pthread_condattr_destroy(&attributes);
}

// With the lock held.
static void wake(void) {
    if (!nvs_pool.started) {
        int error = nvs_background_start(nvs_pool_run, NULL);
        nvs_pool.started = error == 0;
        if (error != 0)
            nvs_log_once(NVS_LOG_ERROR, "cannot start the thread of the host memory pool: %s", strerror(error));
    }
    nvs_pool.woken = true;
    pthread_cond_signal(&nvs_pool.work);
}

// Asks the arena anew and waits for its answer. With the lock held.
static void ask_and_wait(void) {
    struct timespec until = nvs_pool_time_in(ANSWER_WITHIN_NS);
    uint64_t answers = nvs_pool.answers;
    nvs_pool.ask = true;
    wake();
    int error = 0;
    while (nvs_pool.started && (nvs_pool.ask || nvs_pool.answers == answers) && !atomic_load(&nvs_pool.leaving) &&
           error == 0)
        error = pthread_cond_timedwait(&nvs_pool.changed, &nvs_pool.lock, &until);
}

void nvs_pool_start(void (*ready)(void)) {
    pthread_once(&conditions_once, make_conditions);
    pthread_mutex_lock(&nvs_pool.lock);
    nvs_pool.ready = ready;
    pthread_mutex_unlock(&nvs_pool.lock);
    if (!nvs_segment_from_arena())
        return;
    pthread_mutex_lock(&nvs_pool.lock);
    if (nvs_pool.asked_ns == 0)
        ask_and_wait();
    pthread_mutex_unlock(&nvs_pool.lock);
}

void nvs_pool_prepare(CUcontext context, uint64_t bytes) {
    pthread_once(&conditions_once, make_conditions);
    pthread_mutex_lock(&nvs_pool.lock);
    nvs_slots_use_context(&nvs_pool.slots, context);
    nvs_pool.wish_bytes = bytes;
    if (bytes != 0 || nvs_pool.started)
        wake();
    pthread_mutex_unlock(&nvs_pool.lock);
}

bool nvs_pool_take(CUcontext context, size_t count, void **slots, char reason[NVS_POOL_REASON_SIZE]) {
    pthread_once(&conditions_once, make_conditions);
    pthread_mutex_lock(&nvs_pool.lock);
    nvs_slots_use_context(&nvs_pool.slots, context);
    nvs_pool.waiting_slots += count;
    uint64_t failures = nvs_pool.failures;
    while (nvs_slots_free(&nvs_pool.slots) < count && nvs_pool.failures == failures &&
           !atomic_load(&nvs_pool.leaving)) {
        wake();
        if (!nvs_pool.started) {
            snprintf(nvs_pool.failure, sizeof nvs_pool.failure,
                     "the thread that makes host memory ready cannot be started");
            break;
        }
        pthread_cond_wait(&nvs_pool.changed, &nvs_pool.lock);
    }
    nvs_pool.waiting_slots -= count;
    bool taken = nvs_slots_free(&nvs_pool.slots) >= count;
    if (taken)
        nvs_slots_hand_out(&nvs_pool.slots, count, slots);
    else
        snprintf(reason, NVS_POOL_REASON_SIZE, "%s",
                 atomic_load(&nvs_pool.leaving) ? "the program ends" : nvs_pool.failure);
    pthread_mutex_unlock(&nvs_pool.lock);
    return taken;
}

void nvs_pool_give(size_t count, void *const *slots) {
    pthread_mutex_lock(&nvs_pool.lock);
    nvs_slots_take_back(&nvs_pool.slots, count, slots);
    if (nvs_pool.started)
        wake(); // there may be too much now
    if (nvs_pool.waiting_slots != 0)
        pthread_cond_broadcast(&nvs_pool.changed);
    pthread_mutex_unlock(&nvs_pool.lock);
}

// Of own memory: read again when it is too old.
static uint64_t own_room_bytes(void) {
    uint64_t now_ns = nvs_clock_ns();
    pthread_mutex_lock(&nvs_pool.lock);
    bool is_old = nvs_pool.room_ns == 0 || now_ns - nvs_pool.room_ns >= ROOM_AGE_NS;
    pthread_mutex_unlock(&nvs_pool.lock);
    uint64_t room_bytes = is_old ? nvs_segment_room_bytes() : 0;
    pthread_mutex_lock(&nvs_pool.lock);
    if (is_old) {
        nvs_pool.room_bytes = room_bytes;
        nvs_pool.room_ns = now_ns;
    }
    room_bytes = nvs_pool.slots.bytes + nvs_pool.room_bytes;
    pthread_mutex_unlock(&nvs_pool.lock);
    return room_bytes;
}

static uint64_t arena_room_bytes(void) {
    pthread_once(&conditions_once, make_conditions);
    pthread_mutex_lock(&nvs_pool.lock);
    if (!nvs_pool.started)
        wake();
    uint64_t room_bytes = nvs_pool.kept.kept_bytes + nvs_pool.kept.free_bytes;
    if (room_bytes < nvs_pool.slots.bytes)
        room_bytes = nvs_pool.slots.bytes;
    pthread_mutex_unlock(&nvs_pool.lock);
    return room_bytes;
}

uint64_t nvs_pool_room_bytes(void) {
    return nvs_segment_from_arena() ? arena_room_bytes() : own_room_bytes();
}

uint64_t nvs_pool_ready_bytes(void) {
    pthread_mutex_lock(&nvs_pool.lock);
    uint64_t bytes = nvs_slots_ready_bytes(&nvs_pool.slots);
    pthread_mutex_unlock(&nvs_pool.lock);
    return bytes;
}

uint64_t nvs_pool_reserve(uint64_t bytes) {
    pthread_once(&conditions_once, make_conditions);
    if (!nvs_segment_from_arena())
        return own_room_bytes();
    pthread_mutex_lock(&nvs_pool.lock);
    nvs_pool.reserve_bytes = bytes;
    if (nvs_pool_kept_wish_bytes() != nvs_pool.asked_bytes || nvs_pool.kept.kept_bytes < bytes)
        ask_and_wait();
    uint64_t kept_bytes = nvs_pool.kept.kept_bytes;
    pthread_mutex_unlock(&nvs_pool.lock);
    return kept_bytes;
}

void nvs_pool_reserve_less(uint64_t from_bytes, uint64_t to_bytes) {
    pthread_once(&conditions_once, make_conditions);
    pthread_mutex_lock(&nvs_pool.lock);
    if (nvs_pool.reserve_bytes == from_bytes) {
        nvs_pool.reserve_bytes = to_bytes;
        if (nvs_pool.started)
            wake();
    }
    pthread_mutex_unlock(&nvs_pool.lock);
}

void nvs_pool_context_hold(void) {
    pthread_mutex_lock(&nvs_pool.registering);
}

void nvs_pool_context_release(CUcontext context, bool ended) {
    pthread_mutex_lock(&nvs_pool.lock);
    if (ended)
        nvs_slots_context_ended(&nvs_pool.slots, context);
    pthread_mutex_unlock(&nvs_pool.lock);
    pthread_mutex_unlock(&nvs_pool.registering);
}

void nvs_pool_leave(void) {
    pthread_once(&conditions_once, make_conditions);
    pthread_mutex_lock(&nvs_pool.lock);
    atomic_store(&nvs_pool.leaving, true);
    nvs_pool.woken = true;
    pthread_cond_broadcast(&nvs_pool.work);
    pthread_cond_broadcast(&nvs_pool.changed);
    pthread_mutex_unlock(&nvs_pool.lock);
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until); // what pthread_mutex_timedlock counts in
    until.tv_nsec += (long)LEAVE_WITHIN_NS;
    until.tv_sec += until.tv_nsec / (long)NVS_NS_PER_SECOND;
    until.tv_nsec %= (long)NVS_NS_PER_SECOND;
    if (pthread_mutex_timedlock(&nvs_pool.registering, &until) == 0)
        pthread_mutex_unlock(&nvs_pool.registering);
}

// ---- Fork

void nvs_pool_atfork_prepare(void) {
    nvs_arena_atfork_prepare();
    pthread_mutex_lock(&nvs_pool.lock);
}

void nvs_pool_atfork_parent(void) {
    pthread_mutex_unlock(&nvs_pool.lock);
    nvs_arena_atfork_parent();
}

void nvs_pool_atfork_child(void) {
    nvs_segment_atfork_child();
    nvs_pool.started = false;
    nvs_pool.woken = false;
    nvs_slots_clear(&nvs_pool.slots);
    nvs_pool.waiting_slots = 0;
    nvs_pool.wish_bytes = 0;
    nvs_pool.told_bytes = 0;
    nvs_pool.excess_ns = 0;
    nvs_pool.room_ns = 0;
    nvs_pool.kept = (struct nvs_segment_room){0, 0};
    nvs_pool.reserve_bytes = 0;
    nvs_pool.asked_bytes = 0;
    nvs_pool.asked_ns = 0;
    nvs_pool.ask = false;
    pthread_mutex_init(&nvs_pool.registering, NULL);
    pthread_mutex_init(&nvs_pool.lock, NULL);
    make_conditions();
}
