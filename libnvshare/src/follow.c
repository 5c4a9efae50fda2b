// Following the plan: the control thread's side of a device. Applies grants, opens and closes the gate, at slot
// boundaries and as the memory comes and goes, has it drained when the plan closes it, and looks whether the program
// still wants the GPU.
#include "capture.h"
#include "control.h"
#include "device.h"
#include "drain.h"
#include "host_pool.h"
#include "host_reserve.h"
#include "library.h"
#include "log.h"
#include "residency.h"
#include "settings.h"
#include "slice.h"
#include "stream.h"
#include "swap.h"
#include "thread.h"

// How often a drain is looked at, and how often while only an open capture or a stuck kernel keeps it.
#define NVS_DRAIN_LOOK_NS UINT64_C(100000)
#define NVS_DEFERRED_LOOK_NS UINT64_C(10000000)

// How long memory that should move may be kept from it before that is told.
#define NVS_KEPT_NS UINT64_C(2000000000)

// How often freed memory is looked at that must not be waited for.
#define NVS_SWEEP_LOOK_NS UINT64_C(10000000)

// How often a budget is looked at that is nearly used up, and whether the work has ended: what is launched later begins
// a stretch of its own, so that the time between is not paid for.
#define NVS_BUDGET_LOOK_NS UINT64_C(500000)

// A client that launched nothing for so long, with nothing in flight, has no demand: at once if another one waits for
// it.
#define NVS_IDLE_NS UINT64_C(20000000)
#define NVS_IDLE_CONTESTED_NS UINT64_C(1000000)

static uint64_t nvs_sooner(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

// Somebody else waits for this client's turn to end.
static bool nvs_contested(const struct nvs_device *device) {
    return device->grant.mode == NVS_MODE_SERIAL && device->grant.window_us != 0 &&
           device->grant.window_us < NVS_WINDOW_US;
}

// Opens or closes the gate for these classes. Caller holds the lock.
static void nvs_gate_set(struct nvs_device *device, uint32_t closed) {
    uint32_t before = atomic_exchange_explicit(&device->closed, closed, memory_order_acq_rel);
    if ((closed & ~before) != 0)
        nvs_thread_barrier();
    if ((before & ~closed) != 0)
        pthread_cond_broadcast(&device->changed);
}

uint64_t nvs_device_launches(struct nvs_device *device) {
    uint64_t launches = 0;
    struct nvs_stream *stream = atomic_load_explicit(&device->streams, memory_order_acquire);
    for (; stream != NULL; stream = stream->next)
        launches += nvs_stream_launched(stream);
    return launches;
}

// Asks for the pinned host memory that the grants want ready for all devices together.
static void nvs_pool_follow(struct nvs_device *device) {
    CUcontext context = NULL; // any that lives; where somebody allocates just now, that of before does
    uint64_t bytes = 0;
    if (pthread_mutex_trylock(&device->memory.lock) == 0) {
        context = nvs_memory_context(device);
        pthread_mutex_unlock(&device->memory.lock);
    }
    for (size_t i = 0; i < nvs_device_count(); i++)
        bytes += nvs_devices[i].grant.pool_bytes; // which this thread alone writes
    nvs_pool_prepare(context, bytes);
}

static void nvs_apply_grant(size_t index, const nvs_grant *grant) {
    struct nvs_device *device = &nvs_devices[index];
    pthread_mutex_lock(&device->lock);
    bool first = device->grant.generation == 0;
    if (grant->may_launch && !device->grant.may_launch)
        device->hand_overs++;
    bool repool = grant->pool_bytes != device->grant.pool_bytes;
    device->grant = *grant;
    device->unmanaged = device->refused = false;
    atomic_store_explicit(&device->window_us, grant->window_us == 0 ? NVS_WINDOW_US : grant->window_us,
                          memory_order_relaxed);
    pthread_cond_broadcast(&device->changed); // for those who wait for memory
    pthread_mutex_unlock(&device->lock);
    if (repool)
        nvs_pool_follow(device);
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
    if (launches != device->launches_seen || !nvs_drain_settle(device)) {
        device->launches_seen = launches;
        device->active_ns = now_ns; // idle is who has nothing in flight: a program that waits for its own work is not
    }
    bool contested = nvs_contested(device);
    uint64_t idle_ns = contested ? NVS_IDLE_CONTESTED_NS : NVS_IDLE_NS;
    bool quiet = now_ns - device->active_ns >= idle_ns;
    if (quiet) {
        nvs_drain_set_idle(device);
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

// ---- Memory that moves

// Whether all of the device's memory is there and may be used. From the moment that it is, nothing moves.
static void nvs_memory_look(struct nvs_device *device) {
    pthread_mutex_lock(&device->lock);
    struct nvs_residency residency = nvs_device_residency(device);
    device->memory_here = nvs_residency_here(&residency);
    if (device->memory_here)
        device->at_rest = false;
    pthread_mutex_unlock(&device->lock);
}

static bool nvs_may_access(const struct nvs_device *device, const struct nvs_device *memory) {
    return device == memory ||
           (atomic_load_explicit(&memory->accessed_by, memory_order_acquire) & 1u << device->ordinal) != 0;
}

// True if all memory is there that the device's work may touch.
static bool nvs_memory_here(const struct nvs_device *device) {
    for (size_t i = 0; i < nvs_device_count(); i++)
        if (nvs_may_access(device, &nvs_devices[i]) && !nvs_devices[i].memory_here)
            return false;
    return true;
}

// True if nothing of this device can be in flight: all is drained, or no plan ever let it begin.
static bool nvs_quiet(const struct nvs_device *device) {
    return !atomic_load_explicit(&device->in_use, memory_order_acquire) ||
           (device->grant.generation == 0 && !device->unmanaged) ||
           (device->drain_classes == (NVS_LAUNCH | NVS_COPY) && device->drained);
}

// Says, once each time, what keeps memory from moving for long: the scheduler then counts on others. It is no part of
// the drain, and the program still wants its turn, without which it may never end its capture.
static void nvs_memory_kept(struct nvs_device *device, uint64_t now_ns) {
    if (device->kept_since_ns == 0)
        device->kept_since_ns = now_ns;
    if (device->kept_told || now_ns - device->kept_since_ns < NVS_KEPT_NS)
        return;
    device->kept_told = true;
    nvs_swap_failed(device, nvs_capture_any() ? "the program has a stream capture open"
                                              : "work of another GPU may still be on the memory");
}

static void nvs_memory_not_kept(struct nvs_device *device) {
    device->kept_since_ns = 0;
    device->kept_told = false;
}

// Lets the device's memory move once nothing can touch it any more. False: something still can.
static bool nvs_memory_rest(struct nvs_device *device) {
    if (device->memory_here)
        return true;
    for (size_t i = 0; i < nvs_device_count(); i++)
        if (nvs_may_access(&nvs_devices[i], device) && !nvs_quiet(&nvs_devices[i]))
            return false;
    for (size_t i = 0; i < nvs_device_count(); i++) // copies that another device began
        if (nvs_stream_reaches(&nvs_devices[i], device)) {
            (void)nvs_drain_settle(&nvs_devices[i]);
            return false;
        }
    if (nvs_capture_any()) // what is being captured may name the memory
        return false;
    pthread_mutex_lock(&device->lock);
    device->at_rest = true;
    pthread_mutex_unlock(&device->lock);
    nvs_swap_wake(device);
    return true;
}

// ---- Caps

// Pays for the work that has ended, and tells the launching threads what is left. True: enough for a launch. Sets when
// to look again.
static bool nvs_budget_look(struct nvs_device *device, uint64_t now_ns, uint64_t *until_ns) {
    static const nvs_grant uncapped = {0};
    struct nvs_budget *budget = &device->budget;
    nvs_budget_plan(budget, device->unmanaged ? &uncapped : &device->grant, now_ns);
    bool capped = budget->period_ns != 0;
    bool settled = capped && nvs_drain_settle(device);
    uint64_t busy_ns = atomic_load_explicit(&device->busy_ns, memory_order_relaxed);
    nvs_budget_bill(budget, busy_ns - device->busy_billed_ns, settled, now_ns);
    nvs_budget_refill(budget, now_ns);
    device->busy_billed_ns = busy_ns;
    uint64_t left_ns = capped ? nvs_budget_affords_ns(budget) : 0;
    atomic_store_explicit(&device->busy_limit_ns, capped ? busy_ns + left_ns : UINT64_MAX, memory_order_relaxed);
    *until_ns = NVS_CONTROL_NEVER_NS;
    if (!capped)
        return true;
    int64_t estimate_ns = atomic_load_explicit(&device->in_flight_ns, memory_order_relaxed);
    uint64_t in_flight_ns = settled || estimate_ns < 0 ? 0 : (uint64_t)estimate_ns;
    uint64_t window_ns = atomic_load_explicit(&device->window_us, memory_order_relaxed) * UINT64_C(1000);
    bool open = left_ns > in_flight_ns;
    // What is in flight may end, and another window of work may use the budget up, so much later at the soonest.
    uint64_t look_ns = in_flight_ns;
    if (open && left_ns - in_flight_ns < window_ns)
        look_ns = 0;
    if (settled)
        nvs_drain_set_idle(device);
    if (settled && budget->left_ns >= (int64_t)budget->length_ns)
        return true; // until it launches something there is nothing to pay and nothing to give
    *until_ns = budget->credited_to_ns;
    if (left_ns > 0 && !settled)
        *until_ns = nvs_sooner(*until_ns, now_ns + (look_ns > NVS_BUDGET_LOOK_NS ? look_ns : NVS_BUDGET_LOOK_NS));
    return open;
}

// ---- One look at a device

// The plan keeps these classes from passing: drains them, then lets the memory move.
static uint64_t nvs_device_held(struct nvs_device *device, uint64_t now_ns) {
    if (!nvs_drain_look(device, now_ns))
        return now_ns + (device->state == NVS_CLIENT_STATE_STUCK ? NVS_DEFERRED_LOOK_NS : NVS_DRAIN_LOOK_NS);
    pthread_mutex_lock(&device->lock);
    device->demand = device->gate_waiters > 0;
    pthread_mutex_unlock(&device->lock);
    if (!nvs_memory_rest(device)) {
        nvs_memory_kept(device, now_ns);
        return now_ns + (nvs_capture_any() ? NVS_DEFERRED_LOOK_NS : NVS_DRAIN_LOOK_NS);
    }
    nvs_memory_not_kept(device);
    return NVS_CONTROL_NEVER_NS;
}

static uint64_t nvs_device_tick(struct nvs_device *device, uint64_t now_ns) {
    if (device->grant.generation == 0 && !device->unmanaged) {
        pthread_mutex_lock(&device->lock);
        device->demand = device->gate_waiters > 0;
        pthread_mutex_unlock(&device->lock);
        return nvs_without_relay(device, now_ns);
    }
    uint64_t budget_until_ns;
    bool affords = nvs_budget_look(device, now_ns, &budget_until_ns);
    bool here = nvs_memory_here(device);
    uint32_t held = here ? 0 : NVS_LAUNCH | NVS_COPY;
    if (!device->unmanaged && !device->grant.may_launch)
        held |= NVS_LAUNCH;
    pthread_mutex_lock(&device->lock);
    nvs_gate_set(device, held | (affords ? 0 : NVS_LAUNCH));
    pthread_mutex_unlock(&device->lock);
    // One that was revoked would never drain at a short slice beside a busy neighbour.
    nvs_slice_follow(device, device->unmanaged || held != 0 ? 0 : device->grant.timeslice_us, now_ns);
    nvs_drain_begin(device, held, now_ns);
    if (held != 0)
        return nvs_device_held(device, now_ns);
    nvs_memory_not_kept(device);
    return nvs_sooner(budget_until_ns, nvs_look(device, now_ns));
}

static uint64_t nvs_tick(uint64_t now_ns) {
    if (nvs_library_leaving())
        return NVS_CONTROL_NEVER_NS;
    uint64_t next_ns = nvs_host_reserve_look(now_ns);
    for (size_t i = 0; i < nvs_device_count(); i++)
        nvs_memory_look(&nvs_devices[i]);
    for (size_t i = 0; i < nvs_device_count(); i++) {
        if (!atomic_load_explicit(&nvs_devices[i].in_use, memory_order_acquire))
            continue;
        next_ns = nvs_sooner(next_ns, nvs_device_tick(&nvs_devices[i], now_ns));
        if (!nvs_memory_sweep(&nvs_devices[i], false))
            next_ns = nvs_sooner(next_ns, now_ns + NVS_SWEEP_LOOK_NS);
    }
    return next_ns;
}

static void nvs_connection_changed(bool connected) {
    if (connected)
        return; // every device is reported anyway
    for (size_t i = 0; i < nvs_device_count(); i++)
        nvs_control_poke(i); // so that a tick looks at the setting without a relay
}

const struct nvs_control_hooks nvs_device_control_hooks = {
    .device_count = nvs_device_count,
    .fill_report = nvs_device_fill_report,
    .apply_grant = nvs_apply_grant,
    .tick = nvs_tick,
    .connection_changed = nvs_connection_changed,
};
