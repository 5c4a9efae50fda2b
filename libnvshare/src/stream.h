// Streams that have had work, and the marks on them: how much work is in flight, and how long it takes.
//
// After every batch of gated calls an event, a *mark*, is recorded on their stream. A batch is as many calls as take
// about a quarter of the window, measured by the marks themselves, so that a mark costs nothing beside the work that it
// stands for (on an H200 marks each 2 ms cost 0.2 % of a memory-bound kernel's speed, each 5 ms nothing). When more
// work is in flight on the device than its window, the launching thread waits for its stream's oldest mark. At least
// two marks stay in flight, so the card never runs dry. How many calls make a batch follows the shorter of the last two
// batches, so one slow launch or a stall does not shrink it; what is in flight is judged by the last batch alone, and
// with none measured yet no more than two marks are, so slow launches are noticed at once (requirements A9, E2).
//
// Records belong to a device's list and live for ever; one whose stream is gone serves another of the same context. A
// legacy default stream has one record per context, a per-thread default stream one per context and thread.
#ifndef NVS_STREAM_H
#define NVS_STREAM_H

#include "device.h"
#include "thread.h"

#define NVS_MARKS_PER_WINDOW 4u
#define NVS_MARKS 64u
#define NVS_BATCH_MAX 256u
#define NVS_ESTIMATES 2u

struct nvs_mark {
    CUevent event;
    uint64_t launches; // that it closes
    uint64_t calls;    // of the stream in all, with these
    uint64_t estimate_ns;
    bool blurred; // may stand behind a call that it does not count: one was being made
};

struct nvs_stream {
    // What each launch touches is one cache line.
    _Alignas(64) struct nvs_device *device;
    const struct nvs_thread *writer;  // the thread that made the record: it counts without a locked instruction
    _Atomic uint64_t launched_own;    // calls of the writer that returned
    _Atomic uint64_t launched_others; // calls of other threads that returned
    _Atomic uint64_t next_mark;       // the number of calls at which a mark is due
    atomic_bool idle;                 // nothing in flight, no demand: the next call starts a new stretch of work
    atomic_bool alive;
    bool held; // its context is being destroyed: belongs to the thread that does it

    struct nvs_stream *next;
    CUcontext context;
    CUstream handle;          // NULL: the legacy default stream. Written while not alive, under both locks
    struct nvs_thread *owner; // of a per-thread default stream; NULL: any thread

    // Number of calls when one that names memory of another device was last among them: its memory is in use until so
    // many have completed.
    _Atomic uint64_t reached[NVS_DEVICES_MAX];

    // What was freed in its order, of each device's memory: under that memory's lock.
    struct nvs_quarantine freed[NVS_DEVICES_MAX];

    _Atomic uint64_t awaits;    // the last call so far that waits for a value, by its number; 0: none
    _Atomic uint64_t completed; // number of calls whose work has ended, as marks and waits say. Written under lock
    uint64_t drain_to;          // the drain waits until so many have. Only the control thread

    pthread_mutex_t lock;
    // Under lock:
    uint64_t marked; // number of calls that the marks cover
    struct nvs_mark marks[NVS_MARKS];
    unsigned first, count;
    CUevent before; // the last mark that has completed, or the start of this stretch; NULL: unknown
    bool before_blurred;
    uint64_t before_ns; // when that was, at the latest; 0: unknown
    CUevent spare[NVS_MARKS + 2];
    unsigned spares;
    uint64_t estimates_ns[NVS_ESTIMATES]; // of one call, by the last marks
    uint64_t latest_ns;                   // the newest of them
    unsigned estimated;
    uint64_t batch;
    uint64_t elapsed_ns;             // that the last mark took
    uint64_t waited_at;              // the number of calls when the program began to wait for them; see rest.h
    const struct nvs_thread *waiter; // which began that wait
    uint64_t wait_marked_ns;         // when a wait was last begun with a mark
    uint64_t drained_ns;             // since when it is at rest; 0: it is not known to be
    uint64_t drained_at;             // the number of calls then
    uint64_t rest_ns;                // of the time of the next mark
    uint64_t excused_to;             // up to so many calls, none is held back: see window.c
    uint64_t allowance;              // calls that were excused last; 0: a mark has completed since
};

// Calls that returned, by all threads.
static inline uint64_t nvs_stream_launched(const struct nvs_stream *stream) {
    return atomic_load_explicit(&stream->launched_own, memory_order_acquire) +
           atomic_load_explicit(&stream->launched_others, memory_order_acquire);
}

// The record of a stream, made if need be; remembered in the thread. NULL: no device, or no memory.
struct nvs_stream *nvs_stream_find(struct nvs_thread *thread, CUcontext context, CUstream stream);

// The device that a stream is of, where this context is current. NULL: none.
struct nvs_device *nvs_stream_device(CUcontext current, CUstream stream);

// A call on an idle stream is about to be made: notes when its work starts, and wakes the control thread.
void nvs_stream_start(struct nvs_stream *stream);

// A mark is due: records it, then waits until the device's work in flight is within its window, or the stream seems to
// wait for something else. Not inside a gated call.
void nvs_stream_due(struct nvs_stream *stream);

// What is on the stream so far counts as one more call, with a mark if one is due; waits for nothing. Returns the
// number of calls with it: what was put on the stream before has ended once so many have completed.
uint64_t nvs_stream_point(struct nvs_stream *stream);

// Control thread: marks what is not marked yet, unless a capture is open, and takes in what has completed. Returns the
// number of calls whose work has ended: that of all that were launched if nothing of this stream is in flight.
uint64_t nvs_stream_settle(struct nvs_stream *stream);

// The latest of so many calls named memory of these devices (bits).
void nvs_stream_reach(struct nvs_stream *stream, uint32_t devices, uint64_t calls);

// True if work of the device may still touch memory of another one that it named.
bool nvs_stream_reaches(struct nvs_device *device, const struct nvs_device *memory);

// Whether all that has been launched on the device so far is done: waits for it, or only looks. False: not yet, or,
// where it should wait, a capture forbids to.
bool nvs_stream_finish(struct nvs_device *device, bool waits);

// Before the driver destroys a stream.
void nvs_stream_ending(CUstream stream);

// Around the driver's destruction of a context: keeps all of our calls off its streams, and forgets them if it has
// `ended`.
void nvs_stream_context_hold(CUcontext context);
void nvs_stream_context_release(CUcontext context, bool ended);

// After a fork.
void nvs_stream_atfork_child(void);

#endif
