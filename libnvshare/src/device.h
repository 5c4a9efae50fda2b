// What libnvshare knows of one GPU: the grant in force, who waits, what is allocated, which streams have work.
//
// Devices are numbered as the program's driver numbers them (CUDA_VISIBLE_DEVICES applied). A device is *in use* from
// its first gated call or allocation. Its gate starts closed and follows the grants; the control thread is the only one
// that changes it.
//
// Locks: `lock` covers what is marked so and is never held over a call of the driver. nvs_stream's own lock may be held
// over one; it is never taken while `lock` is held, and `lock` may be taken under it.
#ifndef NVS_DEVICE_H
#define NVS_DEVICE_H

#include "activity.h"
#include "budget.h"
#include "clock.h"
#include "driver.h"
#include "memory.h"
#include "pin.h"
#include "residency.h"
#include "wire.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// As many as fit into a thread's call word twice.
#define NVS_DEVICES_MAX 16

// Bits of a gate that are set while calls of that class must not pass.
enum nvs_class {
    NVS_LAUNCH = 1u,
    NVS_COPY = 2u,
};

struct nvs_stream;

struct nvs_device {
    // What each launch reads, in a cache line that nothing else changes.
    _Alignas(64) _Atomic uint32_t closed; // the gate: classes that must not pass. Written by the control thread.
    int ordinal;
    atomic_bool in_use;
    atomic_bool gang;        // its work is tied to other GPUs: gang.h
    char uuid[NVS_GPU_SIZE]; // set before in_use
    uint64_t total_bytes;    // of the card; set before in_use

    _Atomic uint32_t window_us;
    _Alignas(64) _Atomic int64_t in_flight_ns; // estimate over all streams
    _Atomic(struct nvs_stream *) streams;
    _Atomic(CUcontext) primary_context; // as last retained; NULL: never
    _Atomic uint64_t busy_ns;           // time in which its work ran, summed over marks
    _Atomic uint64_t busy_limit_ns;     // what of busy_ns its budget allows; UINT64_MAX: no cap. By the control thread
    _Atomic uint64_t longest_ns;        // longest time for one mark since the last report
    struct nvs_activity activity;       // when that was
    _Atomic uint32_t accessed_by;       // bit d: device d may access this one's memory

    struct nvs_memory memory;
    struct nvs_pins pins;

    pthread_mutex_t lock;
    pthread_cond_t changed; // CLOCK_MONOTONIC; broadcast when the gate opens or the grant changes
    // Under lock:
    nvs_grant grant; // in force; generation 0: none yet
    bool unmanaged;  // runs without a plan, by setting
    bool refused;    // answers with an error, by setting
    CUresult lost; // what every call of the program is answered, its context being of no use any more; 0: none is lost
    enum nvs_client_state state;
    uint32_t gate_waiters;
    uint32_t memory_waiters;
    uint64_t footprint_bytes;      // that the program has allocated
    uint64_t needed_bytes;         // that these take on the card when all of them are there
    uint64_t present_bytes;        // of the needed bytes: on the card
    uint64_t pinned_bytes;         // of the present bytes: cannot leave
    uint64_t moving_bytes;         // of the present bytes: on their way out or in
    uint64_t host_room_bytes;      // as last reported
    bool at_rest;                  // nothing can touch its memory but what moves it
    uint64_t waiting_bytes;        // that threads wait to allocate
    uint64_t waiting_needed_bytes; // that these would add to the needed bytes
    uint64_t reported_bytes;       // footprint in the last report
    uint64_t gate_wait_ns;
    uint64_t allocation_wait_ns;
    uint64_t hand_overs;
    bool demand;

    // Only the control thread:
    uint64_t unplanned_since_ns; // since when it is in use without a plan; 0: not yet looked
    bool memory_here;            // all of its memory is there and may be used
    uint32_t drain_classes;      // what the plan keeps from passing until further notice: its gate is closed for it
    bool drain_aimed;            // every stream knows how far it must come
    bool drained;                // nothing of these classes is in flight any more
    uint64_t kept_since_ns;      // since when memory that should move is kept from it; 0: it is not
    bool kept_told;              // which was told
    uint64_t drain_started_ns;
    uint64_t drain_ns;
    struct nvs_budget budget;
    uint64_t busy_billed_ns; // of busy_ns: what the budget has paid for
    uint64_t launches_seen;  // at the last look for demand
    uint64_t active_ns;      // when work was last seen, launched or in flight
    uint32_t busy_permille;  // of the last span
    uint64_t busy_reported_ns;
    uint64_t longest_reported_ns;
    uint64_t reported_ns;
};

// Devices 0 .. nvs_device_count() - 1. The count is 0 until cuInit has succeeded.
extern struct nvs_device nvs_devices[NVS_DEVICES_MAX];
size_t nvs_device_count(void);

// Learns the devices from the driver. Call after a successful cuInit; idempotent.
void nvs_devices_learn(void);

// The device of the calling thread's current context; NULL if there is none, or the driver is not started.
struct nvs_device *nvs_device_current(CUcontext *context);

// What the device's budget has left beyond what is in flight, by estimate.
static inline uint64_t nvs_device_budget_ns(const struct nvs_device *device) {
    uint64_t limit_ns = atomic_load_explicit(&device->busy_limit_ns, memory_order_relaxed);
    uint64_t spent_ns = atomic_load_explicit(&device->busy_ns, memory_order_relaxed);
    int64_t in_flight_ns = atomic_load_explicit(&device->in_flight_ns, memory_order_relaxed);
    if (in_flight_ns > 0)
        spent_ns += (uint64_t)in_flight_ns;
    return limit_ns > spent_ns ? limit_ns - spent_ns : 0;
}

// The device of this context; NULL: none, or it is not usable.
struct nvs_device *nvs_device_of_context(CUcontext context);

// The device with this ordinal (a CUdevice); NULL if there is none.
struct nvs_device *nvs_device_of_ordinal(int ordinal);

// The device with this UUID as NVML prints it; NULL if there is none.
struct nvs_device *nvs_device_of_uuid(const char *uuid);

// A context is used, or made current.
void nvs_device_context_seen(CUcontext context);

// A context was destroyed: what threads remember of their device is void.
void nvs_device_context_ended(CUcontext context);

// Marks it in use and starts the control thread. Cheap when it is.
void nvs_device_use(struct nvs_device *device);

// Where its memory is, and where the grant in force wants it. Caller holds the lock.
struct nvs_residency nvs_device_residency(const struct nvs_device *device);

// Waits until calls of the class may pass. CUDA_SUCCESS, or the error that the setting without a relay asks for.
CUresult nvs_device_wait_open(struct nvs_device *device, enum nvs_class class);

// Bytes that the client may have by its grant (UINT64_MAX: as many as it likes). Caller holds the lock.
uint64_t nvs_device_ceiling_bytes(const struct nvs_device *device);

// The footprint at which an allocation is refused (UINT64_MAX: none). Caller holds the lock.
uint64_t nvs_device_limit_bytes(const struct nvs_device *device);

// Gated calls of the program since its start.
uint64_t nvs_device_launches(struct nvs_device *device);

// The client's limit and footprint, once its first plan is known: waits for that. CUDA_SUCCESS, or the error of the
// setting without a relay. Limit UINT64_MAX: none.
CUresult nvs_device_memory(struct nvs_device *device, uint64_t *limit_bytes, uint64_t *footprint_bytes);

// One wait for a change, with the lock held; every ten seconds it says what `call` waits for. May wake for nothing.
void nvs_device_wait(struct nvs_device *device, const char *call, uint64_t since_ns);

// The device's part of its report (report.c), for the control thread.
bool nvs_device_fill_report(size_t index, nvs_report *report);

// The callbacks of the control thread (control.h).
struct nvs_control_hooks;
extern const struct nvs_control_hooks nvs_device_control_hooks;

// After a fork: no device is in use.
void nvs_devices_atfork_child(void);

#endif
