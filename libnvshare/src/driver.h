// The real driver: its functions, found once, and the map from each of them to our wrapper.
//
// Owner of the table: this module. It is filled once, from whichever libcuda the program itself uses, and constant
// afterwards. A symbol that this driver does not have stays NULL.
#ifndef NVS_DRIVER_H
#define NVS_DRIVER_H

// Declares every variant of every function (`_v2`, `_ptsz`, …) under its own name, without renaming macros.
#define __CUDA_API_VERSION_INTERNAL
#include <cuda.h>

#include <nvml.h>

#include <stdbool.h>

#define NVS_EXPORT __attribute__((visibility("default")))

// `stream` as the per-thread variant (`_ptsz`) of a function means it.
#define NVS_OWN(stream) ((stream) == NULL ? CU_STREAM_PER_THREAD : (stream))

struct nvs_driver {
#define NVS_STREAM_CALL(name, class, stream, params, args)                                                             \
    __typeof__(&name) name;                                                                                            \
    __typeof__(&name##_ptsz) name##_ptsz;
#define NVS_AWAIT_CALL(name, stream, params, args) NVS_STREAM_CALL(name, LAUNCH, stream, params, args)
#define NVS_SYNC_CALL(name, class, params, args)                                                                       \
    __typeof__(&name) name;                                                                                            \
    __typeof__(&name##_ptds) name##_ptds;
#define NVS_PLAIN_CALL(name, class, stream, params, args) __typeof__(&name) name;
#define NVS_LOOK_CALL(name, params, args) __typeof__(&name) name;
#define NVS_CUSTOM(name) __typeof__(&name) name;
#include "hooks.def"
#undef NVS_STREAM_CALL
#undef NVS_AWAIT_CALL
#undef NVS_SYNC_CALL
#undef NVS_PLAIN_CALL
#undef NVS_LOOK_CALL
#undef NVS_CUSTOM
    // Used, not wrapped.
#define NVS_USED(name) __typeof__(&name) name;
#include "used.def"
#undef NVS_USED
};

struct nvs_nvml {
#define NVS_NVML_CUSTOM(name) __typeof__(&name) name;
#include "nvml.def"
#undef NVS_NVML_CUSTOM
    __typeof__(&nvmlDeviceGetUUID) nvmlDeviceGetUUID;
};

// The filled tables. They are all NULL while no libcuda (libnvidia-ml) can be loaded.
extern struct nvs_driver nvs_real;
extern struct nvs_nvml nvs_real_nvml;

// Fills nvs_real from libcuda.so.1 (nvs_real_nvml from libnvidia-ml.so.1); only if the process has it already, unless
// `open`. Only the first call that finds it does anything. True: the table is filled.
bool nvs_driver_load(bool open);
bool nvs_nvml_load(bool open);

// The wrapper for a function of the driver or of NVML; the same address back if there is none.
void *nvs_wrapper_of(void *function);

// The same for what a symbol of this name was resolved to; loads the table if it is a name that we wrap.
void *nvs_wrapper_of_name(const char *name, void *function);

// After a fork.
void nvs_driver_atfork_child(void);

// The loader's own dlsym, not ours.
typedef void *(*nvs_dlsym_function)(void *handle, const char *symbol);
nvs_dlsym_function nvs_loader_dlsym(void);

#endif
