#include "channel.h"

#include "driver.h"
#include "ioctl.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

// nv-ioctl-numbers.h, nv_escape.h
#define NVS_RM_MAGIC 'F'
#define NVS_RM_FREE 0x29u
#define NVS_RM_CONTROL 0x2Au
#define NVS_RM_ALLOC 0x2Bu
#define NVS_RM_REQUEST(number, size) _IOC(_IOC_READ | _IOC_WRITE, NVS_RM_MAGIC, (number), (size))

// cla06c.h; ctrla06c.h: both flagged as open to every process
#define NVS_RM_CHANNEL_GROUP UINT32_C(0xA06C)
#define NVS_RM_SET_TIMESLICE UINT32_C(0xA06C0103)
#define NVS_RM_GET_TIMESLICE UINT32_C(0xA06C0104)

// cl2080_notification.h: graphics and compute engines; copy engines come behind them
#define NVS_RM_ENGINE_FIRST 1u
#define NVS_RM_ENGINE_LAST 8u

// NVOS21_PARAMETERS, 32 bytes, and NVOS64_PARAMETERS, 48 bytes, begin alike.
struct nvs_rm_alloc {
    uint32_t client, parent, object, class;
    uint64_t parameters;
    uint64_t rights; // the longer one alone, as all that follows
    uint32_t parameters_bytes, flags, status, unused;
};
#define NVS_RM_SHORT_ALLOC_BYTES 32u
#define NVS_RM_SHORT_ALLOC_STATUS 28u

// NVOS00_PARAMETERS
struct nvs_rm_free {
    uint32_t client, parent, object, status;
};

// NVOS54_PARAMETERS
struct nvs_rm_control {
    uint32_t client, object, command, flags;
    uint64_t parameters;
    uint32_t parameters_bytes, status;
};

// NV_CHANNEL_GROUP_ALLOCATION_PARAMETERS, as far as it is read
struct nvs_rm_group {
    uint32_t error_object, ecc_error_object, address_space, engine;
};

_Static_assert(sizeof(struct nvs_rm_alloc) == 48, "as the kernel driver lays it out");
_Static_assert(sizeof(struct nvs_rm_free) == 16, "as the kernel driver lays it out");
_Static_assert(sizeof(struct nvs_rm_control) == 32, "as the kernel driver lays it out");

static pthread_mutex_t nvs_channel_lock = PTHREAD_MUTEX_INITIALIZER;
static struct nvs_channel_group nvs_groups[NVS_CHANNEL_GROUPS_MAX]; // under the lock, with the next three
static size_t nvs_group_count;
static uint64_t nvs_groups_made;
static _Atomic uint64_t nvs_groups_changed;

static __thread int nvs_making_device __attribute__((tls_model("initial-exec"))) = -1;

void nvs_channel_making(int ordinal) {
    nvs_making_device = ordinal;
}

uint64_t nvs_channel_changes(void) {
    return atomic_load_explicit(&nvs_groups_changed, memory_order_acquire);
}

static bool nvs_descriptor_file(int descriptor, dev_t *file) {
    struct stat status;
    if (fstat(descriptor, &status) != 0)
        return false;
    *file = status.st_rdev;
    return true;
}

// The device of a group that is made under the same parent; -1: none was. Caller holds the lock.
static int nvs_channel_sibling(uint32_t client, uint32_t parent) {
    for (size_t i = 0; i < nvs_group_count; i++)
        if (nvs_groups[i].client == client && nvs_groups[i].parent == parent && nvs_groups[i].ordinal >= 0)
            return nvs_groups[i].ordinal;
    return -1;
}

static void nvs_channel_made(int descriptor, const struct nvs_rm_alloc *alloc) {
    struct nvs_channel_group group = {descriptor, 0, alloc->client, alloc->parent, alloc->object, false, -1, 0};
    if (alloc->parameters == 0 || !nvs_descriptor_file(descriptor, &group.file))
        return;
    struct nvs_rm_group parameters;
    memcpy(&parameters, (const void *)(uintptr_t)alloc->parameters, sizeof(parameters));
    group.computes = parameters.engine >= NVS_RM_ENGINE_FIRST && parameters.engine <= NVS_RM_ENGINE_LAST;
    pthread_mutex_lock(&nvs_channel_lock);
    if (nvs_group_count < NVS_CHANNEL_GROUPS_MAX) { // one beyond keeps its own slice
        group.ordinal = nvs_making_device >= 0 ? nvs_making_device : nvs_channel_sibling(group.client, group.parent);
        group.made = ++nvs_groups_made;
        nvs_groups[nvs_group_count++] = group;
        atomic_fetch_add_explicit(&nvs_groups_changed, 1, memory_order_release);
    }
    pthread_mutex_unlock(&nvs_channel_lock);
}

// An object goes with all that is under it: a group, the device that it is on, or the whole client.
static void nvs_channel_freed(const struct nvs_rm_free *freed) {
    size_t kept = 0;
    pthread_mutex_lock(&nvs_channel_lock);
    for (size_t i = 0; i < nvs_group_count; i++) {
        const struct nvs_channel_group *group = &nvs_groups[i];
        bool goes =
            group->client == freed->client &&
            (group->object == freed->object || group->parent == freed->object || group->client == freed->object);
        if (!goes)
            nvs_groups[kept++] = *group;
    }
    if (kept != nvs_group_count) {
        nvs_group_count = kept;
        atomic_fetch_add_explicit(&nvs_groups_changed, 1, memory_order_release);
    }
    pthread_mutex_unlock(&nvs_channel_lock);
}

void nvs_channel_seen(int descriptor, unsigned long request, const void *argument) {
    if (_IOC_TYPE(request) != NVS_RM_MAGIC || argument == NULL)
        return;
    size_t size = _IOC_SIZE(request);
    if (_IOC_NR(request) == NVS_RM_ALLOC && (size == NVS_RM_SHORT_ALLOC_BYTES || size == sizeof(struct nvs_rm_alloc))) {
        struct nvs_rm_alloc alloc = {.status = 0};
        memcpy(&alloc, argument, size);
        if (size == NVS_RM_SHORT_ALLOC_BYTES)
            memcpy(&alloc.status, (const char *)argument + NVS_RM_SHORT_ALLOC_STATUS, sizeof(alloc.status));
        if (alloc.class == NVS_RM_CHANNEL_GROUP && alloc.status == 0)
            nvs_channel_made(descriptor, &alloc);
    } else if (_IOC_NR(request) == NVS_RM_FREE && size == sizeof(struct nvs_rm_free)) {
        struct nvs_rm_free freed;
        memcpy(&freed, argument, sizeof(freed));
        if (freed.status == 0)
            nvs_channel_freed(&freed);
    }
}

// ---- The emulator's interface

struct nvs_emulator {
    int (*get)(int device, uint64_t *timeslice_us);
    int (*set)(int device, uint64_t timeslice_us);
};

static struct nvs_emulator nvs_emulator;
static pthread_once_t nvs_emulator_once = PTHREAD_ONCE_INIT;

static void nvs_emulator_find(void) {
    void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (library == NULL)
        return;
    void *get = nvs_loader_dlsym()(library, "nvshare_emulator_get_timeslice");
    void *set = nvs_loader_dlsym()(library, "nvshare_emulator_set_timeslice");
    memcpy(&nvs_emulator.get, &get, sizeof(get));
    memcpy(&nvs_emulator.set, &set, sizeof(set));
}

static bool nvs_emulated(void) {
    pthread_once(&nvs_emulator_once, nvs_emulator_find);
    return nvs_emulator.get != NULL && nvs_emulator.set != NULL;
}

static size_t nvs_emulated_group(int ordinal, struct nvs_channel_group *group) {
    uint64_t timeslice_us;
    if (nvs_emulator.get(ordinal, &timeslice_us) != 0)
        return 0; // the process has no context there yet
    *group = (struct nvs_channel_group){.descriptor = -1, .computes = true, .ordinal = ordinal, .made = 1};
    return 1;
}

// ---- Setting slices

size_t nvs_channel_groups(int ordinal, bool alone, struct nvs_channel_group *groups, size_t most) {
    size_t count = 0;
    if (nvs_emulated())
        return most > 0 ? nvs_emulated_group(ordinal, groups) : 0;
    pthread_mutex_lock(&nvs_channel_lock);
    for (size_t i = 0; i < nvs_group_count && count < most; i++)
        if (nvs_groups[i].computes && (nvs_groups[i].ordinal == ordinal || (alone && nvs_groups[i].ordinal < 0)))
            groups[count++] = nvs_groups[i];
    pthread_mutex_unlock(&nvs_channel_lock);
    return count;
}

static bool nvs_channel_control(const struct nvs_channel_group *group, uint32_t command, uint64_t *timeslice_us) {
    struct nvs_rm_control control = {
        group->client, group->object, command, 0, (uint64_t)(uintptr_t)timeslice_us, sizeof(*timeslice_us), 0};
    dev_t file;
    if (!nvs_descriptor_file(group->descriptor, &file) || file != group->file)
        return false; // the number is another file's by now
    return nvs_ioctl_next(group->descriptor, NVS_RM_REQUEST(NVS_RM_CONTROL, sizeof(control)), &control) == 0 &&
           control.status == 0;
}

bool nvs_channel_slice(const struct nvs_channel_group *group, uint64_t *timeslice_us) {
    *timeslice_us = 0;
    if (group->descriptor < 0)
        return nvs_emulator.get(group->ordinal, timeslice_us) == 0;
    return nvs_channel_control(group, NVS_RM_GET_TIMESLICE, timeslice_us);
}

bool nvs_channel_set_slice(const struct nvs_channel_group *group, uint64_t timeslice_us) {
    if (group->descriptor < 0)
        return nvs_emulator.set(group->ordinal, timeslice_us) == 0;
    return nvs_channel_control(group, NVS_RM_SET_TIMESLICE, &timeslice_us);
}

void nvs_channel_atfork_child(void) {
    pthread_mutex_init(&nvs_channel_lock, NULL);
    nvs_group_count = 0;
    nvs_making_device = -1;
}
