/* This process's side of the driver: devices, contexts, streams and the operations in them.
 *
 * One mutex, emu.lock, guards all of it. Lock order: emu.lock, then a card's lock; nothing is waited for under a card's
 * lock. Work travels so: an API call appends an operation to a stream; issue() hands work to the card's engine as soon
 * as the engine's own order keeps the stream's; the card simulates; retire() applies the data effects of what has
 * completed, in stream order, and resolves markers. A marker is a point in a stream that events, waits and
 * synchronisation refer to.
 */
#ifndef EMU_DRIVER_H
#define EMU_DRIVER_H

#include <cuda.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena.h"
#include "card.h"

#define EMU_EXPORT __attribute__((visibility("default")))
#define EMU_DRIVER_VERSION 13000
#define EMU_NO_ENGINE (-1)
#define EMU_HOST_BIT 31
#define EMU_NO_BACKING (-1)
#define EMU_PARAMETER_BYTES 64

struct emu_device;
struct emu_block;
struct emu_op;
struct emu_physical;

/* ---- Work: what an engine spends time on, and the effect on memory once the time has passed -------------------------
 */

struct emu_kernel;

struct emu_copy {
    uint64_t destination, source; /* addresses */
    uint64_t width_bytes, height;
    uint64_t destination_pitch, source_pitch;
    bool destination_is_device, source_is_device;
};

struct emu_fill {
    uint64_t destination;
    uint64_t width, height, pitch; /* width in elements */
    uint32_t value;
    uint32_t element_bytes;
};

struct emu_prefetch {
    uint64_t start;
    uint64_t bytes;
    int location; /* an ordinal, or CU_DEVICE_CPU */
};

/* The parameters of a kernel (kernel.h), laid out as the device code's would be. */
union emu_parameters {
    unsigned char bytes[EMU_PARAMETER_BYTES];
    struct {
        uint64_t duration_ns;
    } spin;
    struct {
        uint64_t out, n, stride;
        uint32_t value, padding;
        uint64_t duration_ns;
    } fill;
    struct {
        uint64_t z, x, y, n, stride, duration_ns;
    } add;
    struct {
        uint64_t out, in, n, stride, duration_ns;
    } checksum;
};

struct emu_launch {
    const struct emu_kernel *kernel;
    union emu_parameters parameters;
};

/* How memory is touched. A kernel reaches what its context's device has access to; a copy also what lies on another
 * device, through that device. */
enum emu_touch { EMU_TOUCH_READ = 0, EMU_TOUCH_WRITE = 1, EMU_TOUCH_COPY = 2 };

/* A stretch of memory that work touches. */
struct emu_span {
    uint64_t start;
    uint64_t bytes;
    uint64_t alignment;
    unsigned how;   /* enum emu_touch */
    bool on_device; /* checked against what the context may touch */
};

#define EMU_SPANS 3

struct emu_work {
    enum emu_engine_kind engine;
    CUgraphNodeType type; /* kernel, memcpy or memset */
    uint64_t duration_ns;
    uint64_t moved_bytes; /* over the link, for the account */
    /* NULL, or called once when its turn to be issued has come: completes what depends on where memory is then. */
    void (*prepare)(CUcontext context, struct emu_work *work);
    /* What it touches; fills in at most EMU_SPANS and returns how many. Present when `apply` is. */
    unsigned (*spans)(const struct emu_work *work, struct emu_span *spans);
    /* The effect, on memory that was found to be there; without emu.lock. NULL: none. */
    void (*apply)(const struct emu_work *work);
    void *staged;  /* owned copy of a copy's pageable source, or NULL; freed with the work */
    bool is_large; /* the effect takes long enough for a thread of its own */
    union {
        struct emu_copy copy;
        struct emu_fill fill;
        struct emu_launch launch;
        struct emu_prefetch prefetch;
    };
};

/* ---- Markers and operations ----------------------------------------------------------------------------------------
 */

struct emu_marker {
    unsigned references;
    bool complete;
    uint64_t time_ns; /* once complete: when everything before it had completed */
    int engine;       /* once everything before it is issued: the engine (of `device`) that completes it last */
    uint64_t number;  /* and the item's number there */
    struct emu_device *device;
};

enum emu_op_kind { EMU_OP_WORK, EMU_OP_RECORD, EMU_OP_WAIT, EMU_OP_CALL, EMU_OP_HOST };

#define EMU_STREAM_LENGTH 1024 /* a launch into a stream with more waits, as with the real driver */

struct emu_op {
    struct emu_op *next;
    enum emu_op_kind kind;
    bool posted; /* HOST: handed to the callback thread */
    bool done;
    bool applied; /* WORK: its effect has happened */
    uint64_t enqueued_ns;
    uint64_t completed_ns;
    struct emu_marker *marker; /* RECORD, WAIT: a reference */
    struct emu_work work;      /* WORK */
    /* CALL: runs in stream order under emu.lock, and is retried until it returns true. HOST: runs in the callback
     * thread. */
    bool (*call)(void *argument);
    void *argument;
    CUhostFn host_function;
    void *user_data;
    struct emu_op *next_callback;
    CUstream stream; /* WORK that was posted to a thread */
    struct emu_op *next_posted;
    CUstreamCallback callback; /* HOST by cuStreamAddCallback */
    CUstream callback_stream;
};

/* ---- Streams, contexts, devices ------------------------------------------------------------------------------------
 */

struct emu_capture;

/* Nodes of a graph under capture: what the next node depends on. */
struct emu_node_list {
    CUgraphNode *nodes; /* owned */
    size_t count;
};

struct CUstream_st {
    uint32_t magic;
    CUcontext context;
    unsigned flags;
    int priority;
    uint64_t id;
    bool blocking; /* synchronises with the legacy stream */
    bool legacy;
    struct emu_op *head, *tail;
    struct emu_op *issue; /* first operation that is not issued; NULL when all are */
    int frontier_engine;  /* what is issued and not retired completes on this engine; EMU_NO_ENGINE when nothing is */
    uint64_t frontier_number;
    uint64_t ready_ns;           /* everything retired so far had completed by then */
    bool retiring;               /* a data effect of its head is under way, without the lock */
    bool destroyed;              /* by the application; freed when it is empty */
    unsigned length;             /* operations in it */
    struct emu_capture *capture; /* NULL: not captured */
    struct emu_node_list tail_nodes;
    struct CUstream_st *next; /* in its context */
};

struct CUevent_st {
    uint32_t magic;
    CUcontext context;
    unsigned flags;
    struct emu_marker *marker; /* of the last record; NULL before the first */
    uint64_t capture_id;       /* of the capture that it was last recorded in; 0: it was recorded in a stream */
    struct emu_node_list nodes;
};

struct CUctx_st {
    uint32_t magic;
    struct emu_device *device;
    bool primary;
    bool green; /* has no memory of its own: that is the primary one's */
    bool active;
    unsigned flags;
    unsigned references; /* of a primary context */
    unsigned api_version;
    uint32_t peers; /* bit d: access to device d was enabled */
    CUresult error; /* sticky */
    CUstream legacy;
    CUstream streams; /* all, the legacy one too */
    size_t limits[CU_LIMIT_MAX];
    struct CUctx_st *next;
};

struct emu_channel {
    struct emu_op *in_flight[EMU_RING_ITEMS];
    uint64_t seen; /* completions that were collected */
};

struct emu_device {
    int index;
    struct emu_card *card;
    int slot; /* this process in the card's table; -1 before the first context */
    struct emu_arena arena;
    bool arena_ready;
    unsigned contexts;
    struct CUctx_st primary;
    struct emu_channel channels[EMU_ENGINES];
};

struct emu_driver {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a marker was resolved or a stream emptied */
    bool initialized;
    bool forked;
    struct emu_cards *cards;
    int device_count; /* visible */
    struct emu_device devices[EMU_MAX_CARDS];
    struct CUctx_st *contexts; /* all active ones */
    unsigned waiters;          /* threads that wait for `changed` to tell of a marker */
};

extern struct emu_driver emu;

/* ---- Entering ------------------------------------------------------------------------------------------------------
 */

/* Lock the driver. Without success nothing is locked. emu_enter_context also finds the calling thread's current context
 * and returns its sticky error, if it has one. */
CUresult emu_enter(void);
CUresult emu_enter_context(CUcontext *context);
/* The same, and find the stream that a handle means. */
CUresult emu_enter_stream(CUstream handle, CUcontext *context, CUstream *stream);
/* Unlock the driver, and pass the result on. */
static inline CUresult emu_leave(CUresult result) {
    pthread_mutex_unlock(&emu.lock);
    return result;
}

/* ---- Streams (pipeline.h lists the sources)
 * ------------------------------------------------------------------------------------------ */

/* Start the thread that does the work of the streams. */
CUresult emu_executor_start(void);

struct emu_marker *emu_marker_new(void);
void emu_marker_drop(struct emu_marker *marker);

/* Append to a stream, after what the rules of the legacy stream demand. NULL when out of host memory. */
struct emu_op *emu_stream_append(CUstream stream, enum emu_op_kind kind);
/* Hand what was appended to the engines. */
void emu_stream_kick(CUstream stream);
CUresult emu_stream_append_work(CUstream stream, const struct emu_work *work);
CUresult emu_stream_append_call(CUstream stream, bool (*call)(void *argument), void *argument);
CUresult emu_stream_append_host(CUstream stream, CUhostFn function, CUstreamCallback callback, CUstream handle,
                                void *user_data);
CUresult emu_stream_append_wait(CUstream stream, struct emu_marker *marker);
/* Append a marker and return a reference to it. */
struct emu_marker *emu_stream_mark(CUstream stream);

/* Collect what has completed by now and apply it. */
void emu_progress(void);
/* Give up emu.lock until the marker is complete. */
void emu_wait(struct emu_marker *marker);
/* Wait until all that the stream holds now has completed; returns its context's sticky error. */
CUresult emu_wait_stream(CUstream stream);
/* Wait until all that the context's streams hold now has completed. */
CUresult emu_wait_context(CUcontext context);
bool emu_stream_is_idle(CUstream stream);
void emu_work_dispose(struct emu_work *work);
/* Wait, with emu.lock given up, until no effect under way touches [start, start + bytes). */
void emu_effects_wait(uint64_t start, uint64_t bytes);

/* ---- Contexts (context.c) -------------------------------------------------------------------------------------------
 */

bool emu_context_is_valid(CUcontext context);
/* The stream that a handle means in this context: NULL and CU_STREAM_LEGACY, CU_STREAM_PER_THREAD, or one of its own.
 */
CUresult emu_stream_find(CUcontext context, CUstream handle, CUstream *stream);
CUresult emu_context_current(CUcontext *context);
CUresult emu_stream_make(CUcontext context, unsigned flags, int priority, CUstream *stream);
void emu_stream_unlink(CUstream stream);

/* ---- Memory (range.c, memory.c, host_memory.c)
 * ---------------------------------------------------------------------------------------------- */

enum emu_range_kind {
    EMU_RANGE_DEVICE,
    EMU_RANGE_MAPPED,
    EMU_RANGE_OPENED, /* device memory of another process, by a legacy handle */
    EMU_RANGE_PINNED,
    EMU_RANGE_REGISTERED,
    EMU_RANGE_MANAGED
};

/* Memory that the driver knows: what pointer attributes, copies and kernels see. */
struct emu_range {
    uint64_t start;
    uint64_t bytes;
    enum emu_range_kind kind;
    /* EMU_RANGE_MAPPED: bit d: device d may read or write; bit EMU_HOST_BIT: the host. */
    uint32_t readable, writable;
    struct emu_device *device;
    CUcontext context;
    struct emu_arena *arena; /* that the bytes go back to; NULL for registered and mapped memory */
    int backing;             /* the memfd that holds the bytes; EMU_NO_BACKING for registered memory */
    uint64_t offset;         /* there */
    uint64_t id;
    unsigned flags;
    struct CUmemPoolHandle_st *pool;
    struct emu_physical *physical;
    struct emu_block *blocks; /* EMU_RANGE_MANAGED: owned; each EMU_GRANULE_BYTES from the start on (managed.h) */
    unsigned opens;           /* EMU_RANGE_OPENED: how often it was */
    bool sync_memops;         /* CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, remembered */
};

/* The range that holds the address, or NULL. Valid until ranges change. */
struct emu_range *emu_range_find(uint64_t address);
/* The first range that starts at the address or later, or NULL. */
struct emu_range *emu_range_from(uint64_t address);
struct emu_range *emu_range_add(const struct emu_range *range);
void emu_range_remove(uint64_t start);
/* Whether work of this context may touch [address, address + bytes); `how` is made of enum emu_touch. */
bool emu_range_covers(uint64_t address, uint64_t bytes, CUcontext context, unsigned how);
/* Whether any known memory lies in [start, start + bytes). */
bool emu_range_overlaps(uint64_t start, uint64_t bytes);
bool emu_is_device_address(uint64_t address);
/* Whether the address lies in what cuMemAddressReserve gave. */
bool emu_is_reserved(uint64_t address);
/* The reservation that an address lies in. */
bool emu_reservation_of(uint64_t address, uint64_t *start, uint64_t *bytes);
bool emu_is_host_pinned(uint64_t address, uint64_t bytes);

/* Take bytes of a device's memory, or give them back, both charged to the card. */
CUresult emu_device_take(struct emu_device *device, enum emu_use use, uint64_t bytes, uint64_t *offset);
void emu_device_give(struct emu_device *device, enum emu_use use, uint64_t offset);
/* Make this process a client of the device's card and its window ready. */
CUresult emu_device_open(struct emu_device *device);
/* Linear memory in a context, from a pool or not. */
CUresult emu_memory_allocate(CUcontext context, uint64_t bytes, CUmemoryPool pool, CUdeviceptr *pointer);
void emu_memory_free_range(const struct emu_range *range);
void emu_ipc_close_range(const struct emu_range *range);
void emu_pool_returned(CUmemoryPool pool, uint64_t bytes);
/* Whether the pool's memory was opened to this other device. */
bool emu_pool_admits(CUmemoryPool pool, const struct emu_device *device);
/* Free everything that belongs to a context that ends. */
void emu_memory_end_context(CUcontext context);

/* ---- Copies and fills (copy.c)
 * ---------------------------------------------------------------------------------------- */

/* The modelled rate of compute kernels that stream through memory, from the H200 table: 462 it/s of 3 x 3.14 GB. */
#define EMU_MEMORY_BYTES_PER_SECOND 4250000000000ULL

uint64_t emu_duration_ns(uint64_t bytes, uint64_t bytes_per_second);

#endif
