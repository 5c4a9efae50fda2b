#include "slice.h"

#include "channel.h"
#include "log.h"
#include "settings.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Groups of one device that are set; a process makes one or a few that compute.
#define NVS_SLICED_MAX 32u

// A slice in force is read again so long after it was set, then each time twice as long after, up to the longest: a
// group's slice can be lost while its context is still being made.
#define NVS_SLICE_LOOK_FIRST_NS UINT64_C(50000000)
#define NVS_SLICE_LOOK_LONGEST_NS UINT64_C(1000000000)

// A slice beyond this is none that a driver gives a group: what answers is not what we think.
#define NVS_SLICE_MOST_US UINT64_C(10000000)

struct nvs_sliced {
    struct nvs_channel_group group;
    uint64_t own_us; // before the first set
    uint64_t set_us; // 0: its own
};

struct nvs_slices {
    uint32_t wanted_us;
    uint32_t force_us; // in force on all of them; 0: their own
    uint64_t changes;  // of the channel groups when they were last looked at
    uint64_t look_ns;  // when they are read again
    uint64_t pause_ns; // and how long after the last time that is
    bool refused;
    char failure[NVS_REASON_SIZE];
    struct nvs_sliced groups[NVS_SLICED_MAX];
    size_t count;
};

static pthread_mutex_t nvs_slice_lock = PTHREAD_MUTEX_INITIALIZER;
static struct nvs_slices nvs_slices[NVS_DEVICES_MAX]; // under the lock
static bool nvs_slices_end_set;                       // under the lock

// Caller holds the lock, here and below.
static void nvs_slice_refuse(struct nvs_slices *slices, const struct nvs_device *device, const char *reason) {
    slices->refused = true;
    slices->force_us = 0;
    snprintf(slices->failure, sizeof(slices->failure), "%s", reason);
    nvs_log(NVS_LOG_INFO, "%s: hardware time slices stay as they are: %s", device->uuid, reason);
}

static struct nvs_sliced *nvs_sliced_of(struct nvs_slices *slices, uint64_t made) {
    for (size_t i = 0; i < slices->count; i++)
        if (slices->groups[i].group.made == made)
            return &slices->groups[i];
    return NULL;
}

// Looks which groups there are now. False: the slice of one cannot be read.
static bool nvs_slice_look(struct nvs_slices *slices, const struct nvs_device *device) {
    struct nvs_channel_group groups[NVS_SLICED_MAX];
    struct nvs_sliced now[NVS_SLICED_MAX];
    size_t count = nvs_channel_groups(device->ordinal, nvs_device_count() == 1, groups, NVS_SLICED_MAX);
    for (size_t i = 0; i < count; i++) {
        const struct nvs_sliced *known = nvs_sliced_of(slices, groups[i].made);
        if (known != NULL) {
            now[i] = *known;
            continue;
        }
        now[i] = (struct nvs_sliced){.group = groups[i], .set_us = 0};
        if (!nvs_channel_slice(&groups[i], &now[i].own_us) || now[i].own_us == 0 || now[i].own_us > NVS_SLICE_MOST_US)
            return false;
    }
    memcpy(slices->groups, now, count * sizeof(now[0]));
    slices->count = count;
    return true;
}

// Sets one group's slice and reads it back.
static bool nvs_slice_set(struct nvs_sliced *sliced, uint64_t timeslice_us) {
    uint64_t wanted_us = timeslice_us == 0 ? sliced->own_us : timeslice_us, read_us;
    if (sliced->set_us == timeslice_us)
        return true;
    if (!nvs_channel_set_slice(&sliced->group, wanted_us) || !nvs_channel_slice(&sliced->group, &read_us) ||
        read_us != wanted_us)
        return false;
    sliced->set_us = timeslice_us;
    return true;
}

static void nvs_slice_put_back(struct nvs_slices *slices) {
    for (size_t i = 0; i < slices->count; i++)
        (void)nvs_slice_set(&slices->groups[i], 0); // one that refuses this is gone, or refused the other way, too
    slices->force_us = 0;
}

static void nvs_slice_set_all(struct nvs_slices *slices, struct nvs_device *device, uint32_t timeslice_us) {
    uint64_t changes = nvs_channel_changes();
    bool done = nvs_slice_look(slices, device);
    for (size_t i = 0; i < slices->count && done; i++)
        done = nvs_slice_set(&slices->groups[i], timeslice_us);
    if (!done && changes != nvs_channel_changes())
        return; // one ended meanwhile: looked at again
    slices->changes = changes;
    slices->wanted_us = timeslice_us;
    if (done) {
        slices->force_us = slices->count > 0 ? timeslice_us : 0;
        snprintf(slices->failure, sizeof(slices->failure), "%s",
                 slices->count > 0 ? "" : "no channel group of the process was seen");
        return;
    }
    nvs_slice_put_back(slices);
    nvs_slice_refuse(slices, device, "the kernel driver does not let them be read and set");
}

// A process that ends with a short slice beside a busy neighbour would take long to end its work.
static void nvs_slices_leave(void) {
    pthread_mutex_lock(&nvs_slice_lock);
    for (size_t i = 0; i < NVS_DEVICES_MAX; i++) {
        nvs_slice_put_back(&nvs_slices[i]);
        nvs_slices[i].refused = true; // nothing is set any more
    }
    pthread_mutex_unlock(&nvs_slice_lock);
}

// Handlers run in the opposite order: this one before the driver's own, which was there before.
static void nvs_slice_register_end(void) {
    if (nvs_slices_end_set)
        return;
    nvs_slices_end_set = true;
    if (atexit(nvs_slices_leave) != 0)
        nvs_log(NVS_LOG_WARN, "time slices are not put back at the end of the process: atexit failed");
}

// Whether all groups still have the slice that is in force. What lost it is set again, and seen to again soon.
static bool nvs_slice_kept(struct nvs_slices *slices, const struct nvs_device *device, uint64_t now_ns) {
    if (slices->force_us == 0 || now_ns < slices->look_ns)
        return true;
    bool kept = true;
    for (size_t i = 0; i < slices->count; i++) {
        uint64_t read_us;
        if (nvs_channel_slice(&slices->groups[i].group, &read_us) && read_us == slices->groups[i].set_us)
            continue;
        slices->groups[i].set_us = 0;
        kept = false;
    }
    if (!kept)
        nvs_log_once(NVS_LOG_INFO, "%s: a hardware time slice was lost, and is set again", device->uuid);
    slices->pause_ns = kept ? 2 * slices->pause_ns : NVS_SLICE_LOOK_FIRST_NS;
    if (slices->pause_ns > NVS_SLICE_LOOK_LONGEST_NS)
        slices->pause_ns = NVS_SLICE_LOOK_LONGEST_NS;
    slices->look_ns = now_ns + slices->pause_ns;
    return kept;
}

void nvs_slice_follow(struct nvs_device *device, uint32_t timeslice_us, uint64_t now_ns) {
    struct nvs_slices *slices = &nvs_slices[device->ordinal];
    pthread_mutex_lock(&nvs_slice_lock);
    bool follows = timeslice_us == slices->wanted_us &&
                   (timeslice_us == 0 || (slices->count > 0 && slices->changes == nvs_channel_changes()));
    if (!follows) {
        slices->pause_ns = NVS_SLICE_LOOK_FIRST_NS;
        slices->look_ns = now_ns + slices->pause_ns;
    } else if (!slices->refused) {
        follows = nvs_slice_kept(slices, device, now_ns);
    }
    if (!follows && !slices->refused && !nvs_settings_read()->slices)
        nvs_slice_refuse(slices, device, "switched off by NVSHARE_SLICES=0");
    if (!follows && !slices->refused) {
        nvs_slice_register_end();
        nvs_slice_set_all(slices, device, timeslice_us);
    }
    pthread_mutex_unlock(&nvs_slice_lock);
}

uint32_t nvs_slice_state(const struct nvs_device *device, char failure[NVS_REASON_SIZE]) {
    struct nvs_slices *slices = &nvs_slices[device->ordinal];
    pthread_mutex_lock(&nvs_slice_lock);
    memcpy(failure, slices->failure, NVS_REASON_SIZE);
    uint32_t force_us = slices->force_us;
    pthread_mutex_unlock(&nvs_slice_lock);
    return force_us;
}

void nvs_slice_atfork_child(void) {
    pthread_mutex_init(&nvs_slice_lock, NULL);
    memset(nvs_slices, 0, sizeof(nvs_slices));
}
