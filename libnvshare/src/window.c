// The window: where a launching thread is held back while the device has enough work in flight.
//
// What holds the stream up may be waiting for this very thread: a wait on a value, a host function, an event of a
// stream that itself waits. So the wait never lasts for ever. When a stream has ended nothing for longer than its work
// explains, it is waited on no more for a few calls, then for four times as many, and so on until a mark completes: a
// few long kernels more are in flight where it was only long kernels, and all that the driver itself takes are soon
// through where it was not. Where a wait on a value is on the stream itself, that is known at once, and all of its
// calls pass until it has ended.
#include "capture.h"
#include "clock.h"
#include "control.h"
#include "mark.h"
#include "rest.h"

#include <time.h>

// A stream that ends nothing for so long, or for twice as long as its last mark took, waits for something else.
#define NVS_PATIENCE_NS UINT64_C(1000000000)
#define NVS_PATIENCE_MAX_NS UINT64_C(10000000000)
#define NVS_PATIENCE_AWAITING_NS UINT64_C(20000000)
#define NVS_ALLOWANCE_GROWTH 4u

// Between two looks: short at first, so that the card does not run dry, then so long that looking costs nothing.
#define NVS_LOOK_FIRST_NS 20000L
#define NVS_LOOK_LONGEST_NS 500000L

// True if another batch may follow at once.
static bool nvs_stream_within_window(const struct nvs_stream *stream) {
    if (nvs_device_budget_ns(stream->device) == 0)
        return stream->count == 0; // by then the gate is closed
    if (stream->count < 2)
        return true;
    int64_t window_ns = (int64_t)atomic_load_explicit(&stream->device->window_us, memory_order_relaxed) * 1000;
    return stream->count < NVS_MARKS && stream->estimated > 0 &&
           atomic_load_explicit(&stream->device->in_flight_ns, memory_order_relaxed) <= window_ns;
}

static bool nvs_stream_awaits(const struct nvs_stream *stream) {
    return atomic_load_explicit(&stream->awaits, memory_order_relaxed) >
           atomic_load_explicit(&stream->completed, memory_order_relaxed);
}

static uint64_t nvs_stream_patience_ns(const struct nvs_stream *stream) {
    uint64_t explained_ns = 2 * stream->elapsed_ns;
    if (nvs_stream_awaits(stream))
        return NVS_PATIENCE_AWAITING_NS;
    if (explained_ns < NVS_PATIENCE_NS)
        return NVS_PATIENCE_NS;
    return explained_ns < NVS_PATIENCE_MAX_NS ? explained_ns : NVS_PATIENCE_MAX_NS;
}

// Caller holds the stream's lock. True: its calls pass for now, whatever is in flight.
static bool nvs_stream_excused(struct nvs_stream *stream, uint64_t waited_ns) {
    uint64_t launched = nvs_stream_launched(stream);
    if (launched < stream->excused_to)
        return true;
    if (waited_ns < nvs_stream_patience_ns(stream))
        return false;
    stream->allowance = stream->allowance == 0 ? stream->batch : NVS_ALLOWANCE_GROWTH * stream->allowance;
    stream->excused_to = nvs_stream_awaits(stream) ? UINT64_MAX : launched + stream->allowance;
    return true;
}

static void nvs_stream_pause(long *pause_ns) {
    const struct timespec pause = {.tv_nsec = *pause_ns};
    (void)nanosleep(&pause, NULL); // a signal only makes it look sooner
    *pause_ns = 2 * *pause_ns < NVS_LOOK_LONGEST_NS ? 2 * *pause_ns : NVS_LOOK_LONGEST_NS;
}

// What comes after a pause may be longer than what was before it, by more than the budget has.
static void nvs_stream_unlearn(struct nvs_stream *stream) {
    stream->batch = 1;
    stream->estimated = 0;
    stream->latest_ns = 0;
    atomic_store_explicit(&stream->next_mark, nvs_stream_launched(stream) + 1, memory_order_relaxed);
}

void nvs_stream_start(struct nvs_stream *stream) {
    CUstreamCaptureMode mode = nvs_capture_relax();
    pthread_mutex_lock(&stream->lock);
    if (atomic_load_explicit(&stream->idle, memory_order_relaxed)) {
        atomic_store_explicit(&stream->idle, false, memory_order_relaxed);
        (void)nvs_stream_retire(stream);
        if (atomic_load_explicit(&stream->device->busy_limit_ns, memory_order_relaxed) != UINT64_MAX)
            nvs_stream_unlearn(stream);
        if (stream->count == 0 && nvs_stream_launched(stream) == stream->marked && !nvs_rest_goes_on(stream)) {
            CUevent event = stream->before != NULL ? stream->before : nvs_event_take(stream);
            stream->before = event;
            stream->drained_ns = stream->rest_ns = 0;
            stream->before_blurred = false;
            stream->before_ns = 0;
            if (event != NULL && nvs_capture_record(event, stream->handle) != CUDA_SUCCESS) {
                stream->before = NULL;
                nvs_event_give(stream, event);
            }
        }
    }
    pthread_mutex_unlock(&stream->lock);
    nvs_capture_restore(mode);
    nvs_control_wake();
}

void nvs_stream_due(struct nvs_stream *stream) {
    CUcontext context;
    if (nvs_real.cuCtxGetCurrent(&context) == CUDA_SUCCESS && context != stream->context)
        nvs_device_context_seen(context); // made by a way that we do not see: from now on every call looks
    CUstreamCaptureMode mode = nvs_capture_relax();
    pthread_mutex_lock(&stream->lock);
    if (stream->drained_ns != 0)
        nvs_rest_end(stream);
    bool due = nvs_stream_launched(stream) >= atomic_load_explicit(&stream->next_mark, memory_order_relaxed);
    bool marked = false;
    long pause_ns = NVS_LOOK_FIRST_NS;
    uint64_t since_ns = 0, completed = 0;
    while (due) {
        bool looked = nvs_stream_retire(stream);
        marked = marked || nvs_stream_mark(stream);
        if (!looked || nvs_stream_within_window(stream))
            break;
        uint64_t now_ns = nvs_clock_ns(),
                 now_completed = atomic_load_explicit(&stream->completed, memory_order_relaxed);
        if (since_ns == 0 || completed != now_completed) {
            completed = now_completed;
            since_ns = now_ns;
        }
        if (nvs_stream_excused(stream, now_ns - since_ns))
            break;
        pthread_mutex_unlock(&stream->lock);
        nvs_stream_pause(&pause_ns);
        pthread_mutex_lock(&stream->lock);
    }
    pthread_mutex_unlock(&stream->lock);
    nvs_capture_restore(mode);
}
