// What a client says of itself: the device's part of a report.
#include "control.h"
#include "device.h"
#include "gang.h"
#include "host_pool.h"
#include "library.h"
#include "residency.h"
#include "slice.h"
#include "stream.h"
#include "swap.h"

#include <string.h>

// Over which busy shares and longest times are taken: over less they say little.
#define NVS_REPORT_SPAN_NS UINT64_C(500000000)

static void nvs_report_busy(struct nvs_device *device, nvs_report *report) {
    uint64_t now_ns = nvs_clock_ns();
    uint64_t busy_ns = atomic_load_explicit(&device->busy_ns, memory_order_relaxed);
    uint64_t elapsed_ns = now_ns - device->reported_ns;
    if (elapsed_ns > NVS_REPORT_SPAN_NS) {
        uint64_t permille = (busy_ns - device->busy_reported_ns) * 1000 / elapsed_ns;
        device->busy_permille = permille > 1000 ? 1000 : (uint32_t)permille;
        device->busy_reported_ns = busy_ns;
        device->longest_reported_ns = atomic_exchange_explicit(&device->longest_ns, 0, memory_order_relaxed);
        device->reported_ns = now_ns;
    }
    uint64_t longest_ns = atomic_load_explicit(&device->longest_ns, memory_order_relaxed);
    report->busy_permille = device->busy_permille;
    report->busy_us = busy_ns / 1000;
    report->longest_work_us =
        (uint32_t)((longest_ns > device->longest_reported_ns ? longest_ns : device->longest_reported_ns) / 1000);
    report->window_us = atomic_load_explicit(&device->window_us, memory_order_relaxed);
    report->launches = nvs_device_launches(device);
    report->activity_end_ns = nvs_activity_write(&device->activity, now_ns, report->activity);
}

// Caller holds the lock.
static void nvs_report_memory(struct nvs_device *device, nvs_report *report) {
    struct nvs_residency residency = nvs_device_residency(device);
    report->footprint_bytes = device->reported_bytes = device->footprint_bytes;
    report->needed_bytes = residency.needed_bytes;
    report->resident_bytes = residency.present_bytes;
    report->pinned_bytes = residency.pinned_bytes;
    nvs_pin_text(&device->pins, report->pinned_reason, sizeof(report->pinned_reason));
    report->swaps = residency.movable;
    report->allocation_waits = device->memory_waiters > 0;
    if (report->allocation_waits) {
        report->wanted_bytes = device->footprint_bytes + device->waiting_bytes;
        report->wanted_needed_bytes = device->needed_bytes + device->waiting_needed_bytes;
    }
}

// Caller holds the lock.
static void nvs_report_swap(const struct nvs_device *device, nvs_report *report) {
    struct nvs_swap_figures figures = nvs_swap_figures(device);
    report->pool_bytes = nvs_pool_ready_bytes();
    report->swapped_out_bytes = figures.out_bytes;
    report->swapped_in_bytes = figures.in_bytes;
    report->swap_out_us = figures.out_ns / 1000;
    report->swap_in_us = figures.in_ns / 1000;
    report->swap_failures = figures.failures;
    memcpy(report->swap_failure, figures.failure, sizeof(report->swap_failure));
}

bool nvs_device_fill_report(size_t index, nvs_report *report) {
    struct nvs_device *device = &nvs_devices[index];
    if (!atomic_load_explicit(&device->in_use, memory_order_acquire))
        return false;
    memcpy(report->gpu, device->uuid, sizeof(report->gpu));
    report->leaving = nvs_library_leaving();
    report->gang = nvs_gang_seen(device);
    nvs_report_busy(device, report);
    report->timeslice_us = nvs_slice_state(device, report->timeslice_failure);
    uint64_t host_room_bytes = nvs_pool_room_bytes();
    pthread_mutex_lock(&device->lock);
    report->generation = device->grant.generation;
    report->epoch = device->grant.epoch;
    report->state = (int32_t)device->state;
    report->demand = device->demand || device->gate_waiters > 0;
    report->drain_us = (uint32_t)(device->drain_ns / 1000);
    report->gate_wait_us = device->gate_wait_ns / 1000;
    report->allocation_wait_us = device->allocation_wait_ns / 1000;
    report->hand_overs = device->hand_overs;
    report->host_room_bytes = device->host_room_bytes = host_room_bytes;
    nvs_report_memory(device, report);
    nvs_report_swap(device, report);
    pthread_mutex_unlock(&device->lock);
    return true;
}
