#include "host_reserve.h"

#include "control.h"
#include "host_pool.h"
#include "log.h"

// The most host memory that this process has asked to be kept for it.
static _Atomic uint64_t nvs_room_asked_bytes;

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
    for (size_t i = 0; i < nvs_device_count(); i++) {
        pthread_mutex_lock(&nvs_devices[i].lock);
        bytes += nvs_devices[i].needed_bytes;
        pthread_mutex_unlock(&nvs_devices[i].lock);
    }
    bytes = nvs_pool_slots(bytes) * NVS_POOL_SLOT_BYTES;
    uint64_t before_bytes = atomic_load_explicit(&nvs_room_asked_bytes, memory_order_relaxed);
    if (bytes <= before_bytes || !atomic_compare_exchange_strong_explicit(&nvs_room_asked_bytes, &before_bytes, bytes,
                                                                          memory_order_relaxed, memory_order_relaxed))
        return;
    if (nvs_pool_reserve(bytes) < bytes)
        nvs_log_once(NVS_LOG_INFO, "%s: the host has no room for all of this program's memory", device->uuid);
    nvs_control_poke((size_t)device->ordinal);
}

void nvs_host_reserve_atfork_child(void) {
    atomic_store_explicit(&nvs_room_asked_bytes, 0, memory_order_relaxed);
}
