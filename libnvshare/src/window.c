// The window: where a launching thread is held back.
#include "capture.h"
#include "control.h"
#include "mark.h"

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
