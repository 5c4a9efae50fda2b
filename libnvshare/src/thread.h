// One record for each thread that makes gated calls: what the closer of a gate looks at.
//
// A thread's `calls` word is set before it loads a gate and cleared when its driver call has returned. Who closes a
// gate makes that store visible with nvs_thread_barrier() and then looks at every record: a thread is either seen in a
// call, or will see the closed gate. Records live for ever and are reused; the list only grows.
#ifndef NVS_THREAD_H
#define NVS_THREAD_H

#include "driver.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct nvs_stream;

#define NVS_THREAD_STREAMS 4u

// Which stream record a thread's recent streams have; see stream.h.
struct nvs_stream_cache {
    CUstream stream;
    CUcontext context;
    uint64_t epoch; // of the stream tables when it was filled
    struct nvs_stream *record;
};

struct nvs_thread {
    // What each launch touches is one cache line: the driver's own work between two launches evicts the rest.
    // NVS_LAUNCH_CALL(device) and NVS_COPY_CALL(device) bits of the call that it is in:
    _Alignas(64) _Atomic uint32_t calls;
    struct nvs_stream_cache streams[NVS_THREAD_STREAMS]; // only the thread itself
    atomic_bool used;
    struct nvs_thread *next;
    // Below: only the thread itself.
    CUcontext context; // whose device is `device`
    uint64_t context_epoch;
    int device;
    bool allocates; // it is in the driver for memory
};

#define NVS_LAUNCH_CALL(device) (1u << (device))
#define NVS_COPY_CALL(device) (1u << (16 + (device)))

extern __thread struct nvs_thread *nvs_thread_self __attribute__((tls_model("initial-exec")));

// What each launch of every thread reads, in one cache line. Each field is written by its owner alone, and seldom.
struct nvs_hot {
    // device.c: the only context that the process has used so far. With one, a launch need not ask which is current.
    // NULL: none yet, or several.
    _Alignas(64) _Atomic(CUcontext) sole_context;
    // stream.c, capture.c: grows whenever a stream or context ends or a capture begins. What threads remember of
    // streams is then void.
    _Atomic uint64_t stream_epoch;
    // thread.c: the kernel refused membarrier(2), and the fast path itself has the full fence. Constant after
    // nvs_thread_prepare().
    bool fences;
};
extern struct nvs_hot nvs_hot;

// Once, before the first gated call.
void nvs_thread_prepare(void);

// This thread's record. NULL only if there is no memory for one.
struct nvs_thread *nvs_thread_join(void);

// After it, every thread of the process has seen what this one wrote before, or will see it before its next gate.
void nvs_thread_barrier(void);

// True while any thread is in a call with one of these bits.
bool nvs_thread_in_call(uint32_t calls);

// After a fork: only the calling thread is left.
void nvs_thread_atfork_child(void);

#endif
