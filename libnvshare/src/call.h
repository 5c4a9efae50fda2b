// The way of a gated call: set the thread's flag, look at the gate, call the driver, clear the flag, count.
#ifndef NVS_CALL_H
#define NVS_CALL_H

#include "device.h"
#include "stream.h"
#include "thread.h"

struct nvs_call {
    struct nvs_thread *thread; // NULL: not managed, the call just passes
    struct nvs_stream *stream;
    uint32_t others; // bit d: it names memory of device d, which is not the stream's
};

// What a call needs: its class, and above it a bit for each other device that it needs the memory of, as far as that is
// known, or the lock.
#define NVS_NEEDS_CLASS 3u
#define NVS_NEEDS_LOCKS 4u
#define NVS_NEEDS_DEVICES 16

// The slow ways in: first call of a thread, an unknown stream, a closed gate.
CUresult nvs_call_enter_slowly(struct nvs_call *call, enum nvs_class class, CUstream stream);
CUresult nvs_call_wait(struct nvs_call *call, enum nvs_class class);

// LAUNCH if both ends of a copy are on a card (of one of several copies), else COPY.
enum nvs_class nvs_call_class_of_copy(CUdeviceptr to, CUdeviceptr from);
enum nvs_class nvs_call_class_of_copies(const CUdeviceptr *to, const CUdeviceptr *from, size_t count);
enum nvs_class nvs_call_class_of_2d(const CUDA_MEMCPY2D *copy);
enum nvs_class nvs_call_class_of_3d(const CUDA_MEMCPY3D *copy);

// The same, and the devices whose memory is at these addresses (0: none).
uint32_t nvs_call_names(uint32_t needs, CUdeviceptr one, CUdeviceptr other);
uint32_t nvs_call_names_all(uint32_t needs, const CUdeviceptr *to, const CUdeviceptr *from, size_t count);

// What a batch of copies needs, and a launch of a graph.
uint32_t nvs_call_needs_of_3d_batch(const CUDA_MEMCPY3D_BATCH_OP *copies, size_t count);
uint32_t nvs_call_needs_of_graph(CUgraphExec executable);

// A call that needs memory of other devices (bits) to be there, too, or their locks: passes all their gates, or none.
CUresult nvs_call_enter_others(struct nvs_call *call, enum nvs_class class, enum nvs_class class_of_others,
                               uint32_t devices, CUstream stream);

// A call that needs the grants of two devices, its stream being on the first one's side.
CUresult nvs_call_enter_pair(struct nvs_call *call, CUcontext one, CUcontext other, CUstream stream);

// A call that puts nothing on a stream, but needs the memory to be there until it ends: passes the gate for copies of
// the current device, and leaves it with nvs_call_leave_memory. `thread` is NULL where there is nothing to leave.
CUresult nvs_call_enter_memory(struct nvs_thread **thread);
void nvs_call_leave_memory(struct nvs_thread *thread);

static inline uint32_t nvs_call_bit(enum nvs_class class, int device) {
    return class == NVS_LAUNCH ? NVS_LAUNCH_CALL(device) : NVS_COPY_CALL(device);
}

// Sets the flag and looks at the gate. False: it is closed, and the flag is clear again.
static inline bool nvs_call_pass(struct nvs_thread *thread, struct nvs_device *device, enum nvs_class class) {
    atomic_store_explicit(&thread->calls, nvs_call_bit(class, device->ordinal), memory_order_relaxed);
    if (__builtin_expect(nvs_hot.fences, false))
        atomic_thread_fence(memory_order_seq_cst);
    else
        atomic_signal_fence(memory_order_seq_cst); // the closer's membarrier is the fence
    if (__builtin_expect((atomic_load_explicit(&device->closed, memory_order_acquire) & class) == 0, true))
        return true;
    atomic_store_explicit(&thread->calls, 0, memory_order_release);
    return false;
}

static inline CUresult nvs_call_enter(struct nvs_call *call, enum nvs_class class, CUstream stream) {
    struct nvs_thread *thread = nvs_thread_self;
    CUcontext context = atomic_load_explicit(&nvs_hot.sole_context, memory_order_relaxed);
    if (__builtin_expect(thread == NULL || atomic_load_explicit(&thread->calls, memory_order_relaxed) != 0, false) ||
        (context == NULL && nvs_real.cuCtxGetCurrent(&context) != CUDA_SUCCESS))
        return nvs_call_enter_slowly(call, class, stream);
    struct nvs_stream_cache *cached = &thread->streams[0];
    if (__builtin_expect(cached->stream != stream || cached->context != context ||
                             cached->epoch != atomic_load_explicit(&nvs_hot.stream_epoch, memory_order_relaxed),
                         false))
        return nvs_call_enter_slowly(call, class, stream);
    call->thread = thread;
    call->stream = cached->record;
    call->others = 0;
    // The flag is set before `idle` is read: who sets `idle` looks at the flags afterwards.
    if (__builtin_expect(!nvs_call_pass(thread, call->stream->device, class), false) ||
        __builtin_expect(atomic_load_explicit(&call->stream->idle, memory_order_relaxed), false))
        return nvs_call_wait(call, class);
    return CUDA_SUCCESS;
}

static inline CUresult nvs_call_enter_needs(struct nvs_call *call, uint32_t needs, CUstream stream) {
    enum nvs_class class = (enum nvs_class)(needs & NVS_NEEDS_CLASS);
    if (needs >> NVS_NEEDS_DEVICES == 0)
        return nvs_call_enter(call, class, stream);
    enum nvs_class class_of_others = (needs & NVS_NEEDS_LOCKS) != 0 ? NVS_LAUNCH : NVS_COPY;
    return nvs_call_enter_others(call, class, class_of_others, needs >> NVS_NEEDS_DEVICES, stream);
}

// Between nvs_call_enter and nvs_call_leave: what the call puts on its stream waits for a value, which the program
// itself may have to write.
static inline void nvs_call_awaits(const struct nvs_call *call) {
    if (call->thread != NULL)
        atomic_store_explicit(&call->stream->awaits, nvs_stream_launched(call->stream) + 1, memory_order_relaxed);
}

static inline void nvs_call_leave(const struct nvs_call *call) {
    if (__builtin_expect(call->thread == NULL, false))
        return;
    struct nvs_stream *stream = call->stream;
    uint64_t launched;
    if (__builtin_expect(stream->writer == call->thread, true)) {
        uint64_t own = atomic_load_explicit(&stream->launched_own, memory_order_relaxed) + 1;
        atomic_store_explicit(&stream->launched_own, own, memory_order_release);
        launched = own + atomic_load_explicit(&stream->launched_others, memory_order_relaxed);
    } else {
        atomic_fetch_add_explicit(&stream->launched_others, 1, memory_order_release);
        launched = nvs_stream_launched(stream);
    }
    if (__builtin_expect(call->others != 0, false))
        nvs_stream_reach(stream, call->others, launched);
    atomic_store_explicit(&call->thread->calls, 0, memory_order_release);
    if (__builtin_expect(launched >= atomic_load_explicit(&stream->next_mark, memory_order_relaxed), false))
        nvs_stream_due(stream);
}

// The wrapper of a call that launches nothing and only looks at memory, which therefore is there meanwhile. `then` may
// use its `result`.
#define NVS_LOOK_WRAPPER(name, then, params, args)                                                                     \
    NVS_EXPORT CUresult name params {                                                                                  \
        struct nvs_thread *thread;                                                                                     \
        if (!nvs_library_start() || nvs_real.name == NULL)                                                             \
            return CUDA_ERROR_NOT_SUPPORTED;                                                                           \
        CUresult result = nvs_call_enter_memory(&thread);                                                              \
        if (result != CUDA_SUCCESS)                                                                                    \
            return result;                                                                                             \
        result = nvs_real.name args;                                                                                   \
        nvs_call_leave_memory(thread);                                                                                 \
        then;                                                                                                          \
        return result;                                                                                                 \
    }

#endif
