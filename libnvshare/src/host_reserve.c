#include "host_reserve.h"

#include "control.h"
#include "host_pool.h"
#include "log.h"

// The most host memory that this process has asked to be kept for it.
static _Atomic uint64_t nvs_room_asked_bytes;

// So long is room kept that nothing needs.
#define NVS_ROOM_KEEP_NS (5 * NVS_NS_PER_SECOND)

// Since when more has been kept than is needed; 0: it has not. Only the control thread.
static uint64_t nvs_room_excess_since_ns;

// Room for all that the process has or waits for, and this.
static uint64_t nvs_room_needed_bytes(uint64_t bytes) {
    for (size_t i = 0; i < nvs_device_count(); i++) {
        pthread_mutex_lock(&nvs_devices[i].lock);
        bytes += nvs_devices[i].needed_bytes + nvs_devices[i].waiting_needed_bytes;
        pthread_mutex_unlock(&nvs_devices[i].lock);
    }
    return nvs_pool_slots(bytes) * NVS_POOL_SLOT_BYTES;
}

// Host memory matters to this device, and the allocation is not refused anyway.
static bool nvs_host_reserve_wanted(struct nvs_device *device, uint64_t bytes) {
    pthread_mutex_lock(&device->lock);
    uint64_t total = device->footprint_bytes + bytes;
    bool wanted = device->grant.pool_bytes > 0 && total >= bytes && total <= nvs_device_limit_bytes(device) &&
                  total <= device->total_bytes;
    pthread_mutex_unlock(&device->lock);
    return wanted;
}

void nvs_host_reserve(struct nvs_device *device, uint64_t bytes) {
    if (!nvs_host_reserve_wanted(device, bytes))
        return;
    bytes = nvs_room_needed_bytes(bytes);
    uint64_t before_bytes = atomic_load_explicit(&nvs_room_asked_bytes, memory_order_relaxed);
    if (bytes <= before_bytes || !atomic_compare_exchange_strong_explicit(&nvs_room_asked_bytes, &before_bytes, bytes,
                                                                          memory_order_relaxed, memory_order_relaxed))
        return;
    if (nvs_pool_reserve(bytes) < bytes)
        nvs_log_once(NVS_LOG_INFO, "%s: the host has no room for all of this program's memory", device->uuid);
    nvs_control_poke((size_t)device->ordinal);
}

uint64_t nvs_host_reserve_look(uint64_t now_ns) {
    uint64_t asked_bytes = atomic_load_explicit(&nvs_room_asked_bytes, memory_order_relaxed);
    if (asked_bytes == 0)
        return NVS_CONTROL_NEVER_NS;
    uint64_t bytes = nvs_room_needed_bytes(0);
    if (bytes >= asked_bytes) {
        nvs_room_excess_since_ns = 0;
        return NVS_CONTROL_NEVER_NS; // memory that is freed is told to the control thread
    }
    if (nvs_room_excess_since_ns == 0)
        nvs_room_excess_since_ns = now_ns;
    if (now_ns - nvs_room_excess_since_ns < NVS_ROOM_KEEP_NS)
        return nvs_room_excess_since_ns + NVS_ROOM_KEEP_NS;
    nvs_room_excess_since_ns = 0;
    if (atomic_compare_exchange_strong_explicit(&nvs_room_asked_bytes, &asked_bytes, bytes, memory_order_relaxed,
                                                memory_order_relaxed))
        nvs_pool_reserve_less(asked_bytes, bytes);
    return NVS_CONTROL_NEVER_NS;
}

void nvs_host_reserve_atfork_child(void) {
    nvs_room_excess_since_ns = 0;
    atomic_store_explicit(&nvs_room_asked_bytes, 0, memory_order_relaxed);
}
