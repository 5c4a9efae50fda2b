#include "stream.h"

#include "capture.h"
#include "control.h"
#include "log.h"

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
    stream->latest_ns = 0;
    stream->marked = nvs_stream_launched(stream);
    atomic_store_explicit(&stream->completed, stream->marked, memory_order_relaxed);
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

struct nvs_stream *nvs_stream_find(struct nvs_thread *thread, CUcontext context, CUstream handle) {
    struct nvs_device *device = nvs_device_current(NULL);
    if (device == NULL)
        return NULL;
    nvs_device_use(device);
    uint64_t epoch = atomic_load_explicit(&nvs_hot.stream_epoch, memory_order_acquire);
    CUstream name = handle == CU_STREAM_LEGACY ? NULL : handle;
    struct nvs_thread *owner = handle == NVS_PER_THREAD ? thread : NULL;
    pthread_mutex_lock(&device->lock);
    struct nvs_stream *stream = nvs_stream_search(device, context, name, owner);
    if (stream == NULL)
        stream = nvs_stream_make(device, context, name, thread, owner);
    pthread_mutex_unlock(&device->lock);
    if (stream == NULL || nvs_capture_any()) // while one is open each call asks whether it is captured
        return stream;
    for (unsigned i = NVS_THREAD_STREAMS - 1; i > 0; i--)
        thread->streams[i] = thread->streams[i - 1];
    thread->streams[0] = (struct nvs_stream_cache){handle, context, epoch, stream};
    return stream;
}

// ---- Marks. Callers hold the stream's lock, have its context current, and this thread's capture mode relaxed.

static CUevent nvs_event_take(struct nvs_stream *stream) {
    if (stream->spares > 0)
        return stream->spare[--stream->spares];
    CUevent event = NULL;
    if (nvs_real.cuEventCreate(&event, CU_EVENT_BLOCKING_SYNC) != CUDA_SUCCESS)
        return NULL;
    return event;
}

static void nvs_event_give(struct nvs_stream *stream, CUevent event) {
    if (event != NULL && stream->spares < NVS_MARKS + 2)
        stream->spare[stream->spares++] = event;
}

// The oldest mark leaves, and its event becomes the caller's.
static CUevent nvs_mark_pop(struct nvs_stream *stream) {
    struct nvs_mark *mark = &stream->marks[stream->first];
    atomic_fetch_sub_explicit(&stream->device->in_flight_ns, (int64_t)mark->estimate_ns, memory_order_relaxed);
    atomic_fetch_add_explicit(&stream->completed, mark->launches, memory_order_release);
    stream->first = (stream->first + 1) % NVS_MARKS;
    stream->count--;
    return mark->event;
}

// All that was launched counts as ended: its context is lost or gone.
static void nvs_stream_forget(struct nvs_stream *stream) {
    while (stream->count > 0)
        nvs_event_give(stream, nvs_mark_pop(stream));
    stream->marked = nvs_stream_launched(stream);
    atomic_store_explicit(&stream->completed, stream->marked, memory_order_release);
}

static uint64_t nvs_stream_batch(const struct nvs_stream *stream) {
    uint64_t least_ns = stream->estimates_ns[0];
    for (unsigned i = 1; i < NVS_ESTIMATES && i < stream->estimated; i++)
        if (stream->estimates_ns[i] < least_ns)
            least_ns = stream->estimates_ns[i];
    uint64_t window_us = atomic_load_explicit(&stream->device->window_us, memory_order_relaxed);
    uint64_t batch = least_ns == 0 ? NVS_BATCH_MAX : window_us * 1000 / NVS_MARKS_PER_WINDOW / least_ns;
    if (batch > 4 * stream->batch)
        batch = 4 * stream->batch;
    return batch < 1 ? 1 : batch > NVS_BATCH_MAX ? NVS_BATCH_MAX : batch;
}

static void nvs_stream_learn(struct nvs_stream *stream, const struct nvs_mark *mark) {
    float elapsed_ms = 0;
    if (stream->before == NULL ||
        nvs_real.cuEventElapsedTime(&elapsed_ms, stream->before, mark->event) != CUDA_SUCCESS || !(elapsed_ms >= 0))
        return;
    uint64_t elapsed_ns = (uint64_t)((double)elapsed_ms * 1e6);
    atomic_fetch_add_explicit(&stream->device->busy_ns, elapsed_ns, memory_order_relaxed);
    uint64_t longest = atomic_load_explicit(&stream->device->longest_ns, memory_order_relaxed);
    while (elapsed_ns > longest &&
           !atomic_compare_exchange_weak_explicit(&stream->device->longest_ns, &longest, elapsed_ns,
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
    stream->latest_ns = elapsed_ns / mark->launches;
    stream->estimates_ns[stream->estimated++ % NVS_ESTIMATES] = stream->latest_ns;
    if (stream->estimated >= 2 * NVS_ESTIMATES)
        stream->estimated -= NVS_ESTIMATES; // only "how many" up to NVS_ESTIMATES and "which next" count
    if (stream->owner == NULL)              // nobody else can mark a per-thread stream: each of its calls has a mark
        stream->batch = nvs_stream_batch(stream);
}

// Takes in the marks that have completed.
static void nvs_stream_retire(struct nvs_stream *stream) {
    while (stream->count > 0) {
        struct nvs_mark *mark = &stream->marks[stream->first];
        CUresult result = nvs_real.cuEventQuery(mark->event);
        if (result == CUDA_ERROR_NOT_READY || nvs_capture_error(result))
            return;
        if (result != CUDA_SUCCESS) {
            // The context is lost: its work will not run, and the program learns it from its own calls.
            nvs_stream_forget(stream);
            return;
        }
        nvs_stream_learn(stream, mark);
        nvs_event_give(stream, stream->before);
        stream->before = nvs_mark_pop(stream);
    }
}

// Records a mark for what is not covered yet. False: it cannot now (a capture, or too many marks).
static bool nvs_stream_mark(struct nvs_stream *stream) {
    uint64_t launched = nvs_stream_launched(stream);
    if (launched == stream->marked)
        return true;
    atomic_store_explicit(&stream->next_mark, launched + stream->batch, memory_order_relaxed);
    if (stream->count == NVS_MARKS)
        return false;
    CUevent event = nvs_event_take(stream);
    CUresult result = event == NULL ? CUDA_ERROR_OUT_OF_MEMORY : nvs_capture_record(event, stream->handle);
    uint64_t launches = launched - stream->marked;
    if (result != CUDA_SUCCESS) {
        nvs_event_give(stream, event);
        if (nvs_capture_error(result))
            return false;
        // No event can follow this work, now or later: it counts with what went before it.
        stream->marked = launched;
        if (stream->count > 0)
            stream->marks[(stream->first + stream->count - 1) % NVS_MARKS].launches += launches;
        else
            atomic_store_explicit(&stream->completed, launched, memory_order_release);
        return true;
    }
    uint64_t estimate_ns = launches * stream->latest_ns;
    stream->marks[(stream->first + stream->count) % NVS_MARKS] = (struct nvs_mark){event, launches, estimate_ns};
    stream->count++;
    stream->marked = launched;
    atomic_fetch_add_explicit(&stream->device->in_flight_ns, (int64_t)estimate_ns, memory_order_relaxed);
    return true;
}

// True if another batch may follow at once.
static bool nvs_stream_within_window(const struct nvs_stream *stream) {
    if (stream->count < 2)
        return true;
    int64_t window_ns = (int64_t)atomic_load_explicit(&stream->device->window_us, memory_order_relaxed) * 1000;
    return stream->count < NVS_MARKS && stream->estimated > 0 &&
           atomic_load_explicit(&stream->device->in_flight_ns, memory_order_relaxed) <= window_ns;
}

void nvs_stream_start(struct nvs_stream *stream) {
    CUstreamCaptureMode mode = nvs_capture_relax();
    pthread_mutex_lock(&stream->lock);
    if (atomic_load_explicit(&stream->idle, memory_order_relaxed)) {
        atomic_store_explicit(&stream->idle, false, memory_order_relaxed);
        nvs_stream_retire(stream);
        if (stream->count == 0) {
            CUevent event = stream->before != NULL ? stream->before : nvs_event_take(stream);
            stream->before = event;
            if (event != NULL && nvs_capture_record(event, stream->handle) != CUDA_SUCCESS) {
                stream->before = NULL;
                nvs_event_give(stream, event);
            }
        }
    }
    pthread_mutex_unlock(&stream->lock);
    nvs_capture_restore(mode);
    nvs_control_poke((size_t)stream->device->ordinal);
}

void nvs_stream_due(struct nvs_stream *stream) {
    CUcontext context;
    if (nvs_real.cuCtxGetCurrent(&context) == CUDA_SUCCESS && context != stream->context)
        nvs_device_context_seen(context); // made by a way that we do not see: from now on every call looks
    CUstreamCaptureMode mode = nvs_capture_relax();
    pthread_mutex_lock(&stream->lock);
    bool marked = false;
    for (;;) {
        nvs_stream_retire(stream);
        marked = marked || nvs_stream_mark(stream);
        if (nvs_stream_within_window(stream))
            break;
        CUevent oldest = stream->marks[stream->first].event;
        pthread_mutex_unlock(&stream->lock);
        CUresult result = nvs_real.cuEventSynchronize(oldest);
        pthread_mutex_lock(&stream->lock);
        if (result != CUDA_SUCCESS)
            break;
    }
    pthread_mutex_unlock(&stream->lock);
    nvs_capture_restore(mode);
}

uint64_t nvs_stream_point(struct nvs_stream *stream) {
    atomic_fetch_add_explicit(&stream->launched_others, 1, memory_order_release);
    uint64_t calls = nvs_stream_launched(stream);
    if (calls < atomic_load_explicit(&stream->next_mark, memory_order_relaxed))
        return calls; // the control thread marks it
    CUstreamCaptureMode mode = nvs_capture_relax();
    pthread_mutex_lock(&stream->lock);
    nvs_stream_retire(stream);
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
        if (stream->owner == NULL && atomic_load_explicit(&stream->alive, memory_order_acquire) && !nvs_capture_any())
            nvs_stream_mark(stream);
        nvs_stream_retire(stream);
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
        nvs_stream_retire(stream);
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
    nvs_stream_retire(stream);
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
