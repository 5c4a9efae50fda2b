/* One engine of an emulated card (compute, or a copy direction) as a discrete-event simulation.
 *
 * Every client (process) has a first-in first-out queue of work items. The engine serves the clients round robin, each
 * for at most its time slice; to pass from one client to another costs switch_ns, of which the time that the engine was
 * idle before counts as already spent. A client that is alone, or whose neighbours have nothing to do, is never
 * interrupted.
 *
 * The module is pure: it reads no clock, takes no lock and allocates nothing, and its state is plain memory that
 * several processes may map. The owner of that memory serialises the calls. All times are nanoseconds of
 * CLOCK_MONOTONIC.
 */
#ifndef EMU_ENGINE_H
#define EMU_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#define EMU_MAX_CLIENTS 64 /* as many as one 64-bit mask holds */
#define EMU_RING_ITEMS 256
#define EMU_BUSY_BUCKETS 16
#define EMU_BUSY_BUCKET_NS 100000000ULL
#define EMU_TURNS 4096
#define EMU_TRANSFERS 4096
#define EMU_NEVER UINT64_MAX
#define EMU_SLICE_FLOOR_NS 1000ULL
#define EMU_LONGEST_NS 31536000000000000ULL /* a year: a longer item never ends anyway, and sums must not overflow */

struct emu_item {
    uint64_t ready_ns;     /* may start from here on; may lie before the engine's clock */
    uint64_t remaining_ns; /* what is left of the modelled duration */
    uint64_t started_ns;   /* 0 before it had the engine */
    uint64_t completed_ns; /* valid once it is completed */
    uint64_t bytes;        /* that a copy moves; 0 for other work */
};

/* A stretch of time in which one client had the engine, its share of the switch not counted. */
struct emu_turn {
    uint64_t owner; /* the queue's */
    uint64_t start_ns;
    uint64_t end_ns;
};

/* An item that moved bytes, from its first moment on the engine to its last. */
struct emu_transfer {
    uint64_t owner;
    uint64_t bytes;
    uint64_t start_ns;
    uint64_t end_ns;
};

struct emu_queue {
    uint64_t owner;     /* who the client is, for the turns and transfers */
    uint64_t submitted; /* items ever submitted; item number n lies in items[n % EMU_RING_ITEMS] */
    uint64_t completed;
    uint64_t slice_ns;
    uint64_t busy_ns;
    uint64_t bytes; /* moved by completed items */
    struct emu_item items[EMU_RING_ITEMS];
};

struct emu_engine {
    uint64_t clock_ns; /* simulated up to here; stands still while the engine is idle */
    uint64_t switch_ns;
    int32_t current; /* the client whose context is loaded; -1 before the first */
    uint32_t reserved;
    uint64_t slice_left_ns;
    uint64_t switch_left_ns;
    uint64_t delay_ns;     /* the next item takes so much longer */
    uint64_t idle_ns;      /* how long the engine was idle just before clock_ns */
    uint64_t pending_mask; /* bit c: client c has items that are not completed */
    uint64_t busy_ns;
    uint64_t switches;
    uint64_t bucket_number[EMU_BUSY_BUCKETS];
    uint64_t bucket_busy_ns[EMU_BUSY_BUCKETS];
    uint64_t turn_count; /* ever; the latest lies in turns[(turn_count - 1) % EMU_TURNS] */
    struct emu_turn turns[EMU_TURNS];
    uint64_t bytes;          /* moved in all */
    uint64_t transfer_count; /* as turn_count */
    struct emu_transfer transfers[EMU_TRANSFERS];
    struct emu_queue queues[EMU_MAX_CLIENTS];
};

/* An engine without clients, at time 0. */
void emu_engine_init(struct emu_engine *engine, uint64_t switch_ns);

/* An empty queue for a client that comes. `owner` is kept with its turns. */
void emu_engine_reset_client(struct emu_engine *engine, int client, uint64_t slice_ns, uint64_t owner);

/* Drop what a client has pending, because it died. */
void emu_engine_drop(struct emu_engine *engine, int client);

/* Make the state usable again after a process died while it changed it: a half-done step may lose its time, no more. */
void emu_engine_repair(struct emu_engine *engine);

/* Set a client's time slice with effect at once; below EMU_SLICE_FLOOR_NS it is the floor. */
void emu_engine_set_slice(struct emu_engine *engine, int client, uint64_t slice_ns);

/* Append an item; one longer than EMU_LONGEST_NS takes that long. Returns false when the ring is full; else *number is
 * the item's number in the client's queue. */
bool emu_engine_submit(struct emu_engine *engine, int client, uint64_t ready_ns, uint64_t duration_ns, uint64_t bytes,
                       uint64_t *number);

/* When the engine can do something next: not before its clock. EMU_NEVER while nothing is pending. */
uint64_t emu_engine_next_start(const struct emu_engine *engine);

/* Make what is in work, or comes next, take so much longer. */
void emu_engine_delay(struct emu_engine *engine, uint64_t delay_ns);

/* Simulate up to now_ns. Times before the engine's clock change nothing. */
void emu_engine_advance(struct emu_engine *engine, uint64_t now_ns);

/* When item `number` of a client completes if nothing more is submitted by anyone. It may return an earlier time, when
 * the forecast would be long: whoever waits looks again then. EMU_NEVER for an item that was never submitted. */
uint64_t emu_engine_forecast(const struct emu_engine *engine, int client, uint64_t number);

/* Busy nanoseconds in the last full second before now_ns. */
uint64_t emu_engine_busy_last_second(const struct emu_engine *engine, uint64_t now_ns);

#endif
