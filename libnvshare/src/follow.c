// Following the plan: the control thread's side of a device. Applies grants, opens and closes the gate at slot
// boundaries, drains what is in flight when the client is revoked, and looks whether the program still wants the GPU.
#include "capture.h"
#include "control.h"
#include "device.h"
#include "gang.h"
#include "library.h"
#include "log.h"
#include "plan.h"
#include "settings.h"
#include "stream.h"
#include "thread.h"

#include <string.h>

// A drain that takes longer makes the client stuck (design, section 5).
#define NVS_STUCK_NS UINT64_C(5000000000)

// How often a drain is looked at.
#define NVS_DRAIN_LOOK_NS UINT64_C(100000)

// A client that launched nothing for so long, with nothing in flight, has no demand: at once if another one waits for
// it.
#define NVS_IDLE_NS UINT64_C(20000000)
#define NVS_IDLE_CONTESTED_NS UINT64_C(1000000)

// Over which busy shares and longest times are taken: over less they say little.
#define NVS_REPORT_SPAN_NS UINT64_C(500000000)

static uint64_t nvs_sooner(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

// Somebody else waits for this client's turn to end.
static bool nvs_contested(const struct nvs_device *device) {
    return device->grant.mode == NVS_MODE_SERIAL && device->grant.window_us != 0 &&
           device->grant.window_us < NVS_WINDOW_US;
}

// Opens or closes the gate for these classes. Caller holds the lock. True: it closed for one that was open.
static bool nvs_gate_set(struct nvs_device *device, uint32_t closed) {
    uint32_t before = atomic_exchange_explicit(&device->closed, closed, memory_order_acq_rel);
    bool closes = (closed & ~before) != 0;
    if (closes)
        nvs_thread_barrier();
    if ((before & ~closed) != 0)
        pthread_cond_broadcast(&device->changed);
    return closes;
}

uint64_t nvs_device_launches(struct nvs_device *device) {
    uint64_t launches = 0;
    struct nvs_stream *stream = atomic_load_explicit(&device->streams, memory_order_acquire);
    for (; stream != NULL; stream = stream->next)
        launches += nvs_stream_launched(stream);
    return launches;
}

// Marks what is not marked yet, and takes in what has completed. True if nothing is in flight.
static bool nvs_settle(struct nvs_device *device) {
    bool settled = true;
    (void)nvs_capture_relax(); // for good: this thread's calls are all our own
    struct nvs_stream *stream = atomic_load_explicit(&device->streams, memory_order_acquire);
    for (; stream != NULL; stream = stream->next)
        settled = nvs_stream_settle(stream) >= nvs_stream_launched(stream) && settled;
    return settled;
}

// True if all work has ended that was launched before the gate closed. Copies go on meanwhile, and are not waited for.
static bool nvs_drained(struct nvs_device *device) {
    struct nvs_stream *streams = atomic_load_explicit(&device->streams, memory_order_acquire);
    if (!device->drain_aimed) {
        if (nvs_thread_in_call(NVS_LAUNCH_CALL(device->ordinal)))
            return false;
        for (struct nvs_stream *stream = streams; stream != NULL; stream = stream->next)
            stream->drain_to = nvs_stream_launched(stream);
        device->drain_aimed = true;
    }
    (void)nvs_settle(device);
    for (struct nvs_stream *stream = streams; stream != NULL; stream = stream->next)
        if (atomic_load_explicit(&stream->completed, memory_order_acquire) < stream->drain_to)
            return false;
    return true;
}

static void nvs_set_idle(struct nvs_device *device) {
    struct nvs_stream *stream = atomic_load_explicit(&device->streams, memory_order_acquire);
    for (; stream != NULL; stream = stream->next)
        atomic_store_explicit(&stream->idle, true, memory_order_seq_cst);
}

// One step of the way out. True: it is over.
static bool nvs_drain_step(struct nvs_device *device, uint64_t now_ns) {
    if (!nvs_drained(device)) {
        pthread_mutex_lock(&device->lock);
        bool stuck = device->state == NVS_CLIENT_STATE_DRAINING && now_ns - device->drain_started_ns > NVS_STUCK_NS;
        if (stuck)
            device->state = NVS_CLIENT_STATE_STUCK;
        pthread_mutex_unlock(&device->lock);
        if (stuck) {
            nvs_log(NVS_LOG_WARN,
                    "work on %s has not ended %u s after this program's turn: its memory stays, others wait",
                    device->uuid, (unsigned)(NVS_STUCK_NS / 1000000000u));
            nvs_control_poke((size_t)device->ordinal);
        }
        return false;
    }
    nvs_set_idle(device);
    pthread_mutex_lock(&device->lock);
    device->drain_ns = now_ns - device->drain_started_ns;
    device->state = NVS_CLIENT_STATE_WAITING;
    device->demand = device->gate_waiters > 0;
    pthread_mutex_unlock(&device->lock);
    nvs_control_poke((size_t)device->ordinal);
    return true;
}

static void nvs_apply_grant(size_t index, const nvs_grant *grant) {
    struct nvs_device *device = &nvs_devices[index];
    uint64_t now_ns = nvs_clock_ns();
    pthread_mutex_lock(&device->lock);
    bool first = device->grant.generation == 0;
    bool ran = device->state == NVS_CLIENT_STATE_RUNNING;
    device->grant = *grant;
    device->unmanaged = device->refused = false;
    atomic_store_explicit(&device->window_us, grant->window_us == 0 ? NVS_WINDOW_US : grant->window_us,
                          memory_order_relaxed);
    if (grant->may_launch) {
        if (!ran)
            device->hand_overs++;
        device->state = NVS_CLIENT_STATE_RUNNING;
        nvs_gate_set(device, nvs_plan_at(grant, now_ns).open ? 0 : NVS_LAUNCH);
    } else {
        nvs_gate_set(device, NVS_LAUNCH);
        if (ran) {
            device->state = NVS_CLIENT_STATE_DRAINING;
            device->drain_started_ns = now_ns;
            device->drain_aimed = false;
        }
    }
    pthread_cond_broadcast(&device->changed); // for those who wait for memory
    pthread_mutex_unlock(&device->lock);
    if (first)
        nvs_log(NVS_LOG_INFO, "%s: first plan, scheduler build %s", device->uuid, grant->build);
    if (nvs_log_enabled(NVS_LOG_DEBUG))
        nvs_log(NVS_LOG_DEBUG, "%s: grant %llu.%llu.%llu launch=%d resident=%llu headroom=%llu wait=%d", device->uuid,
                (unsigned long long)grant->generation, (unsigned long long)grant->epoch,
                (unsigned long long)grant->sequence, grant->may_launch, (unsigned long long)grant->resident_bytes,
                (unsigned long long)grant->headroom_bytes, grant->wait);
    nvs_control_poke(index);
}

// Whether the program still wants the GPU; returns when to look again.
static uint64_t nvs_look(struct nvs_device *device, uint64_t now_ns) {
    uint64_t launches = nvs_device_launches(device);
    if (launches != device->launches_seen || !nvs_settle(device)) {
        device->launches_seen = launches;
        device->active_ns = now_ns; // idle is who has nothing in flight: a program that waits for its own work is not
    }
    bool contested = nvs_contested(device);
    uint64_t idle_ns = contested ? NVS_IDLE_CONTESTED_NS : NVS_IDLE_NS;
    bool quiet = now_ns - device->active_ns >= idle_ns;
    if (quiet) {
        nvs_set_idle(device);
        nvs_thread_barrier(); // a call is seen below, or sees the flag and wakes this thread
        quiet = !nvs_thread_in_call(NVS_LAUNCH_CALL(device->ordinal) | NVS_COPY_CALL(device->ordinal)) &&
                nvs_device_launches(device) == device->launches_seen;
    }
    pthread_mutex_lock(&device->lock);
    bool demand = !quiet || device->gate_waiters > 0;
    bool changed = demand != device->demand;
    device->demand = demand;
    pthread_mutex_unlock(&device->lock);
    if (changed)
        nvs_control_poke((size_t)device->ordinal);
    if (quiet)
        return NVS_CONTROL_NEVER_NS; // the next launch pokes
    return now_ns + idle_ns / 2;
}

// What to do for a device that has no plan yet, by setting. Returns when to look again.
static uint64_t nvs_without_relay(struct nvs_device *device, uint64_t now_ns) {
    const struct nvs_settings *settings = nvs_settings_read();
    if (device->unplanned_since_ns == 0)
        device->unplanned_since_ns = now_ns;
    if (settings->without_relay == NVS_WITHOUT_RELAY_WAIT || device->unmanaged || device->refused)
        return NVS_CONTROL_NEVER_NS;
    uint64_t until_ns = device->unplanned_since_ns + settings->without_relay_seconds * UINT64_C(1000000000);
    if (now_ns < until_ns)
        return until_ns;
    pthread_mutex_lock(&device->lock);
    if (settings->without_relay == NVS_WITHOUT_RELAY_UNMANAGED) {
        device->unmanaged = true;
        device->state = NVS_CLIENT_STATE_RUNNING;
        nvs_gate_set(device, 0);
        nvs_log(NVS_LOG_WARN, "no plan for %s after %u s: running unmanaged (NVSHARE_WITHOUT_RELAY=unmanaged)",
                device->uuid, settings->without_relay_seconds);
    } else {
        device->refused = true;
        nvs_log(NVS_LOG_ERROR, "no plan for %s after %u s: CUDA calls fail (NVSHARE_WITHOUT_RELAY=fail)", device->uuid,
                settings->without_relay_seconds);
    }
    pthread_cond_broadcast(&device->changed);
    pthread_mutex_unlock(&device->lock);
    return NVS_CONTROL_NEVER_NS;
}

static uint64_t nvs_device_tick(struct nvs_device *device, uint64_t now_ns) {
    if (device->state == NVS_CLIENT_STATE_DRAINING || device->state == NVS_CLIENT_STATE_STUCK) {
        if (!nvs_drain_step(device, now_ns))
            return now_ns + (device->state == NVS_CLIENT_STATE_STUCK ? 100 * NVS_DRAIN_LOOK_NS : NVS_DRAIN_LOOK_NS);
        return NVS_CONTROL_NEVER_NS;
    }
    if (device->state != NVS_CLIENT_STATE_RUNNING) {
        pthread_mutex_lock(&device->lock);
        device->demand = device->gate_waiters > 0;
        pthread_mutex_unlock(&device->lock);
        return device->grant.generation == 0 ? nvs_without_relay(device, now_ns) : NVS_CONTROL_NEVER_NS;
    }
    uint64_t next_ns = NVS_CONTROL_NEVER_NS;
    if (!device->unmanaged) {
        struct nvs_slot_answer slot = nvs_plan_at(&device->grant, now_ns);
        pthread_mutex_lock(&device->lock);
        bool closed = nvs_gate_set(device, slot.open ? 0 : NVS_LAUNCH);
        pthread_mutex_unlock(&device->lock);
        if (closed)
            (void)nvs_settle(device); // marks the end of the slot's work
        next_ns = slot.until_ns;
    }
    return nvs_sooner(next_ns, nvs_look(device, now_ns));
}

static uint64_t nvs_tick(uint64_t now_ns) {
    uint64_t next_ns = NVS_CONTROL_NEVER_NS;
    if (nvs_library_leaving())
        return next_ns;
    for (size_t i = 0; i < nvs_device_count(); i++)
        if (atomic_load_explicit(&nvs_devices[i].in_use, memory_order_acquire))
            next_ns = nvs_sooner(next_ns, nvs_device_tick(&nvs_devices[i], now_ns));
    return next_ns;
}

static bool nvs_fill_report(size_t index, nvs_report *report) {
    struct nvs_device *device = &nvs_devices[index];
    if (!atomic_load_explicit(&device->in_use, memory_order_acquire))
        return false;
    uint64_t now_ns = nvs_clock_ns();
    uint64_t busy_ns = atomic_load_explicit(&device->busy_ns, memory_order_relaxed);
    uint64_t elapsed_ns = now_ns - device->reported_ns;
    uint64_t permille = elapsed_ns == 0 ? 0 : (busy_ns - device->busy_reported_ns) * 1000 / elapsed_ns;
    if (elapsed_ns > NVS_REPORT_SPAN_NS) {
        device->busy_reported_ns = busy_ns;
        device->longest_reported_ns = atomic_exchange_explicit(&device->longest_ns, 0, memory_order_relaxed);
        device->reported_ns = now_ns;
    }
    uint64_t longest_ns = atomic_load_explicit(&device->longest_ns, memory_order_relaxed);
    memcpy(report->gpu, device->uuid, sizeof(report->gpu));
    report->busy_permille = permille > 1000 ? 1000 : (uint32_t)permille;
    report->busy_us = busy_ns / 1000;
    report->longest_work_us =
        (uint32_t)((longest_ns > device->longest_reported_ns ? longest_ns : device->longest_reported_ns) / 1000);
    report->window_us = atomic_load_explicit(&device->window_us, memory_order_relaxed);
    report->launches = nvs_device_launches(device);
    report->leaving = nvs_library_leaving();
    report->gang = nvs_gang_seen(device);
    pthread_mutex_lock(&device->lock);
    report->generation = device->grant.generation;
    report->epoch = device->grant.epoch;
    report->state = (int32_t)device->state;
    report->demand = device->demand || device->gate_waiters > 0;
    report->footprint_bytes = report->resident_bytes = device->reported_bytes = device->footprint_bytes;
    report->allocation_waits = device->memory_waiters > 0;
    report->wanted_bytes = report->allocation_waits ? device->footprint_bytes + device->waiting_bytes : 0;
    report->drain_us = (uint32_t)(device->drain_ns / 1000);
    report->gate_wait_us = device->gate_wait_ns / 1000;
    report->allocation_wait_us = device->allocation_wait_ns / 1000;
    report->hand_overs = device->hand_overs;
    pthread_mutex_unlock(&device->lock);
    return true;
}

static void nvs_connection_changed(bool connected) {
    if (connected)
        return; // every device is reported anyway
    for (size_t i = 0; i < nvs_device_count(); i++)
        nvs_control_poke(i); // so that a tick looks at the setting without a relay
}

const struct nvs_control_hooks nvs_device_control_hooks = {
    .device_count = nvs_device_count,
    .fill_report = nvs_fill_report,
    .apply_grant = nvs_apply_grant,
    .tick = nvs_tick,
    .connection_changed = nvs_connection_changed,
};
