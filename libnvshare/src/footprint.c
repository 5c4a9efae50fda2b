#include "footprint.h"

#include "control.h"
#include "library.h"
#include "log.h"

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
    }
    pthread_mutex_unlock(&nvs_table_lock);
}

void nvs_footprint_add(struct nvs_device *device, CUcontext context, uint64_t key, uint64_t bytes) {
    struct nvs_allocation allocation = {key, device, context, bytes};
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

static uint64_t nvs_distance(uint64_t a, uint64_t b) {
    return a > b ? a - b : b - a;
}

// The scheduler should know: much has changed, or little is left. Caller holds the device's lock.
static bool nvs_worth_telling(const struct nvs_device *device) {
    uint64_t ceiling = nvs_device_ceiling_bytes(device);
    uint64_t left_bytes = ceiling > device->footprint_bytes ? ceiling - device->footprint_bytes : 0;
    return nvs_distance(device->footprint_bytes, device->reported_bytes) >= NVS_TELL_BYTES ||
           (device->footprint_bytes > device->reported_bytes && left_bytes < NVS_TELL_BYTES);
}

CUresult nvs_footprint_reserve(struct nvs_device *device, uint64_t bytes) {
    CUresult result = CUDA_SUCCESS;
    uint64_t since_ns = 0;
    nvs_device_use(device);
    pthread_mutex_lock(&device->lock);
    for (;;) {
        bool planned = device->unmanaged || device->grant.generation != 0;
        uint64_t total = device->footprint_bytes + bytes;
        if (total < bytes || (planned && total > nvs_device_limit_bytes(device))) {
            result = CUDA_ERROR_OUT_OF_MEMORY;
            nvs_log(NVS_LOG_INFO, "%s: an allocation of %llu bytes is refused: %llu are allocated, the limit is %llu",
                    device->uuid, (unsigned long long)bytes, (unsigned long long)device->footprint_bytes,
                    (unsigned long long)nvs_device_limit_bytes(device));
            break;
        }
        if ((planned && total <= nvs_device_ceiling_bytes(device)) || nvs_library_leaving()) {
            device->footprint_bytes = total;
            break;
        }
        if (device->refused) {
            result = CUDA_ERROR_SYSTEM_NOT_READY;
            break;
        }
        if (bytes > device->total_bytes) { // no plan can make room for it
            result = CUDA_ERROR_OUT_OF_MEMORY;
            break;
        }
        if (since_ns == 0) {
            since_ns = nvs_clock_ns();
            device->memory_waiters++;
            device->waiting_bytes += bytes;
            nvs_control_poke((size_t)device->ordinal);
        }
        nvs_device_wait(device, "an allocation", since_ns);
    }
    if (since_ns != 0) {
        device->memory_waiters--;
        device->waiting_bytes -= bytes;
        device->allocation_wait_ns += nvs_clock_ns() - since_ns;
    }
    bool tell = since_ns != 0 || nvs_worth_telling(device);
    pthread_mutex_unlock(&device->lock);
    if (tell)
        nvs_control_poke((size_t)device->ordinal);
    return result;
}

void nvs_footprint_release(struct nvs_device *device, uint64_t bytes) {
    pthread_mutex_lock(&device->lock);
    device->footprint_bytes = device->footprint_bytes > bytes ? device->footprint_bytes - bytes : 0;
    bool tell = nvs_worth_telling(device);
    pthread_mutex_unlock(&device->lock);
    if (tell)
        nvs_control_poke((size_t)device->ordinal);
}

void nvs_footprint_atfork_child(void) {
    pthread_mutex_init(&nvs_table_lock, NULL);
    if (nvs_table != NULL)
        memset(nvs_table, 0, nvs_table_size * sizeof(*nvs_table));
    nvs_table_count = 0;
}
