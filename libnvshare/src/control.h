// The control thread: keeps the connection to the relay, sends reports, and applies grants.
//
// One thread, made by the first nvs_control_start(), for all devices of the process. The data plane gives it five
// callbacks; they run on the control thread, with none of its locks held, and may call nvs_control_poke(). The state of
// the connection belongs to that thread alone; what other threads touch is atomic.
//
// Locks, in this order: `lifecycle` (start, leave), then `descriptors` (held while the thread opens or closes its
// socket, so that a fork never copies a descriptor that the child does not know of). Both are taken by
// nvs_control_atfork_prepare().
#ifndef NVS_CONTROL_H
#define NVS_CONTROL_H

#include "wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The most devices that one process can use.
#define NVS_CONTROL_DEVICES_MAX 64u

#define NVS_CONTROL_NEVER_NS UINT64_MAX

// What the data plane does for the control thread. All are needed. Devices are numbered from 0.
struct nvs_control_hooks {
    // Number of devices that might be reported, at most NVS_CONTROL_DEVICES_MAX; may grow, never shrinks.
    size_t (*device_count)(void);

    // Fills the zeroed report with the device's state: gpu, generation, epoch, state, demand, bytes, times, counters,
    // leaving. The control thread adds client, sequence, pid, name, version, build, protocol, monotonic_ns,
    // unknown_messages and malformed_messages. False: the device is not in use, nothing is sent. Once true, `gpu` stays
    // the same.
    bool (*fill_report)(size_t device, nvs_report *report);

    // A grant for the device that is newer than every one before it. It is applied: the next report is expected to name
    // it.
    void (*apply_grant)(size_t device, const nvs_grant *grant);

    // Called at each wake-up of the thread. Returns the CLOCK_MONOTONIC nanosecond at which it wants to be called again
    // at the latest, or NVS_CONTROL_NEVER_NS.
    uint64_t (*tick)(uint64_t now_ns);

    // The relay answered our registration (true), or the connection was lost (false).
    void (*connection_changed)(bool connected);
};

// Starts the thread if there is none. Idempotent, cheap when it runs, safe from every thread.
// Returns 0, or an errno value (then it may be called again). After nvs_control_leave() it returns ESHUTDOWN.
int nvs_control_start(const struct nvs_control_hooks *hooks);

// The device's state changed: its report is due. Wakes the thread, which calls tick and sends it; pokes that come
// together make one report. In a hook it only marks the report, which leaves in the same round. Safe from every thread
// and in signal handlers, never blocks, does nothing before the start.
void nvs_control_poke(size_t device);

// Work begins: the thread looks at the devices, and reports only what it finds changed. As safe as a poke.
void nvs_control_wake(void);

// True while the relay's connection stands and has answered.
bool nvs_control_connected(void);

// CLOCK_MONOTONIC since when there has been no connection: from the start of the thread, or from the loss. 0:
// connected, or the thread never ran.
uint64_t nvs_control_disconnected_since_ns(void);

// The process ends: sends a last report with `leaving` for each device in use, closes the connection and ends the
// thread. Waits for that at most 50 ms. Nothing is sent afterwards.
void nvs_control_leave(void);

// Handlers for pthread_atfork(), which the library's owner registers. After _child the process has no connection, no
// thread and a new nonce; nvs_control_start() begins anew. No allocation.
void nvs_control_atfork_prepare(void);
void nvs_control_atfork_parent(void);
void nvs_control_atfork_child(void);

#endif
