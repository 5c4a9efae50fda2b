#include "rest.h"

#include "capture.h"
#include "clock.h"
#include "library.h"
#include "log.h"
#include "mark.h"

// A shorter pause is the launch's own.
#define NVS_REST_NS UINT64_C(250000)

// Over longer ones the clocks of card and host go apart; an event before the next burst tells the time anew.
#define NVS_REST_LONGEST_NS UINT64_C(1000000000)

// A wait begins with a mark so long after the last that did: one that waits for each of its kernels pays little for it.
#define NVS_WAIT_MARK_NS UINT64_C(2000000)

static void nvs_rest_begin(struct nvs_stream *stream, uint64_t launched) {
    stream->drained_ns = nvs_clock_ns();
    stream->drained_at = launched;
    // The next call comes to nvs_stream_due(), which puts this right again.
    atomic_store_explicit(&stream->next_mark, launched, memory_order_relaxed);
}

void nvs_rest_end(struct nvs_stream *stream) {
    uint64_t pause_ns = nvs_clock_ns() - stream->drained_ns;
    (void)nvs_stream_retire(stream); // what ended before pays for itself
    // More calls than this one: another thread has launched meanwhile.
    if (pause_ns >= NVS_REST_NS && nvs_stream_launched(stream) == stream->drained_at + 1)
        stream->rest_ns += pause_ns;
    stream->drained_ns = 0;
    nvs_stream_plan_mark(stream);
}

bool nvs_rest_goes_on(const struct nvs_stream *stream) {
    return nvs_rest_known(stream) && stream->before != NULL &&
           atomic_load_explicit(&stream->device->busy_limit_ns, memory_order_relaxed) == UINT64_MAX &&
           nvs_clock_ns() - stream->drained_ns < NVS_REST_LONGEST_NS;
}

// ---- The program's waits

// What the program is about to wait for gets its mark while it is in flight. One that is made when it has ended would
// bring the card back to the program, and stop its neighbours once more. What has none is paid for with what comes
// next.
static void nvs_rest_mark(struct nvs_stream *stream, uint64_t launched) {
    if (launched == stream->marked || nvs_rest_known(stream) ||
        (stream->owner != NULL && stream->owner != nvs_thread_self) || nvs_capture_any())
        return;
    uint64_t now_ns = nvs_clock_ns();
    if (now_ns - stream->wait_marked_ns < NVS_WAIT_MARK_NS)
        return;
    stream->wait_marked_ns = now_ns;
    CUstreamCaptureMode mode = nvs_capture_relax();
    CUcontext popped;
    if (nvs_real.cuCtxPushCurrent_v2(stream->context) == CUDA_SUCCESS) {
        nvs_stream_mark_beside(stream);
        if (nvs_real.cuCtxPopCurrent_v2(&popped) != CUDA_SUCCESS)
            nvs_log_once(NVS_LOG_WARN, "cuCtxPopCurrent failed where the program waits");
    }
    nvs_capture_restore(mode);
}

// What the program waits for: a stream, all of a context's, or an event, whose stream nobody knows.
enum nvs_waited { NVS_WAITED_STREAM, NVS_WAITED_CONTEXT, NVS_WAITED_EVENT };

// An event says nothing of what was launched after it. The mark that was made as the wait began does: once that has
// ended, too, its stream is empty, whoever launched on it.
static bool nvs_rest_all_ended(struct nvs_stream *stream, uint64_t launched) {
    if (stream->marked != launched)
        return false;
    CUstreamCaptureMode mode = nvs_capture_relax();
    (void)nvs_stream_retire(stream);
    nvs_capture_restore(mode);
    return atomic_load_explicit(&stream->completed, memory_order_relaxed) == launched;
}

// Where the program waits for its streams, or one of them: `ended` false: before, true: after. Who launches beside a
// thread that waits may be taken for at rest, for no longer than until its next call.
static void nvs_rest_wait(CUcontext of, CUstream handle, enum nvs_waited wait, bool ended) {
    struct nvs_thread *thread = nvs_thread_self;
    CUcontext context;
    struct nvs_device *device = nvs_device_current(&context);
    if (device == NULL || thread == NULL || atomic_load_explicit(&thread->calls, memory_order_relaxed) != 0)
        return;
    if (of != NULL)
        context = of;
    const struct nvs_thread *owner = handle == CU_STREAM_PER_THREAD ? thread : NULL;
    CUstream name = handle == CU_STREAM_LEGACY ? NULL : handle;
    struct nvs_stream *stream = atomic_load_explicit(&device->streams, memory_order_acquire);
    for (; stream != NULL; stream = stream->next) {
        if (stream->context != context)
            continue;
        pthread_mutex_lock(&stream->lock);
        uint64_t launched = nvs_stream_launched(stream);
        bool meant = atomic_load_explicit(&stream->alive, memory_order_acquire) &&
                     (wait != NVS_WAITED_STREAM || (stream->handle == name && stream->owner == owner));
        if (meant && !ended) {
            nvs_rest_mark(stream, launched);
            if (wait != NVS_WAITED_EVENT) {
                stream->waited_at = launched;
                stream->waiter = thread;
            }
        } else if (meant && stream->drained_ns == 0) {
            bool empty = wait == NVS_WAITED_EVENT ? nvs_rest_all_ended(stream, launched)
                                                  : stream->waiter == thread && stream->waited_at == launched;
            if (empty)
                nvs_rest_begin(stream, launched);
        }
        pthread_mutex_unlock(&stream->lock);
    }
}

#define NVS_WAIT_WRAPPER(name, context, stream, wait, params, args)                                                    \
    NVS_EXPORT CUresult name params {                                                                                  \
        if (!nvs_library_start() || nvs_real.name == NULL)                                                             \
            return CUDA_ERROR_NOT_SUPPORTED;                                                                           \
        nvs_rest_wait((context), (stream), (wait), false);                                                             \
        CUresult result = nvs_real.name args;                                                                          \
        if (result == CUDA_SUCCESS)                                                                                    \
            nvs_rest_wait((context), (stream), (wait), true);                                                          \
        return result;                                                                                                 \
    }

NVS_WAIT_WRAPPER(cuStreamSynchronize, NULL, hStream, NVS_WAITED_STREAM, (CUstream hStream), (hStream))
NVS_WAIT_WRAPPER(cuStreamSynchronize_ptsz, NULL, NVS_OWN(hStream), NVS_WAITED_STREAM, (CUstream hStream), (hStream))
NVS_WAIT_WRAPPER(cuCtxSynchronize, NULL, NULL, NVS_WAITED_CONTEXT, (void), ())
NVS_WAIT_WRAPPER(cuCtxSynchronize_v2, ctx, NULL, NVS_WAITED_CONTEXT, (CUcontext ctx), (ctx))
NVS_WAIT_WRAPPER(cuEventSynchronize, NULL, NULL, NVS_WAITED_EVENT, (CUevent hEvent), (hEvent))

// Who asks again and again waits, too, from the first time that it is not ready.
NVS_EXPORT CUresult cuEventQuery(CUevent hEvent) {
    if (!nvs_library_start() || nvs_real.cuEventQuery == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    CUresult result = nvs_real.cuEventQuery(hEvent);
    if (result == CUDA_SUCCESS || result == CUDA_ERROR_NOT_READY)
        nvs_rest_wait(NULL, NULL, NVS_WAITED_EVENT, result == CUDA_SUCCESS);
    return result;
}
