#include "footprint.h"

#include "control.h"
#include "library.h"
#include "log.h"
#include "refusal.h"

#include <stdlib.h>
#include <string.h>

// A change of the footprint that the scheduler should hear of before the next heartbeat.
#define NVS_TELL_BYTES (UINT64_C(32) << 20)

// Open addressing with linear probing; grows at a load of one half. Key 0 is free.
static pthread_mutex_t nvs_table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct nvs_allocation *nvs_table;
static size_t nvs_table_size; // a power of two
static size_t nvs_table_count;

static size_t nvs_table_start(uint64_t key, size_t size) {
    return (size_t)(key * UINT64_C(0x9E3779B97F4A7C15) >> 20) & (size - 1);
}

static void nvs_table_insert(struct nvs_allocation *table, size_t size, const struct nvs_allocation *allocation) {
    size_t at = nvs_table_start(allocation->key, size);
    while (table[at].key != 0)
        at = (at + 1) & (size - 1);
    table[at] = *allocation;
}

static bool nvs_table_grow(void) {
    size_t size = nvs_table_size == 0 ? 1024 : 2 * nvs_table_size;
    struct nvs_allocation *table = calloc(size, sizeof(*table));
    if (table == NULL)
        return false;
    for (size_t i = 0; i < nvs_table_size; i++)
        if (nvs_table[i].key != 0)
            nvs_table_insert(table, size, &nvs_table[i]);
    free(nvs_table);
    nvs_table = table;
    nvs_table_size = size;
    return true;
}

// Closes the gap that a removal leaves, so that no probe ends early.
static void nvs_table_remove(size_t at) {
    nvs_pin_remove(&nvs_table[at].device->pins, nvs_table[at].pin);
    size_t gap = at;
    for (size_t next = (at + 1) & (nvs_table_size - 1); nvs_table[next].key != 0;
         next = (next + 1) & (nvs_table_size - 1)) {
        size_t home = nvs_table_start(nvs_table[next].key, nvs_table_size);
        if (((next - home) & (nvs_table_size - 1)) >= ((next - gap) & (nvs_table_size - 1))) {
            nvs_table[gap] = nvs_table[next];
            gap = next;
        }
    }
    nvs_table[gap].key = 0;
    nvs_table_count--;
}

void nvs_footprint_put(const struct nvs_allocation *allocation) {
    if (allocation->key == 0)
        return;
    pthread_mutex_lock(&nvs_table_lock);
    if (2 * (nvs_table_count + 1) > nvs_table_size && !nvs_table_grow() && nvs_table_count + 1 >= nvs_table_size)
        nvs_log_once(NVS_LOG_ERROR, "no host memory to remember an allocation: its bytes stay counted");
    else {
        nvs_table_insert(nvs_table, nvs_table_size, allocation);
        nvs_table_count++;
        nvs_pin_add(&allocation->device->pins, allocation->pin);
    }
    pthread_mutex_unlock(&nvs_table_lock);
}

void nvs_footprint_freed(const struct nvs_allocation *allocation, CUresult result) {
    if (result != CUDA_SUCCESS)
        nvs_footprint_put(allocation);
    else if (allocation->key != 0)
        nvs_footprint_release(allocation->device, allocation->bytes);
}

void nvs_footprint_add(struct nvs_device *device, CUcontext context, uint64_t key, uint64_t bytes, enum nvs_pin pin) {
    struct nvs_allocation allocation = {key, device, context, bytes, pin};
    nvs_footprint_put(&allocation);
}

struct nvs_allocation nvs_footprint_take(uint64_t key) {
    struct nvs_allocation found = {0};
    pthread_mutex_lock(&nvs_table_lock);
    if (key != 0 && nvs_table_size > 0) {
        size_t at = nvs_table_start(key, nvs_table_size);
        while (nvs_table[at].key != 0 && nvs_table[at].key != key)
            at = (at + 1) & (nvs_table_size - 1);
        if (nvs_table[at].key == key) {
            found = nvs_table[at];
            nvs_table_remove(at);
        }
    }
    pthread_mutex_unlock(&nvs_table_lock);
    return found;
}

void nvs_footprint_context_ended(CUcontext context) {
    uint64_t bytes[NVS_DEVICES_MAX] = {0};
    pthread_mutex_lock(&nvs_table_lock);
    for (size_t i = 0; i < nvs_table_size;) {
        if (nvs_table[i].key != 0 && nvs_table[i].context == context) {
            bytes[nvs_table[i].device->ordinal] += nvs_table[i].bytes;
            nvs_table_remove(i); // another may have moved here: look again
        } else {
            i++;
        }
    }
    pthread_mutex_unlock(&nvs_table_lock);
    for (size_t i = 0; i < nvs_device_count(); i++)
        if (bytes[i] > 0)
            nvs_footprint_release(&nvs_devices[i], bytes[i]);
}

void nvs_footprint_context_replaced(CUcontext context, CUcontext other) {
    pthread_mutex_lock(&nvs_table_lock);
    for (size_t i = 0; i < nvs_table_size; i++)
        if (nvs_table[i].key != 0 && nvs_table[i].context == context)
            nvs_table[i].context = other;
    pthread_mutex_unlock(&nvs_table_lock);
}

static uint64_t nvs_distance(uint64_t a, uint64_t b) {
    return a > b ? a - b : b - a;
}

// The scheduler should know: much has changed, or little is left. Caller holds the device's lock.
static bool nvs_worth_telling(const struct nvs_device *device) {
    return nvs_distance(device->footprint_bytes, device->reported_bytes) >= NVS_TELL_BYTES ||
           (device->footprint_bytes > device->reported_bytes && nvs_footprint_room_bytes(device) < NVS_TELL_BYTES);
}

uint64_t nvs_footprint_room_bytes(const struct nvs_device *device) {
    uint64_t target_bytes = nvs_device_ceiling_bytes(device);
    return target_bytes > device->needed_bytes ? target_bytes - device->needed_bytes : 0;
}

// A program may live on its quota's edge, and asks again; the other limits are for its owner to know.
static void nvs_footprint_refuse(const struct nvs_wish *wish) {
    const struct nvs_device *device = wish->device;
    const struct nvs_refusal refusal = {
        .limited_by = device->grant.limited_by,
        .bytes = wish->bytes,
        .footprint_bytes = device->footprint_bytes,
        .limit_bytes = nvs_device_limit_bytes(device),
        .host_room_bytes = device->host_room_bytes,
    };
    bool loud = refusal.limited_by == NVS_LIMIT_HOST_ROOM || refusal.limited_by == NVS_LIMIT_OVERCOMMIT;
    char text[NVS_REFUSAL_SIZE];
    nvs_refusal_say(&refusal, text);
    nvs_log(loud ? NVS_LOG_WARN : NVS_LOG_INFO, "%s: an allocation fails: %s", device->uuid, text);
}

CUresult nvs_footprint_try(struct nvs_wish *wish) {
    struct nvs_device *device = wish->device;
    bool planned = device->unmanaged || device->grant.generation != 0;
    uint64_t total = device->footprint_bytes + wish->bytes;
    if (total < wish->bytes || (planned && total > nvs_device_limit_bytes(device))) {
        nvs_footprint_refuse(wish);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    bool fits = wish->needed_bytes <= nvs_footprint_room_bytes(device) && device->present_bytes >= device->needed_bytes;
    if ((planned && fits) || nvs_library_leaving()) {
        device->footprint_bytes = total;
        device->needed_bytes += wish->needed_bytes;
        device->present_bytes += wish->needed_bytes;
        return CUDA_SUCCESS;
    }
    if (device->refused || device->lost != CUDA_SUCCESS)
        return device->refused ? CUDA_ERROR_SYSTEM_NOT_READY : device->lost;
    return wish->bytes > device->total_bytes ? CUDA_ERROR_OUT_OF_MEMORY // no plan can make room for it
                                             : CUDA_ERROR_NOT_READY;
}

static void nvs_wish_count(struct nvs_wish *wish, uint64_t bytes, uint64_t needed_bytes) {
    wish->device->waiting_bytes += bytes - wish->counted_bytes;
    wish->device->waiting_needed_bytes += needed_bytes - wish->counted_needed_bytes;
    wish->counted_bytes = bytes;
    wish->counted_needed_bytes = needed_bytes;
}

void nvs_footprint_wait(struct nvs_wish *wish) {
    struct nvs_device *device = wish->device;
    bool changed = wish->since_ns == 0 || wish->needed_bytes != wish->counted_needed_bytes;
    if (wish->since_ns == 0) {
        wish->since_ns = nvs_clock_ns();
        device->memory_waiters++;
    }
    nvs_wish_count(wish, wish->bytes, wish->needed_bytes);
    if (changed)
        nvs_control_poke((size_t)device->ordinal);
    nvs_device_wait(device, "an allocation", wish->since_ns);
}

void nvs_footprint_tried(struct nvs_wish *wish) {
    struct nvs_device *device = wish->device;
    if (wish->since_ns != 0) {
        device->memory_waiters--;
        nvs_wish_count(wish, 0, 0);
        device->allocation_wait_ns += nvs_clock_ns() - wish->since_ns;
    }
    if (wish->since_ns != 0 || nvs_worth_telling(device))
        nvs_control_poke((size_t)device->ordinal);
    wish->since_ns = 0;
}

static void nvs_take_away(uint64_t *sum, uint64_t bytes) {
    *sum = *sum > bytes ? *sum - bytes : 0;
}

void nvs_footprint_give(struct nvs_device *device, const struct nvs_bytes *bytes) {
    pthread_mutex_lock(&device->lock);
    nvs_take_away(&device->footprint_bytes, bytes->footprint_bytes);
    nvs_take_away(&device->needed_bytes, bytes->needed_bytes);
    nvs_take_away(&device->present_bytes, bytes->present_bytes);
    nvs_take_away(&device->pinned_bytes, bytes->pinned_bytes);
    if (device->memory_waiters > 0) // what this thread gives may be what another waits for
        pthread_cond_broadcast(&device->changed);
    bool tell = nvs_worth_telling(device);
    pthread_mutex_unlock(&device->lock);
    if (tell)
        nvs_control_poke((size_t)device->ordinal);
}

CUresult nvs_footprint_reserve(struct nvs_device *device, uint64_t bytes) {
    struct nvs_wish wish = {.device = device, .bytes = bytes, .needed_bytes = bytes};
    CUresult result;
    nvs_device_use(device);
    pthread_mutex_lock(&device->lock);
    while ((result = nvs_footprint_try(&wish)) == CUDA_ERROR_NOT_READY)
        nvs_footprint_wait(&wish);
    if (result == CUDA_SUCCESS)
        device->pinned_bytes += bytes;
    nvs_footprint_tried(&wish);
    pthread_mutex_unlock(&device->lock);
    return result;
}

void nvs_footprint_release(struct nvs_device *device, uint64_t bytes) {
    nvs_footprint_give(device, &(struct nvs_bytes){bytes, bytes, bytes, bytes});
}

void nvs_footprint_atfork_child(void) {
    pthread_mutex_init(&nvs_table_lock, NULL);
    if (nvs_table != NULL)
        memset(nvs_table, 0, nvs_table_size * sizeof(*nvs_table));
    nvs_table_count = 0;
}
