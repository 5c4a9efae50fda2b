#include "stream.h"

#include "capture.h"
#include "log.h"
#include "mark.h"
#include "rest.h"

#include <stdlib.h>
#include <string.h>

#define NVS_PER_THREAD CU_STREAM_PER_THREAD

// Of any context if it is NULL. Caller holds the device's lock.
static struct nvs_stream *nvs_stream_search(struct nvs_device *device, CUcontext context, CUstream handle,
                                            const struct nvs_thread *owner) {
    struct nvs_stream *stream = atomic_load_explicit(&device->streams, memory_order_acquire);
    for (; stream != NULL; stream = stream->next)
        if (atomic_load_explicit(&stream->alive, memory_order_acquire) && stream->handle == handle &&
            stream->owner == owner && (context == NULL || stream->context == context))
            return stream;
    return NULL;
}

// A record whose stream is gone and has nothing in flight, with its lock held. Caller holds the device's lock.
static struct nvs_stream *nvs_stream_reuse(struct nvs_device *device, CUcontext context) {
    struct nvs_stream *stream = atomic_load_explicit(&device->streams, memory_order_acquire);
    for (; stream != NULL; stream = stream->next) {
        if (atomic_load_explicit(&stream->alive, memory_order_acquire) || stream->context != context ||
            pthread_mutex_trylock(&stream->lock) != 0)
            continue;
        if (stream->count == 0)
            return stream;
        pthread_mutex_unlock(&stream->lock);
    }
    return NULL;
}

// A new record, with its lock held.
static struct nvs_stream *nvs_stream_new(struct nvs_device *device, CUcontext context) {
    struct nvs_stream *stream = aligned_alloc(_Alignof(struct nvs_stream), sizeof(*stream));
    if (stream == NULL)
        return NULL;
    memset(stream, 0, sizeof(*stream));
    pthread_mutex_init(&stream->lock, NULL);
    pthread_mutex_lock(&stream->lock);
    stream->device = device;
    stream->context = context;
    return stream;
}

// Caller holds the device's lock.
static struct nvs_stream *nvs_stream_make(struct nvs_device *device, CUcontext context, CUstream handle,
                                          const struct nvs_thread *thread, struct nvs_thread *owner) {
    struct nvs_stream *stream = nvs_stream_reuse(device, context);
    bool fresh = stream == NULL;
    if (fresh)
        stream = nvs_stream_new(device, context);
    if (stream == NULL)
        return NULL;
    stream->handle = handle;
    stream->owner = owner;
    stream->writer = thread;
    stream->batch = 1;
    stream->estimated = 0;
    stream->latest_ns = stream->elapsed_ns = 0;
    stream->drained_ns = stream->rest_ns = stream->wait_marked_ns = 0;
    stream->waiter = NULL;
    stream->excused_to = stream->allowance = 0;
    stream->marked = nvs_stream_launched(stream);
    atomic_store_explicit(&stream->completed, stream->marked, memory_order_relaxed);
    atomic_store_explicit(&stream->awaits, 0, memory_order_relaxed);
    atomic_store_explicit(&stream->next_mark, stream->marked + 1, memory_order_relaxed);
    atomic_store_explicit(&stream->idle, true, memory_order_relaxed);
    atomic_store_explicit(&stream->alive, true, memory_order_release);
    pthread_mutex_unlock(&stream->lock);
    if (fresh) {
        stream->next = atomic_load_explicit(&device->streams, memory_order_relaxed);
        atomic_store_explicit(&device->streams, stream, memory_order_release);
    }
    return stream;
}

// The record of a stream, found or made.
static struct nvs_stream *nvs_stream_have(struct nvs_device *device, CUcontext context, CUstream handle,
                                          const struct nvs_thread *thread, struct nvs_thread *owner) {
    nvs_device_use(device);
    pthread_mutex_lock(&device->lock);
    struct nvs_stream *stream = nvs_stream_search(device, context, handle, owner);
    if (stream == NULL)
        stream = nvs_stream_make(device, context, handle, thread, owner);
    pthread_mutex_unlock(&device->lock);
    return stream;
}

// The context that the stream is of: a copy may be put on a stream of another device than the current one.
static CUcontext nvs_stream_context(CUcontext current, CUstream handle) {
    CUcontext context = NULL;
    if (handle == NULL || handle == NVS_PER_THREAD || nvs_real.cuStreamGetCtx == NULL ||
        nvs_real.cuStreamGetCtx(handle, &context) != CUDA_SUCCESS || context == NULL)
        return current;
    return context;
}

struct nvs_device *nvs_stream_device(CUcontext current, CUstream stream) {
    CUcontext own = nvs_stream_context(current, stream);
    return own == current ? nvs_device_current(NULL) : nvs_device_of_context(own);
}

struct nvs_stream *nvs_stream_find(struct nvs_thread *thread, CUcontext context, CUstream handle) {
    struct nvs_device *device = nvs_device_current(NULL);
    if (device == NULL)
        return NULL;
    uint64_t epoch = atomic_load_explicit(&nvs_hot.stream_epoch, memory_order_acquire);
    CUstream name = handle == CU_STREAM_LEGACY ? NULL : handle;
    struct nvs_thread *owner = handle == NVS_PER_THREAD ? thread : NULL;
    pthread_mutex_lock(&device->lock);
    struct nvs_stream *stream = nvs_stream_search(device, context, name, owner);
    pthread_mutex_unlock(&device->lock);
    if (stream == NULL) {
        struct nvs_device *own = nvs_stream_device(context, name);
        if (own != NULL)
            stream = nvs_stream_have(own, nvs_stream_context(context, name), name, thread, owner);
    }
    if (stream == NULL || nvs_capture_any()) // while one is open each call asks whether it is captured
        return stream;
    for (unsigned i = NVS_THREAD_STREAMS - 1; i > 0; i--)
        thread->streams[i] = thread->streams[i - 1];
    thread->streams[0] = (struct nvs_stream_cache){handle, context, epoch, stream};
    return stream;
}

// ---- What has ended

void nvs_stream_reach(struct nvs_stream *stream, uint32_t devices, uint64_t calls) {
    for (int i = 0; i < NVS_DEVICES_MAX; i++) {
        uint64_t before = atomic_load_explicit(&stream->reached[i], memory_order_relaxed);
        while ((devices >> i & 1) != 0 && before < calls &&
               !atomic_compare_exchange_weak_explicit(&stream->reached[i], &before, calls, memory_order_release,
                                                      memory_order_relaxed)) {
        }
    }
}

bool nvs_stream_reaches(struct nvs_device *device, const struct nvs_device *memory) {
    const struct nvs_stream *stream = atomic_load_explicit(&device->streams, memory_order_acquire);
    for (; device != memory && stream != NULL; stream = stream->next)
        if (atomic_load_explicit(&stream->reached[memory->ordinal], memory_order_acquire) >
            atomic_load_explicit(&stream->completed, memory_order_acquire))
            return true;
    return false;
}

uint64_t nvs_stream_point(struct nvs_stream *stream) {
    atomic_fetch_add_explicit(&stream->launched_others, 1, memory_order_release);
    uint64_t calls = nvs_stream_launched(stream);
    if (calls < atomic_load_explicit(&stream->next_mark, memory_order_relaxed))
        return calls; // the control thread marks it
    CUstreamCaptureMode mode = nvs_capture_relax();
    pthread_mutex_lock(&stream->lock);
    (void)nvs_stream_retire(stream);
    (void)nvs_stream_mark(stream);
    pthread_mutex_unlock(&stream->lock);
    nvs_capture_restore(mode);
    return calls;
}

uint64_t nvs_stream_settle(struct nvs_stream *stream) {
    uint64_t completed = atomic_load_explicit(&stream->completed, memory_order_acquire);
    if (completed == nvs_stream_launched(stream) || pthread_mutex_trylock(&stream->lock) != 0)
        return completed; // where its lock is held it is being marked, or its context destroyed: next time
    CUcontext popped;
    if (nvs_real.cuCtxPushCurrent_v2(stream->context) != CUDA_SUCCESS) {
        nvs_stream_forget(stream); // the context was destroyed by a way that we do not see
    } else {
        // No mark behind the last one that there is room for: each would be one more operation on a stream that does
        // not come on, and its queue blocks who fills it.
        bool may_mark =
            stream->owner == NULL && atomic_load_explicit(&stream->alive, memory_order_acquire) && !nvs_capture_any();
        // Nor on one that is empty: the card would come to the program for it alone.
        if (may_mark && stream->count < NVS_MARKS && !nvs_rest_known(stream))
            nvs_stream_mark_beside(stream);
        (void)nvs_stream_retire(stream);
        if (nvs_real.cuCtxPopCurrent_v2(&popped) != CUDA_SUCCESS)
            nvs_log_once(NVS_LOG_WARN, "cuCtxPopCurrent failed on the control thread");
    }
    pthread_mutex_unlock(&stream->lock);
    return atomic_load_explicit(&stream->completed, memory_order_relaxed);
}

// Waits until so many calls' work has ended. Its context is current, and the thread's capture mode relaxed. False: work
// cannot be marked now.
static bool nvs_stream_wait(struct nvs_stream *stream, uint64_t launched) {
    bool may_wait = true;
    pthread_mutex_lock(&stream->lock);
    for (;;) {
        (void)nvs_stream_retire(stream);
        if (atomic_load_explicit(&stream->completed, memory_order_relaxed) >= launched)
            break;
        bool may_mark = stream->owner == NULL || stream->owner == nvs_thread_self;
        if (stream->marked < launched && may_mark && atomic_load_explicit(&stream->alive, memory_order_acquire))
            (void)nvs_stream_mark(stream);
        may_wait = stream->count > 0;
        if (!may_wait)
            break;
        CUevent newest = stream->marks[(stream->first + stream->count - 1) % NVS_MARKS].event;
        pthread_mutex_unlock(&stream->lock);
        CUresult result = nvs_real.cuEventSynchronize(newest);
        pthread_mutex_lock(&stream->lock);
        may_wait = !nvs_capture_error(result);
        if (!may_wait)
            break;
    }
    pthread_mutex_unlock(&stream->lock);
    return may_wait;
}

bool nvs_stream_finish(struct nvs_device *device, bool waits) {
    bool finished = true;
    CUstreamCaptureMode mode = nvs_capture_relax();
    struct nvs_stream *stream = atomic_load_explicit(&device->streams, memory_order_acquire);
    for (; stream != NULL && (finished || !waits); stream = stream->next) {
        uint64_t launched = nvs_stream_launched(stream);
        CUcontext popped;
        if (atomic_load_explicit(&stream->completed, memory_order_acquire) >= launched)
            continue;
        if (waits && nvs_real.cuCtxPushCurrent_v2(stream->context) == CUDA_SUCCESS) {
            finished = nvs_stream_wait(stream, launched);
            if (nvs_real.cuCtxPopCurrent_v2(&popped) != CUDA_SUCCESS)
                nvs_log_once(NVS_LOG_WARN, "cuCtxPopCurrent failed where memory is freed");
        } else {
            finished = nvs_stream_settle(stream) >= launched && finished;
        }
    }
    nvs_capture_restore(mode);
    return finished;
}

// ---- The end of streams and contexts

static void nvs_stream_end(struct nvs_stream *stream) {
    CUstreamCaptureMode mode = nvs_capture_relax();
    CUcontext popped;
    bool pushed = nvs_real.cuCtxPushCurrent_v2(stream->context) == CUDA_SUCCESS;
    pthread_mutex_lock(&stream->lock);
    (void)nvs_stream_retire(stream);
    // Its work goes on after it is gone; where no mark can follow it, it is forgotten.
    if (!pushed || !nvs_stream_mark(stream))
        nvs_stream_forget(stream);
    atomic_store_explicit(&stream->alive, false, memory_order_release);
    pthread_mutex_unlock(&stream->lock);
    if (pushed && nvs_real.cuCtxPopCurrent_v2(&popped) != CUDA_SUCCESS)
        nvs_log_once(NVS_LOG_WARN, "cuCtxPopCurrent failed where a stream ends");
    nvs_capture_restore(mode);
}

void nvs_stream_ending(CUstream handle) {
    if (handle == NULL)
        return;
    for (size_t i = 0; i < nvs_device_count(); i++) {
        struct nvs_device *device = &nvs_devices[i];
        pthread_mutex_lock(&device->lock);
        struct nvs_stream *stream = nvs_stream_search(device, NULL, handle, NULL);
        pthread_mutex_unlock(&device->lock);
        if (stream != NULL)
            nvs_stream_end(stream);
    }
    nvs_capture_ended(handle);
    atomic_fetch_add_explicit(&nvs_hot.stream_epoch, 1, memory_order_acq_rel);
}

void nvs_stream_context_hold(CUcontext context) {
    for (size_t i = 0; i < nvs_device_count(); i++) {
        struct nvs_stream *stream = atomic_load_explicit(&nvs_devices[i].streams, memory_order_acquire);
        for (; stream != NULL; stream = stream->next) {
            if (stream->context != context)
                continue;
            pthread_mutex_lock(&stream->lock);
            stream->held = true;
        }
    }
}

void nvs_stream_context_release(CUcontext context, bool ended) {
    for (size_t i = 0; i < nvs_device_count(); i++) {
        struct nvs_stream *stream = atomic_load_explicit(&nvs_devices[i].streams, memory_order_acquire);
        for (; stream != NULL; stream = stream->next) {
            if (stream->context != context || !stream->held) // not held: made meanwhile
                continue;
            stream->held = false;
            if (ended) {
                nvs_stream_forget(stream);
                stream->before = NULL; // its events went with it
                stream->spares = 0;
                atomic_store_explicit(&stream->alive, false, memory_order_release);
            }
            pthread_mutex_unlock(&stream->lock);
        }
    }
    if (ended)
        atomic_fetch_add_explicit(&nvs_hot.stream_epoch, 1, memory_order_acq_rel);
}

void nvs_stream_atfork_child(void) {
    // The child cannot use the parent's contexts. Its own records start anew; those of the parent are left where they
    // are.
    for (size_t i = 0; i < NVS_DEVICES_MAX; i++) {
        atomic_store_explicit(&nvs_devices[i].streams, NULL, memory_order_relaxed);
        atomic_store_explicit(&nvs_devices[i].in_flight_ns, 0, memory_order_relaxed);
    }
    atomic_fetch_add_explicit(&nvs_hot.stream_epoch, 1, memory_order_relaxed);
}
