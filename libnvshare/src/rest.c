#include "rest.h"

#include "capture.h"
#include "clock.h"
#include "library.h"
#include "mark.h"

// A shorter pause is the launch's own.
#define NVS_REST_NS UINT64_C(250000)

void nvs_rest_begin(struct nvs_stream *stream, uint64_t launched) {
    stream->drained_ns = nvs_clock_ns();
    stream->drained_at = launched;
    // The next call comes to nvs_stream_due(), which puts this right again.
    atomic_store_explicit(&stream->next_mark, launched, memory_order_relaxed);
}

void nvs_rest_end(struct nvs_stream *stream) {
    uint64_t pause_ns = nvs_clock_ns() - stream->drained_ns;
    // More calls than this one: another thread has launched meanwhile.
    if (pause_ns >= NVS_REST_NS && nvs_stream_launched(stream) == stream->drained_at + 1) {
        (void)nvs_stream_retire(stream); // what ended before pays for itself
        stream->rest_ns += pause_ns;
    }
    stream->drained_ns = 0;
    nvs_stream_plan_mark(stream);
}

void nvs_rest_split(struct nvs_stream *stream) {
    uint64_t now_ns = nvs_clock_ns();
    if (stream->marked != stream->drained_at || nvs_stream_launched(stream) != stream->drained_at)
        return;
    stream->rest_ns += now_ns - stream->drained_ns;
    stream->drained_ns = now_ns;
}

// ---- The program's waits

// Where the program waits for its streams, or one of them: `ended` false: before, true: after. Who launches beside a
// thread that waits may be taken for at rest, for no longer than until its next call.
static void nvs_rest_wait(CUcontext of, CUstream handle, bool all, bool ended) {
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
        if (stream->context != context || !atomic_load_explicit(&stream->alive, memory_order_acquire))
            continue;
        pthread_mutex_lock(&stream->lock);
        uint64_t launched = nvs_stream_launched(stream);
        bool meant = all || (stream->handle == name && stream->owner == owner);
        if (meant && !ended)
            stream->waited_at = launched;
        else if (meant && stream->waited_at == launched && stream->drained_ns == 0)
            nvs_rest_begin(stream, launched);
        pthread_mutex_unlock(&stream->lock);
    }
}

#define NVS_WAIT_WRAPPER(name, context, stream, all, params, args)                                                     \
    NVS_EXPORT CUresult name params {                                                                                  \
        if (!nvs_library_start() || nvs_real.name == NULL)                                                             \
            return CUDA_ERROR_NOT_SUPPORTED;                                                                           \
        nvs_rest_wait((context), (stream), (all), false);                                                              \
        CUresult result = nvs_real.name args;                                                                          \
        if (result == CUDA_SUCCESS)                                                                                    \
            nvs_rest_wait((context), (stream), (all), true);                                                           \
        return result;                                                                                                 \
    }

NVS_WAIT_WRAPPER(cuStreamSynchronize, NULL, hStream, false, (CUstream hStream), (hStream))
NVS_WAIT_WRAPPER(cuStreamSynchronize_ptsz, NULL, NVS_OWN(hStream), false, (CUstream hStream), (hStream))
NVS_WAIT_WRAPPER(cuCtxSynchronize, NULL, NULL, true, (void), ())
NVS_WAIT_WRAPPER(cuCtxSynchronize_v2, ctx, NULL, true, (CUcontext ctx), (ctx))
