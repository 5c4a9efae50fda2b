#include "gang.h"

#include "control.h"
#include "library.h"
#include "log.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <string.h>

// ncclUniqueId, which is passed by value.
struct nvs_nccl_id {
    char internal[128];
};

// ncclInternalError: a program that calls a NCCL function without having NCCL would not even start without us.
#define NVS_NCCL_INTERNAL_ERROR 3

void nvs_gang_note(struct nvs_device *device, const char *sign) {
    if (device == NULL || atomic_exchange_explicit(&device->gang, true, memory_order_acq_rel))
        return;
    nvs_log(NVS_LOG_INFO, "%s: work there is tied to work elsewhere (%s)", device->uuid, sign);
    if (atomic_load_explicit(&device->in_use, memory_order_acquire))
        nvs_control_poke((size_t)device->ordinal);
}

bool nvs_gang_seen(struct nvs_device *device) {
    return atomic_load_explicit(&device->gang, memory_order_acquire);
}

NVS_EXPORT CUresult cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags) {
    if (!nvs_library_start() || nvs_real.cuCtxEnablePeerAccess == NULL)
        return CUDA_ERROR_NOT_INITIALIZED;
    CUresult result = nvs_real.cuCtxEnablePeerAccess(peerContext, Flags);
    if (result == CUDA_SUCCESS) {
        struct nvs_device *device = nvs_device_current(NULL);
        struct nvs_device *peer = nvs_device_of_context(peerContext);
        nvs_gang_note(device, "access to another device");
        nvs_gang_note(peer, "access from another device");
        nvs_memory_share(peer, device);
    }
    return result;
}

// This process is one of several ranks, with the device that is current.
static void nvs_nccl_ranks(int ranks) {
    if (ranks < 2 || !nvs_library_start())
        return;
    struct nvs_device *current = nvs_device_current(NULL);
    if (current != NULL) {
        nvs_gang_note(current, "NCCL with several ranks");
        return;
    }
    for (size_t i = 0; i < nvs_device_count(); i++) // nobody says which: all that it uses
        if (atomic_load_explicit(&nvs_devices[i].in_use, memory_order_acquire))
            nvs_gang_note(&nvs_devices[i], "NCCL with several ranks");
}

// This process is all ranks, one on each of these devices; NULL: on the first `count`.
static void nvs_nccl_devices(int count, const int *ordinals) {
    if (count < 2 || !nvs_library_start())
        return;
    nvs_devices_learn();
    for (int i = 0; i < count; i++)
        nvs_gang_note(nvs_device_of_ordinal(ordinals == NULL ? i : ordinals[i]), "NCCL over several devices");
}

// What the caller of an exported wrapper would have been bound to without us: the next definition in the program's own
// scope, else the one in the scope of the library that calls (one that was opened for itself, as Python's extensions
// are). NULL: none.
static void *nvs_nccl_next(const char *symbol, const void *wrapper, const void *caller) {
    void *next = nvs_loader_dlsym()(RTLD_NEXT, symbol); // no tail call: "next" is counted from this library
    if (next != NULL)
        return next;
    Dl_info library;
    if (dladdr(caller, &library) == 0)
        return NULL;
    void *handle = dlopen(library.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    if (handle == NULL)
        return NULL;
    next = nvs_loader_dlsym()(handle, symbol);
    dlclose(handle); // the caller keeps it open
    return next == wrapper ? NULL : next;
}

// Each function twice: under its own name for those who are linked with NCCL, and as what dlsym gives, which goes on to
// the function that dlsym found.
#define NVS_NCCL(name, sign, params, args)                                                                             \
    static _Atomic(void *) nvs_found_##name;                                                                           \
    NVS_EXPORT int name params;                                                                                        \
    NVS_EXPORT int name params {                                                                                       \
        int(*next) params;                                                                                             \
        void *address = nvs_nccl_next(#name, (void *)name, __builtin_return_address(0));                               \
        if (address == NULL)                                                                                           \
            return NVS_NCCL_INTERNAL_ERROR;                                                                            \
        memcpy(&next, &address, sizeof(next));                                                                         \
        sign;                                                                                                          \
        return next args;                                                                                              \
    }                                                                                                                  \
    static int nvs_opened_##name params {                                                                              \
        int(*next) params;                                                                                             \
        void *address = atomic_load_explicit(&nvs_found_##name, memory_order_acquire);                                 \
        memcpy(&next, &address, sizeof(next));                                                                         \
        sign;                                                                                                          \
        return next args;                                                                                              \
    }
#include "nccl.def"
#undef NVS_NCCL

static const struct nvs_nccl_function {
    const char *name;
    void *exported;
    void *opened;
    _Atomic(void *) *found;
} nvs_nccl_functions[] = {
#define NVS_NCCL(name, sign, params, args) {#name, (void *)name, (void *)nvs_opened_##name, &nvs_found_##name},
#include "nccl.def"
#undef NVS_NCCL
};

bool nvs_gang_is_name(const char *symbol) {
    return strncmp(symbol, "ncclCommInit", strlen("ncclCommInit")) == 0;
}

void *nvs_gang_resolve(void *handle, const char *symbol) {
    void *address = nvs_loader_dlsym()(handle, symbol);
    for (size_t i = 0; address != NULL && i < sizeof(nvs_nccl_functions) / sizeof(nvs_nccl_functions[0]); i++) {
        const struct nvs_nccl_function *function = &nvs_nccl_functions[i];
        if (strcmp(function->name, symbol) != 0)
            continue;
        if (address == function->exported) // only asked for; is there a NCCL behind us?
            address = nvs_loader_dlsym()(RTLD_NEXT, symbol);
        if (address == NULL)
            return NULL;
        void *known = NULL;
        if (atomic_compare_exchange_strong(function->found, &known, address) || known == address)
            return function->opened;
        nvs_log_once(NVS_LOG_WARN, "there is a second NCCL in this process: communicators that are made with it are "
                                   "not seen as work that spans GPUs");
        return address;
    }
    return address;
}
