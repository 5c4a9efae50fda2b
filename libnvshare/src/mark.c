#include "mark.h"

#include "capture.h"
#include "log.h"
#include "rest.h"

CUevent nvs_event_take(struct nvs_stream *stream) {
    if (stream->spares > 0)
        return stream->spare[--stream->spares];
    // In the stream's context, which need not be current where a program copies on a stream of another device.
    CUevent event = NULL;
    CUcontext popped;
    if (nvs_real.cuCtxPushCurrent_v2(stream->context) != CUDA_SUCCESS)
        return NULL;
    if (nvs_real.cuEventCreate(&event, CU_EVENT_BLOCKING_SYNC) != CUDA_SUCCESS)
        event = NULL;
    if (nvs_real.cuCtxPopCurrent_v2(&popped) != CUDA_SUCCESS)
        nvs_log_once(NVS_LOG_WARN, "cuCtxPopCurrent failed where an event is made");
    return event;
}

void nvs_event_give(struct nvs_stream *stream, CUevent event) {
    if (event != NULL && stream->spares < NVS_MARKS + 2)
        stream->spare[stream->spares++] = event;
}

// The oldest mark leaves, and its event becomes the caller's.
static CUevent nvs_mark_pop(struct nvs_stream *stream) {
    struct nvs_mark *mark = &stream->marks[stream->first];
    atomic_fetch_sub_explicit(&stream->device->in_flight_ns, (int64_t)mark->estimate_ns, memory_order_relaxed);
    atomic_store_explicit(&stream->completed, mark->calls, memory_order_release);
    stream->first = (stream->first + 1) % NVS_MARKS;
    stream->count--;
    stream->excused_to = stream->allowance = 0;
    return mark->event;
}

void nvs_stream_forget(struct nvs_stream *stream) {
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

// Marks that were recorded before anything was known of their work.
static void nvs_stream_estimate(struct nvs_stream *stream) {
    for (unsigned i = 0; i < stream->count; i++) {
        struct nvs_mark *mark = &stream->marks[(stream->first + i) % NVS_MARKS];
        if (mark->estimate_ns != 0)
            continue;
        mark->estimate_ns = mark->launches * stream->latest_ns;
        atomic_fetch_add_explicit(&stream->device->in_flight_ns, (int64_t)mark->estimate_ns, memory_order_relaxed);
    }
}

static void nvs_stream_learn(struct nvs_stream *stream, const struct nvs_mark *mark) {
    float elapsed_ms = 0;
    uint64_t rest_ns = stream->rest_ns;
    stream->rest_ns = 0;
    uint64_t ended_ns = nvs_clock_ns(), before_ns = stream->before_ns;
    stream->before_ns = ended_ns;
    if (stream->before == NULL ||
        nvs_real.cuEventElapsedTime(&elapsed_ms, stream->before, mark->event) != CUDA_SUCCESS || !(elapsed_ms >= 0))
        return;
    uint64_t passed_ns = (uint64_t)((double)elapsed_ms * 1e6);
    uint64_t elapsed_ns = passed_ns - (rest_ns < passed_ns ? rest_ns : passed_ns);
    if (before_ns != 0 && before_ns + passed_ns < ended_ns)
        stream->before_ns = ended_ns = before_ns + passed_ns; // it is seen late
    nvs_activity_add(&stream->device->activity, ended_ns - passed_ns, ended_ns, elapsed_ns);
    stream->elapsed_ns = elapsed_ns;
    atomic_fetch_add_explicit(&stream->device->busy_ns, elapsed_ns, memory_order_relaxed);
    uint64_t longest = atomic_load_explicit(&stream->device->longest_ns, memory_order_relaxed);
    while (elapsed_ns > longest &&
           !atomic_compare_exchange_weak_explicit(&stream->device->longest_ns, &longest, elapsed_ns,
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
    if (mark->blurred || stream->before_blurred)
        return; // the time is right, the number of calls is not: by it the next ones might seem to take no time at all
    stream->latest_ns = elapsed_ns / mark->launches;
    stream->estimates_ns[stream->estimated++ % NVS_ESTIMATES] = stream->latest_ns;
    if (stream->estimated >= 2 * NVS_ESTIMATES)
        stream->estimated -= NVS_ESTIMATES; // only "how many" up to NVS_ESTIMATES and "which next" count
    if (stream->owner == NULL)              // nobody else can mark a per-thread stream: each of its calls has a mark
        stream->batch = nvs_stream_batch(stream);
    nvs_stream_estimate(stream);
}

bool nvs_stream_retire(struct nvs_stream *stream) {
    while (stream->count > 0) {
        struct nvs_mark *mark = &stream->marks[stream->first];
        CUresult result = nvs_real.cuEventQuery(mark->event);
        if (result == CUDA_ERROR_NOT_READY)
            return true;
        if (nvs_capture_error(result))
            return false;
        if (result != CUDA_SUCCESS) {
            // The context is lost: its work will not run, and the program learns it from its own calls.
            nvs_stream_forget(stream);
            return true;
        }
        nvs_stream_learn(stream, mark);
        nvs_event_give(stream, stream->before);
        stream->before_blurred = mark->blurred;
        stream->before = nvs_mark_pop(stream);
    }
    if (nvs_rest_known(stream))
        atomic_store_explicit(&stream->completed, stream->drained_at, memory_order_release);
    return true;
}

// Has the newest mark stand behind all that was launched, where there can be no further one.
static bool nvs_stream_extend(struct nvs_stream *stream, uint64_t launched) {
    struct nvs_mark *newest = &stream->marks[(stream->first + stream->count - 1) % NVS_MARKS];
    if (nvs_capture_record(newest->event, stream->handle) != CUDA_SUCCESS)
        return false;
    newest->launches += launched - stream->marked;
    newest->calls = launched;
    stream->marked = launched;
    return true;
}

// How many calls the next batch has. Where a budget is nearly used up by what is in flight, batches get shorter, so
// that what passes its end is short, too: whoever has the card next runs beside it until it has ended, and both pay.
static uint64_t nvs_stream_next_batch(const struct nvs_stream *stream) {
    if (stream->latest_ns == 0)
        return stream->batch;
    uint64_t batch = nvs_device_budget_ns(stream->device) / 2 / stream->latest_ns;
    return batch < 1 ? 1 : batch < stream->batch ? batch : stream->batch;
}

void nvs_stream_plan_mark(struct nvs_stream *stream) {
    atomic_store_explicit(&stream->next_mark, stream->marked + nvs_stream_next_batch(stream), memory_order_relaxed);
}

bool nvs_stream_mark(struct nvs_stream *stream) {
    uint64_t launched = nvs_stream_launched(stream);
    if (launched == stream->marked)
        return true;
    atomic_store_explicit(&stream->next_mark, launched + stream->batch, memory_order_relaxed);
    if (stream->count == NVS_MARKS)
        return nvs_stream_extend(stream, launched);
    CUevent event = nvs_event_take(stream);
    CUresult result = event == NULL ? CUDA_ERROR_OUT_OF_MEMORY : nvs_capture_record(event, stream->handle);
    uint64_t launches = launched - stream->marked;
    if (result != CUDA_SUCCESS) {
        nvs_event_give(stream, event);
        if (nvs_capture_error(result))
            return false;
        // No event can follow this work, now or later: it counts with what went before it.
        stream->marked = launched;
        if (stream->count > 0) {
            struct nvs_mark *newest = &stream->marks[(stream->first + stream->count - 1) % NVS_MARKS];
            newest->launches += launches;
            newest->calls = launched;
        } else {
            atomic_store_explicit(&stream->completed, launched, memory_order_release);
        }
        return true;
    }
    uint64_t estimate_ns = launches * stream->latest_ns;
    stream->marks[(stream->first + stream->count) % NVS_MARKS] =
        (struct nvs_mark){event, launches, launched, estimate_ns, false};
    stream->count++;
    stream->marked = launched;
    atomic_fetch_add_explicit(&stream->device->in_flight_ns, (int64_t)estimate_ns, memory_order_relaxed);
    nvs_stream_plan_mark(stream);
    return true;
}

void nvs_stream_mark_beside(struct nvs_stream *stream) {
    uint64_t marked = stream->marked;
    (void)nvs_stream_mark(stream);
    uint32_t calls = NVS_LAUNCH_CALL(stream->device->ordinal) | NVS_COPY_CALL(stream->device->ordinal);
    if (stream->marked != marked && stream->count > 0 &&
        (nvs_thread_in_call(calls) || nvs_stream_launched(stream) != stream->marked))
        stream->marks[(stream->first + stream->count - 1) % NVS_MARKS].blurred = true;
}
