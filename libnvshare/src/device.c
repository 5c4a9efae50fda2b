#include "device.h"

#include "control.h"
#include "host_pool.h"
#include "library.h"
#include "log.h"
#include "managed.h"
#include "residency.h"
#include "settings.h"
#include "swap.h"
#include "thread.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

struct nvs_device nvs_devices[NVS_DEVICES_MAX];

static atomic_size_t nvs_devices_known;
static pthread_mutex_t nvs_learn_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic uint64_t nvs_context_epoch = 1;

static atomic_bool nvs_several_contexts; // once true, for ever

// How long a waiting thread waits before it says (again) what it waits for.
#define NVS_SAY_FIRST_NS UINT64_C(1000000000)
#define NVS_SAY_AGAIN_NS UINT64_C(10000000000)

size_t nvs_device_count(void) {
    return atomic_load_explicit(&nvs_devices_known, memory_order_acquire);
}

static void nvs_device_reset(struct nvs_device *device) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&device->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&device->lock, NULL);
    atomic_store(&device->in_use, false);
    atomic_store(&device->gang, false);
    atomic_store(&device->closed, NVS_LAUNCH | NVS_COPY);
    atomic_store(&device->window_us, NVS_WINDOW_US);
    memset(&device->grant, 0, sizeof(device->grant));
    device->unmanaged = device->refused = device->demand = false;
    device->lost = CUDA_SUCCESS;
    device->state = NVS_CLIENT_STATE_WAITING;
    device->gate_waiters = device->memory_waiters = 0;
    device->footprint_bytes = device->needed_bytes = device->present_bytes = device->pinned_bytes = 0;
    device->waiting_bytes = device->waiting_needed_bytes = device->reported_bytes = 0;
    nvs_memory_reset(&device->memory);
    nvs_swap_reset(device);
    nvs_managed_reset(device);
    memset(&device->pins, 0, sizeof(device->pins));
    memset(&device->activity, 0, sizeof(device->activity));
    device->gate_wait_ns = device->allocation_wait_ns = device->hand_overs = 0;
    device->unplanned_since_ns = 0;
    device->moving_bytes = device->host_room_bytes = 0;
    device->at_rest = device->drain_aimed = device->drained = device->kept_told = false;
    device->kept_since_ns = 0;
    device->memory_here = true;
    device->drain_classes = 0;
    device->budget = (struct nvs_budget){0};
    atomic_store(&device->busy_limit_ns, UINT64_MAX);
    atomic_store(&device->accessed_by, 0);
    device->launches_seen = device->active_ns = device->drain_ns = device->drain_started_ns = 0;
}

static void nvs_uuid_text(const CUuuid *uuid, char text[NVS_GPU_SIZE]) {
    char hex[33];
    for (size_t i = 0; i < 16; i++)
        snprintf(hex + 2 * i, 3, "%02x", (unsigned char)uuid->bytes[i]);
    snprintf(text, NVS_GPU_SIZE, "GPU-%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}

void nvs_devices_learn(void) {
    if (nvs_device_count() > 0)
        return;
    pthread_mutex_lock(&nvs_learn_lock);
    int count = 0;
    if (nvs_device_count() == 0 && nvs_real.cuDeviceGetCount(&count) == CUDA_SUCCESS && count > 0) {
        if (count > NVS_DEVICES_MAX) {
            nvs_log(NVS_LOG_WARN, "%d GPUs are visible; nvshare manages the first %d of them", count, NVS_DEVICES_MAX);
            count = NVS_DEVICES_MAX;
        }
        for (int i = 0; i < count; i++) {
            CUdevice handle;
            CUuuid uuid;
            memset(&uuid, 0, sizeof(uuid));
            nvs_device_reset(&nvs_devices[i]);
            nvs_devices[i].ordinal = i;
            if (nvs_real.cuDeviceGet(&handle, i) != CUDA_SUCCESS ||
                nvs_real.cuDeviceGetUuid_v2(&uuid, handle) != CUDA_SUCCESS)
                nvs_log(NVS_LOG_ERROR, "GPU %d does not tell its UUID; nvshare cannot manage it", i);
            nvs_uuid_text(&uuid, nvs_devices[i].uuid);
            size_t total_bytes;
            nvs_devices[i].total_bytes =
                nvs_real.cuDeviceTotalMem_v2(&total_bytes, handle) == CUDA_SUCCESS ? total_bytes : UINT64_MAX;
        }
        atomic_store_explicit(&nvs_devices_known, (size_t)count, memory_order_release);
    }
    pthread_mutex_unlock(&nvs_learn_lock);
}

struct nvs_device *nvs_device_of_ordinal(int ordinal) {
    return ordinal >= 0 && (size_t)ordinal < nvs_device_count() ? &nvs_devices[ordinal] : NULL;
}

struct nvs_device *nvs_device_of_uuid(const char *uuid) {
    for (size_t i = 0; i < nvs_device_count(); i++)
        if (strcmp(nvs_devices[i].uuid, uuid) == 0)
            return &nvs_devices[i];
    return NULL;
}

struct nvs_device *nvs_device_current(CUcontext *current) {
    CUcontext context = NULL;
    if (nvs_real.cuCtxGetCurrent == NULL || nvs_real.cuCtxGetCurrent(&context) != CUDA_SUCCESS || context == NULL)
        return NULL;
    if (current != NULL)
        *current = context;
    nvs_device_context_seen(context);
    struct nvs_thread *thread = nvs_thread_self;
    uint64_t epoch = atomic_load_explicit(&nvs_context_epoch, memory_order_acquire);
    if (thread != NULL && thread->context == context && thread->context_epoch == epoch)
        return nvs_device_of_ordinal(thread->device);
    CUdevice device;
    if (nvs_real.cuCtxGetDevice(&device) != CUDA_SUCCESS)
        return NULL;
    nvs_devices_learn(); // the driver was started by a way that we did not see
    if (thread != NULL) {
        thread->context = context;
        thread->context_epoch = epoch;
        thread->device = device;
    }
    return nvs_device_of_ordinal(device);
}

struct nvs_device *nvs_device_of_context(CUcontext context) {
    if (context == NULL || nvs_real.cuCtxPushCurrent_v2(context) != CUDA_SUCCESS)
        return NULL;
    struct nvs_device *device = nvs_device_current(NULL);
    CUcontext popped;
    return nvs_real.cuCtxPopCurrent_v2(&popped) == CUDA_SUCCESS ? device : NULL;
}

void nvs_device_context_seen(CUcontext context) {
    if (context == NULL || atomic_load_explicit(&nvs_several_contexts, memory_order_acquire))
        return;
    CUcontext sole = NULL;
    if (!atomic_compare_exchange_strong(&nvs_hot.sole_context, &sole, context) && sole != context)
        atomic_store(&nvs_several_contexts, true);
    // Looked at again after the exchange: another thread may have found a second context beside it.
    if (atomic_load(&nvs_several_contexts))
        atomic_store(&nvs_hot.sole_context, NULL);
}

void nvs_device_context_ended(CUcontext context) {
    CUcontext sole = context;
    atomic_compare_exchange_strong_explicit(&nvs_hot.sole_context, &sole, NULL, memory_order_acq_rel,
                                            memory_order_relaxed);
    atomic_fetch_add_explicit(&nvs_context_epoch, 1, memory_order_acq_rel);
}

// The scheduler may wait for it before it takes memory away (decision 0008).
static void nvs_device_pool_ready(void) {
    for (size_t i = 0; i < nvs_device_count(); i++)
        if (atomic_load_explicit(&nvs_devices[i].in_use, memory_order_acquire))
            nvs_control_poke(i);
}

void nvs_device_use(struct nvs_device *device) {
    if (atomic_load_explicit(&device->in_use, memory_order_acquire))
        return;
    atomic_store_explicit(&device->in_use, true, memory_order_release);
    nvs_pool_start(nvs_device_pool_ready);
    int error = nvs_control_start(&nvs_device_control_hooks);
    if (error != 0)
        nvs_log(NVS_LOG_ERROR, "cannot start the control thread: %s", strerror(error));
    nvs_control_poke((size_t)device->ordinal);
}

uint64_t nvs_device_ceiling_bytes(const struct nvs_device *device) {
    if (device->unmanaged)
        return UINT64_MAX;
    uint64_t ceiling = device->grant.resident_bytes + device->grant.headroom_bytes;
    return ceiling < device->grant.resident_bytes ? UINT64_MAX : ceiling;
}

struct nvs_residency nvs_device_residency(const struct nvs_device *device) {
    struct nvs_residency residency = {
        .movable = nvs_managed_on() || atomic_load_explicit(&device->memory.bytes, memory_order_acquire) != 0,
        .needed_bytes = device->needed_bytes,
        .present_bytes = device->present_bytes,
        .moving_bytes = device->moving_bytes,
        .pinned_bytes = device->pinned_bytes,
        .target_bytes = nvs_device_ceiling_bytes(device),
    };
    // Who lets a client run with its whole footprint takes nothing away: it may not know how much more that needs.
    if (device->grant.may_launch && residency.target_bytes >= device->footprint_bytes &&
        residency.target_bytes < residency.present_bytes)
        residency.target_bytes = residency.present_bytes;
    return residency;
}

uint64_t nvs_device_limit_bytes(const struct nvs_device *device) {
    return device->unmanaged || device->grant.limit_bytes == 0 ? UINT64_MAX : device->grant.limit_bytes;
}

static const char *nvs_device_wait_text(const struct nvs_device *device) {
    if (!nvs_control_connected())
        return "the relay: is the node's `nvshare up` running?";
    if (device->grant.generation == 0)
        return "its first plan from the scheduler";
    struct nvs_residency residency = nvs_device_residency(device);
    if (nvs_residency_in_bytes(&residency) > 0)
        return "its memory to come back to the card";
    switch (device->grant.wait) {
    case NVS_WAIT_TURN:
        return "its turn";
    case NVS_WAIT_MEMORY:
        return "memory on the card: it does not fit beside the others";
    case NVS_WAIT_QUOTA:
        return "its compute quota";
    default: // the last word from there says that it waits for nothing
        return "the scheduler's answer: see `nvshare status`";
    }
}

void nvs_device_wait(struct nvs_device *device, const char *call, uint64_t since_ns) {
    uint64_t waited_ns = nvs_clock_ns() - since_ns;
    uint64_t say_ns = since_ns + (waited_ns < NVS_SAY_FIRST_NS ? NVS_SAY_FIRST_NS
                                                               : (waited_ns / NVS_SAY_AGAIN_NS + 1) * NVS_SAY_AGAIN_NS);
    struct timespec until = {(time_t)(say_ns / 1000000000u), (long)(say_ns % 1000000000u)};
    if (pthread_cond_timedwait(&device->changed, &device->lock, &until) != 0)
        nvs_log(NVS_LOG_WARN, "%s on %s has waited %u s for %s", call, device->uuid,
                (unsigned)((nvs_clock_ns() - since_ns) / 1000000000u), nvs_device_wait_text(device));
}

CUresult nvs_device_wait_open(struct nvs_device *device, enum nvs_class class) {
    CUresult result = CUDA_SUCCESS;
    uint64_t since_ns = nvs_clock_ns();
    nvs_device_use(device);
    pthread_mutex_lock(&device->lock);
    device->gate_waiters++;
    if (device->gate_waiters == 1)
        nvs_control_poke((size_t)device->ordinal);
    while ((atomic_load_explicit(&device->closed, memory_order_acquire) & class) != 0 && !nvs_library_leaving()) {
        result = device->refused ? CUDA_ERROR_SYSTEM_NOT_READY : device->lost;
        if (result != CUDA_SUCCESS)
            break;
        nvs_device_wait(device, "a launch", since_ns);
    }
    device->gate_waiters--;
    device->gate_wait_ns += nvs_clock_ns() - since_ns;
    pthread_mutex_unlock(&device->lock);
    return result;
}

CUresult nvs_device_memory(struct nvs_device *device, uint64_t *limit_bytes, uint64_t *footprint_bytes) {
    CUresult result = CUDA_SUCCESS;
    uint64_t since_ns = nvs_clock_ns();
    nvs_device_use(device);
    pthread_mutex_lock(&device->lock);
    while (device->grant.generation == 0 && !device->unmanaged && result == CUDA_SUCCESS && !nvs_library_leaving()) {
        if (device->refused)
            result = CUDA_ERROR_SYSTEM_NOT_READY;
        else
            nvs_device_wait(device, "a question about memory", since_ns);
    }
    *limit_bytes = nvs_device_limit_bytes(device);
    *footprint_bytes = device->footprint_bytes;
    pthread_mutex_unlock(&device->lock);
    return result;
}

void nvs_devices_atfork_child(void) {
    for (size_t i = 0; i < nvs_device_count(); i++)
        nvs_device_reset(&nvs_devices[i]);
    pthread_mutex_init(&nvs_learn_lock, NULL);
}
