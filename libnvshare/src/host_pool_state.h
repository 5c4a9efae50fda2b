// What the pool's thread (host_grow.c) and those who use the pool (host_pool.c) share. The order of the locks is in
// host_pool.h.
#ifndef NVS_HOST_POOL_STATE_H
#define NVS_HOST_POOL_STATE_H

#include "host_pool.h"
#include "host_segment.h"
#include "host_slots.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct nvs_pool_state {
    pthread_mutex_t registering;
    pthread_mutex_t lock;
    pthread_cond_t work;    // for the pool's thread
    pthread_cond_t changed; // for those who wait for it
    atomic_bool leaving;
    // Under `lock`. Segments are added and removed by the pool's thread alone, so it may look at theirs without.
    bool started;
    bool woken; // the thread has not looked since
    struct nvs_slots slots;
    size_t waiting_slots; // that threads wait for
    uint64_t wish_bytes;
    void (*ready)(void); // told when that much is; NULL: nobody is to be
    uint64_t told_bytes; // the wish that it was told of last; 0: that is no more ready
    uint64_t failures;   // times that growing failed
    char failure[NVS_POOL_REASON_SIZE];
    uint64_t try_again_ns; // not before, unless somebody waits
    uint64_t excess_ns;    // when what is more than wished goes, or the next part of it; 0: there is none
    uint64_t room_bytes;   // beside the segments, at
    uint64_t room_ns;      // 0: never asked
    // Of an arena:
    struct nvs_segment_room kept;
    uint64_t reserve_bytes; // wish of nvs_pool_reserve()
    uint64_t asked_bytes;   // last, at
    uint64_t asked_ns;      // 0: never
    uint64_t answers;       // or failures to get one
    bool ask;               // somebody waits for an answer to a question that is not asked yet
};

extern struct nvs_pool_state nvs_pool;

// The pool's thread.
void *nvs_pool_run(void *unused);

// What the pool should have in all. Caller holds the lock.
uint64_t nvs_pool_needed_bytes(void);

// What an arena is to keep, in steps, so that the report's figure is there before it is needed. Caller holds the lock.
uint64_t nvs_pool_kept_wish_bytes(void);

// So long from now, for the conditions.
struct timespec nvs_pool_time_in(uint64_t pause_ns);

#endif
