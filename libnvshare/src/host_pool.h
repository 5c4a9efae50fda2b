// Pinned host memory that memory of the card is moved to: one pool for the process and all its devices.
//
// Memory comes in *segments* of up to 256 MiB, from the process's own memory or from the node arena that the relay owns
// (NVSHARE_HOST_MEMORY). Each is faulted in by several threads and registered with the driver as one piece, for all
// contexts, then kept and reused: nothing is made or pinned while memory moves.
//
// It is handed out in *slots* of 16 MiB. Extents are cut anew when they come back to the card, so what one of them gave
// back must fit every other: equal pieces never become fragments. A copy of 16 MiB takes 0.3 ms, beside which a call of
// the driver is nothing; an extent loses half a slot on average, and extents have 64 MiB and more.
//
// A thread of the pool's own makes and registers segments in the background and speaks with the arena. It starts at
// first use, and no other thread waits for it but in nvs_pool_take() and nvs_pool_reserve().
//
// Memory that cannot be registered is handed out all the same: copies are slower then, and one line says so.
//
// Locks, in this order: `registering` is held while the pool's thread is in the driver, and from
// nvs_pool_context_hold() to nvs_pool_context_release(); `descriptors` while it opens or closes one; `lock` covers
// everything else, and is never held over a call of the driver or one that takes long.
#ifndef NVS_HOST_POOL_H
#define NVS_HOST_POOL_H

#include "driver.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NVS_POOL_SLOT_BYTES ((uint64_t)16 << 20)
#define NVS_POOL_SEGMENT_BYTES ((uint64_t)256 << 20)
#define NVS_POOL_REASON_SIZE 200

// Slots that hold so many bytes.
static inline size_t nvs_pool_slots(uint64_t bytes) {
    return (size_t)((bytes + NVS_POOL_SLOT_BYTES - 1) / NVS_POOL_SLOT_BYTES);
}

// Before the first report of a device: starts the thread where there is a node arena, and waits at most 200 ms for its
// first word, so that the report knows of it. Cheap afterwards, and without an arena. From now on `ready`, always the
// same, is called by the pool's thread, with no lock held, when all that is wished has become ready, once for each
// wish.
void nvs_pool_start(void (*ready)(void));

// Wishes that the pool has `bytes` in all, handed out or free, for all devices together. Grows in the background; what
// it has beyond a lower wish it keeps for five seconds, then gives back piece by piece. Never waits. `context`: any
// that lives, to register in; NULL: the one of before.
void nvs_pool_prepare(CUcontext context, uint64_t bytes);

// Takes `count` slots of NVS_POOL_SLOT_BYTES each, neighbours where it can, or none. Grows the pool where it must, and
// waits for that: a second for each four GiB or so. False: no more can be had, and `reason` says why in one sentence.
// Never on the control thread.
bool nvs_pool_take(CUcontext context, size_t count, void **slots, char reason[NVS_POOL_REASON_SIZE]);

// Gives slots back. Never waits.
void nvs_pool_give(size_t count, void *const *slots);

// Bytes that this process could hold in all: what the pool has, and what could still be had. At most a second old. Of
// an arena: what is reserved for this process, and what nobody has reserved yet.
uint64_t nvs_pool_room_bytes(void);

// Bytes that the pool has: made, pinned where possible, handed out or free.
uint64_t nvs_pool_ready_bytes(void);

// Asks that room for `bytes` in all be kept for this process, and waits at most 200 ms for the answer of the arena.
// Returns what is kept for it now, which may be less. Own memory cannot be kept: then it is nvs_pool_room_bytes(). A
// lower wish gives back what no segment was made of. Never on the control thread.
uint64_t nvs_pool_reserve(uint64_t bytes);

// Lowers that wish, if it still is `from_bytes`. Never waits.
void nvs_pool_reserve_less(uint64_t from_bytes, uint64_t to_bytes);

// Around the end of a context: nothing is registered in between. `ended`: what was registered in it is registered anew,
// in the next context that nvs_pool_prepare() or nvs_pool_take() names.
void nvs_pool_context_hold(void);
void nvs_pool_context_release(CUcontext context, bool ended);

// The process ends: the thread calls the driver no more. Waits at most 100 ms for the call that it is in.
void nvs_pool_leave(void);

// Handlers for pthread_atfork(). The child has an empty pool: the memory did not come with it.
void nvs_pool_atfork_prepare(void);
void nvs_pool_atfork_parent(void);
void nvs_pool_atfork_child(void);

#endif
