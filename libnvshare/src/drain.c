#include "drain.h"

#include "call.h"
#include "capture.h"
#include "control.h"
#include "log.h"

// A drain that takes longer makes the client stuck (design, section 5).
#define NVS_STUCK_NS UINT64_C(5000000000)

bool nvs_drain_settle(struct nvs_device *device) {
    bool settled = true;
    (void)nvs_capture_relax(); // for good: this thread's calls are all our own
    struct nvs_stream *stream = atomic_load_explicit(&device->streams, memory_order_acquire);
    for (; stream != NULL; stream = stream->next)
        settled = nvs_stream_settle(stream) >= nvs_stream_launched(stream) && settled;
    return settled;
}

void nvs_drain_set_idle(struct nvs_device *device) {
    struct nvs_stream *stream = atomic_load_explicit(&device->streams, memory_order_acquire);
    for (; stream != NULL; stream = stream->next)
        atomic_store_explicit(&stream->idle, true, memory_order_seq_cst);
}

static void nvs_drain_state(struct nvs_device *device, enum nvs_client_state state) {
    pthread_mutex_lock(&device->lock);
    bool changed = device->state != state;
    device->state = state;
    pthread_mutex_unlock(&device->lock);
    if (changed)
        nvs_control_poke((size_t)device->ordinal);
}

void nvs_drain_begin(struct nvs_device *device, uint32_t classes, uint64_t now_ns) {
    uint32_t before = device->drain_classes;
    device->drain_classes = classes;
    if (classes == 0) {
        device->drained = false;
        nvs_drain_state(device, NVS_CLIENT_STATE_RUNNING);
    } else if ((classes & ~before) != 0) {
        if (before == 0 || device->drained)
            device->drain_started_ns = now_ns;
        device->drain_aimed = device->drained = false;
        if (device->state != NVS_CLIENT_STATE_STUCK)
            nvs_drain_state(device, NVS_CLIENT_STATE_DRAINING);
    }
}

// True if all work has ended that was launched before the gate closed. What is no part of the drain goes on meanwhile,
// and is not waited for.
static bool nvs_drain_ended(struct nvs_device *device) {
    struct nvs_stream *streams = atomic_load_explicit(&device->streams, memory_order_acquire);
    if (!device->drain_aimed) {
        uint32_t calls = 0;
        for (uint32_t class = NVS_LAUNCH; class <= NVS_COPY; class <<= 1)
            if ((device->drain_classes & class) != 0)
                calls |= nvs_call_bit((enum nvs_class)class, device->ordinal);
        if (nvs_thread_in_call(calls))
            return false;
        for (struct nvs_stream *stream = streams; stream != NULL; stream = stream->next)
            stream->drain_to = nvs_stream_launched(stream);
        device->drain_aimed = true;
    }
    (void)nvs_drain_settle(device);
    for (struct nvs_stream *stream = streams; stream != NULL; stream = stream->next)
        if (atomic_load_explicit(&stream->completed, memory_order_acquire) < stream->drain_to)
            return false;
    return true;
}

bool nvs_drain_look(struct nvs_device *device, uint64_t now_ns) {
    if (device->drain_classes == 0 || device->drained)
        return true;
    if (!nvs_drain_ended(device)) {
        if (device->state == NVS_CLIENT_STATE_DRAINING && now_ns - device->drain_started_ns > NVS_STUCK_NS) {
            nvs_drain_state(device, NVS_CLIENT_STATE_STUCK);
            nvs_log(NVS_LOG_WARN,
                    "work on %s has not ended %u s after this program's turn: its memory stays, others wait",
                    device->uuid, (unsigned)(NVS_STUCK_NS / 1000000000u));
        }
        return false;
    }
    nvs_drain_set_idle(device);
    device->drained = true;
    pthread_mutex_lock(&device->lock);
    device->drain_ns = now_ns - device->drain_started_ns;
    device->demand = device->gate_waiters > 0;
    device->state = NVS_CLIENT_STATE_WAITING;
    pthread_mutex_unlock(&device->lock);
    nvs_control_poke((size_t)device->ordinal);
    return true;
}
