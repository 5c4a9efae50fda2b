#include "swap.h"

#include "background.h"
#include "capture.h"
#include "control.h"
#include "fault.h"
#include "flight.h"
#include "library.h"
#include "log.h"
#include "managed.h"

#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

// When what failed is tried again: memory of the card comes free any moment, host memory does not.
#define NVS_RETRY_CARD_NS (5 * NVS_NS_PER_MS)
#define NVS_RETRY_HOST_NS (500 * NVS_NS_PER_MS)

// How long the end of the process waits for the movers.
#define NVS_LEAVE_WITHIN_NS (100 * NVS_NS_PER_MS)

struct nvs_mover {
    // Only the mover itself:
    struct nvs_flights flights; // in `context`
    struct nvs_packer packer;
    uint64_t since_ns; // when it began to move without a pause
    uint64_t retry_ns; // 0: nothing is in the way

    // Under the device's lock:
    bool running;
    bool awake;          // something may have changed since it last looked
    unsigned holds;      // contexts that are ending: it enters none
    CUcontext context;   // that its stream is in; NULL: none
    pthread_cond_t wake; // CLOCK_MONOTONIC; the mover waits for it
    pthread_cond_t left; // CLOCK_MONOTONIC; broadcast when it leaves its context, or ends
    struct nvs_swap_figures figures;
};

static struct nvs_mover nvs_movers[NVS_DEVICES_MAX];

static struct nvs_mover *nvs_mover_of(const struct nvs_device *device) {
    return &nvs_movers[device - nvs_devices];
}

struct nvs_swap_figures nvs_swap_figures(const struct nvs_device *device) {
    return nvs_mover_of(device)->figures;
}

static uint64_t nvs_later(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

// ---- Trouble

void nvs_swap_failed(struct nvs_device *device, const char *reason) {
    struct nvs_swap_figures *figures = &nvs_mover_of(device)->figures;
    pthread_mutex_lock(&device->lock);
    figures->failures++;
    snprintf(figures->failure, sizeof(figures->failure), "%s", reason);
    pthread_mutex_unlock(&device->lock);
    nvs_log(NVS_LOG_WARN, "%s: memory cannot be moved: %s", device->uuid, reason);
    nvs_control_poke((size_t)device->ordinal);
}

static void nvs_mover_troubled(struct nvs_device *device, const struct nvs_trouble *trouble) {
    struct nvs_mover *mover = nvs_mover_of(device);
    if (nvs_fault_is_final(trouble->result))
        nvs_fault_tell(device, trouble->result);
    // A driver that has ended says that the program does: its memory goes with it, and nobody is to be told.
    bool fresh = mover->retry_ns == 0 && trouble->result != CUDA_ERROR_DEINITIALIZED;
    mover->retry_ns = nvs_clock_ns() + (trouble->card ? NVS_RETRY_CARD_NS : NVS_RETRY_HOST_NS);
    if (fresh)
        nvs_swap_failed(device, trouble->reason);
}

static void nvs_mover_driver_troubled(struct nvs_device *device, const char *what, CUresult result) {
    struct nvs_trouble trouble = {.card = false, .result = result};
    snprintf(trouble.reason, sizeof(trouble.reason), "%s (CUDA error %d)", what, (int)result);
    nvs_mover_troubled(device, &trouble);
}

// ---- The context that it copies in

// Its context is gone with its stream, or the driver has ended before this library (it does so at exit): who ends the
// context must not wait for the mover to leave it.
static void nvs_mover_lose(struct nvs_device *device) {
    struct nvs_mover *mover = nvs_mover_of(device);
    nvs_flights_lose(&mover->flights);
    pthread_mutex_lock(&device->lock);
    mover->context = NULL;
    pthread_cond_broadcast(&mover->left);
    pthread_mutex_unlock(&device->lock);
}

// Gives its stream up; no copy is under way. Its context is current.
static void nvs_mover_leave(struct nvs_device *device) {
    nvs_flights_close(&nvs_mover_of(device)->flights);
    nvs_mover_lose(device);
}

// Makes its context current, with its stream in it. False: there is none to enter now.
static bool nvs_mover_enter(struct nvs_device *device) {
    struct nvs_mover *mover = nvs_mover_of(device);
    CUcontext popped;
    pthread_mutex_lock(&device->memory.lock);
    CUcontext found = nvs_memory_context(device);
    pthread_mutex_lock(&device->lock);
    if (mover->context == NULL && mover->holds == 0)
        mover->context = found;
    CUcontext context = mover->context;
    pthread_mutex_unlock(&device->lock);
    pthread_mutex_unlock(&device->memory.lock);
    if (context == NULL)
        return false;
    CUresult result = nvs_real.cuCtxPushCurrent_v2(context);
    if (result != CUDA_SUCCESS)
        nvs_mover_lose(device);
    if (result == CUDA_SUCCESS && mover->flights.stream == NULL) {
        result = nvs_flights_open(&mover->flights);
        if (result != CUDA_SUCCESS) {
            nvs_mover_leave(device);
            (void)nvs_real.cuCtxPopCurrent_v2(&popped); // it was pushed just now
        }
    }
    if (result != CUDA_SUCCESS)
        nvs_mover_driver_troubled(device, "no stream to copy on", result);
    return result == CUDA_SUCCESS;
}

// ---- Loads in flight

// Time and bytes of what has moved.
static void nvs_mover_count(struct nvs_device *device, enum nvs_way way, uint64_t bytes) {
    struct nvs_mover *mover = nvs_mover_of(device);
    uint64_t now_ns = nvs_clock_ns();
    pthread_mutex_lock(&device->lock);
    if (way == NVS_OUT) {
        mover->figures.out_bytes += bytes;
        mover->figures.out_ns += now_ns - mover->since_ns;
    } else {
        mover->figures.in_bytes += bytes;
        mover->figures.in_ns += now_ns - mover->since_ns;
    }
    pthread_mutex_unlock(&device->lock);
    mover->since_ns = now_ns;
}

// Managed memory goes piece by piece: the driver overlaps what it can. True: a piece has moved.
static bool nvs_mover_prefetch(struct nvs_device *device, enum nvs_way way) {
    struct nvs_mover *mover = nvs_mover_of(device);
    struct nvs_trouble trouble = {.reason = ""};
    uint64_t bytes = nvs_managed_move(device, way, mover->flights.stream, &trouble);
    if (trouble.reason[0] != '\0')
        nvs_mover_troubled(device, &trouble);
    else
        mover->retry_ns = 0;
    nvs_mover_count(device, way, bytes);
    nvs_control_poke((size_t)device->ordinal);
    return bytes > 0;
}

// Begins the next load, if one should move. True: it is in flight.
static bool nvs_mover_begin(struct nvs_device *device) {
    struct nvs_mover *mover = nvs_mover_of(device);
    enum nvs_way way;
    pthread_mutex_lock(&device->lock);
    bool held = mover->holds > 0, wanted = nvs_load_way(device, &way);
    pthread_mutex_unlock(&device->lock);
    if (held || mover->retry_ns > nvs_clock_ns())
        return false;
    if (nvs_flights_put_again(&mover->flights))
        return true;
    struct nvs_load *load = wanted ? nvs_flights_next(&mover->flights, way) : NULL;
    if (load == NULL)
        return false;
    if (mover->flights.count == 0)
        mover->since_ns = nvs_clock_ns();
    if (nvs_managed_on() && nvs_mover_prefetch(device, way))
        return true;
    struct nvs_trouble trouble = {.card = false};
    if (!nvs_load_take(device, way, load, &trouble) ||
        !nvs_load_room(device, load, &mover->packer, mover->context, &trouble))
        nvs_mover_troubled(device, &trouble);
    else if (load->count == 0)
        mover->retry_ns = 0;
    if (load->count == 0)
        return false;
    nvs_flights_put(&mover->flights);
    return true;
}

// Ends the oldest load if its copies are done, or waits for that. True: it ended.
static bool nvs_mover_end(struct nvs_device *device, bool waits) {
    struct nvs_mover *mover = nvs_mover_of(device);
    CUresult result = nvs_flights_look(&mover->flights, waits);
    if (result == CUDA_ERROR_NOT_READY)
        return false;
    bool dropped;
    struct nvs_load load = nvs_flights_take(&mover->flights);
    uint64_t moved_bytes = nvs_load_end(device, &load, result, &dropped);
    nvs_mover_count(device, load.way, moved_bytes);
    if (load.count > 0)
        nvs_flights_keep(&mover->flights, &load);
    if (result != CUDA_SUCCESS)
        nvs_mover_driver_troubled(device, "a copy failed", result);
    else if (!dropped)
        nvs_mover_driver_troubled(device, "the driver does not unmap", result);
    else
        mover->retry_ns = 0;
    nvs_control_poke((size_t)device->ordinal);
    return true;
}

// ---- The thread

// True while a context that is ending needs it to leave.
static bool nvs_mover_held(struct nvs_device *device) {
    pthread_mutex_lock(&device->lock);
    bool held = nvs_mover_of(device)->holds > 0;
    pthread_mutex_unlock(&device->lock);
    return held;
}

// True if there is something to move, or in flight.
static bool nvs_mover_wanted(struct nvs_device *device) {
    enum nvs_way way;
    pthread_mutex_lock(&device->lock);
    bool wanted = nvs_load_way(device, &way);
    pthread_mutex_unlock(&device->lock);
    return wanted || nvs_mover_of(device)->flights.count > 0;
}

// Moves until there is nothing to do.
static void nvs_mover_work(struct nvs_device *device) {
    struct nvs_mover *mover = nvs_mover_of(device);
    CUcontext popped;
    if (!nvs_mover_wanted(device) && !nvs_mover_held(device)) {
        mover->retry_ns = 0;
        return;
    }
    if (!nvs_mover_enter(device)) {
        mover->retry_ns = nvs_later(mover->retry_ns, nvs_clock_ns() + NVS_RETRY_CARD_NS);
        return;
    }
    bool begun;
    do {
        while (nvs_mover_end(device, false)) {
        }
        begun = nvs_mover_begin(device);
    } while (!nvs_library_leaving() && (begun || nvs_mover_end(device, true)));
    nvs_packer_close(&mover->packer);
    if (nvs_mover_held(device))
        nvs_mover_leave(device);
    if (nvs_real.cuCtxPopCurrent_v2(&popped) != CUDA_SUCCESS)
        nvs_log_once(NVS_LOG_WARN, "cuCtxPopCurrent failed on a mover's thread");
}

// Waits until it is woken, or it is time to try again. False: the process ends.
static bool nvs_mover_sleep(struct nvs_device *device) {
    struct nvs_mover *mover = nvs_mover_of(device);
    struct timespec until = {(time_t)(mover->retry_ns / NVS_NS_PER_SECOND),
                             (long)(mover->retry_ns % NVS_NS_PER_SECOND)};
    int error = 0;
    pthread_mutex_lock(&device->lock);
    while (!mover->awake && error == 0 && !nvs_library_leaving())
        error = mover->retry_ns == 0 ? pthread_cond_wait(&mover->wake, &device->lock)
                                     : pthread_cond_timedwait(&mover->wake, &device->lock, &until);
    mover->awake = false;
    pthread_mutex_unlock(&device->lock);
    return !nvs_library_leaving();
}

static void *nvs_mover_run(void *argument) {
    struct nvs_device *device = argument;
    (void)nvs_capture_relax(); // for good: this thread's calls are all our own
    (void)prctl(PR_SET_NAME, "nvshare-swap");
    while (nvs_mover_sleep(device))
        nvs_mover_work(device);
    pthread_mutex_lock(&device->lock);
    nvs_mover_of(device)->running = false;
    pthread_cond_broadcast(&nvs_mover_of(device)->left);
    pthread_mutex_unlock(&device->lock);
    return NULL;
}

// Caller holds the device's lock.
static void nvs_mover_start(struct nvs_device *device) {
    struct nvs_mover *mover = nvs_mover_of(device);
    if (mover->running || nvs_library_leaving())
        return;
    int error = nvs_background_start(nvs_mover_run, device);
    mover->running = error == 0;
    if (error != 0)
        nvs_log_once(NVS_LOG_ERROR, "%s: no thread to move memory: %s", device->uuid, strerror(error));
}

void nvs_swap_wake(struct nvs_device *device) {
    struct nvs_mover *mover = nvs_mover_of(device);
    enum nvs_way way;
    pthread_mutex_lock(&device->lock);
    if (nvs_load_way(device, &way)) {
        nvs_mover_start(device);
        mover->awake = true;
        pthread_cond_signal(&mover->wake);
    }
    pthread_mutex_unlock(&device->lock);
}

// ---- The ends of contexts, of the process, and of what a child inherits

void nvs_swap_context_hold(CUcontext context) {
    for (size_t i = 0; i < nvs_device_count(); i++) {
        struct nvs_mover *mover = &nvs_movers[i];
        pthread_mutex_lock(&nvs_devices[i].lock);
        mover->holds++;
        mover->awake = true;
        pthread_cond_signal(&mover->wake);
        while (context != NULL && mover->context == context && mover->running)
            pthread_cond_wait(&mover->left, &nvs_devices[i].lock);
        pthread_mutex_unlock(&nvs_devices[i].lock);
    }
}

void nvs_swap_context_release(void) {
    for (size_t i = 0; i < nvs_device_count(); i++) {
        struct nvs_mover *mover = &nvs_movers[i];
        pthread_mutex_lock(&nvs_devices[i].lock);
        mover->holds--;
        nvs_devices[i].lost = CUDA_SUCCESS; // the context that ended may have been the one
        mover->awake = true;
        pthread_cond_signal(&mover->wake);
        pthread_mutex_unlock(&nvs_devices[i].lock);
    }
}

void nvs_swap_leave(void) {
    uint64_t until_ns = nvs_clock_ns() + NVS_LEAVE_WITHIN_NS;
    struct timespec until = {(time_t)(until_ns / NVS_NS_PER_SECOND), (long)(until_ns % NVS_NS_PER_SECOND)};
    for (size_t i = 0; i < nvs_device_count(); i++) {
        struct nvs_mover *mover = &nvs_movers[i];
        pthread_mutex_lock(&nvs_devices[i].lock);
        pthread_cond_signal(&mover->wake);
        while (mover->running && pthread_cond_timedwait(&mover->left, &nvs_devices[i].lock, &until) == 0) {
        }
        pthread_mutex_unlock(&nvs_devices[i].lock);
    }
}

void nvs_swap_reset(const struct nvs_device *device) {
    struct nvs_mover *mover = nvs_mover_of(device);
    pthread_condattr_t attributes;
    memset(mover, 0, sizeof(*mover));
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&mover->wake, &attributes);
    pthread_cond_init(&mover->left, &attributes);
    pthread_condattr_destroy(&attributes);
}
