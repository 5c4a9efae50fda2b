#include "driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// cuda.h calls it cuEventElapsedTime; drivers since 12.8 export that name for the old behaviour and `_v2` for the new
// one. The difference does not touch us: both give milliseconds between two events that have completed.

struct nvs_driver nvs_real;
struct nvs_nvml nvs_real_nvml;

struct nvs_symbol {
    const char *name;
    size_t offset; // in the table of originals
    void *wrapper; // NULL: used, not wrapped
};

static const struct nvs_symbol nvs_driver_symbols[] = {
#define NVS_ENTRY(symbol) {#symbol, offsetof(struct nvs_driver, symbol), (void *)symbol},
#define NVS_STREAM_CALL(name, class, stream, params, args) NVS_ENTRY(name) NVS_ENTRY(name##_ptsz)
#define NVS_AWAIT_CALL(name, stream, params, args) NVS_STREAM_CALL(name, LAUNCH, stream, params, args)
#define NVS_SYNC_CALL(name, class, params, args) NVS_ENTRY(name) NVS_ENTRY(name##_ptds)
#define NVS_PLAIN_CALL(name, class, stream, params, args) NVS_ENTRY(name)
#define NVS_LOOK_CALL(name, params, args) NVS_ENTRY(name)
#define NVS_CUSTOM(name) NVS_ENTRY(name)
#include "hooks.def"
#undef NVS_STREAM_CALL
#undef NVS_AWAIT_CALL
#undef NVS_SYNC_CALL
#undef NVS_PLAIN_CALL
#undef NVS_LOOK_CALL
#undef NVS_CUSTOM
#undef NVS_ENTRY
#define NVS_USED(symbol) {#symbol, offsetof(struct nvs_driver, symbol), NULL},
#include "used.def"
#undef NVS_USED
};

static const struct nvs_symbol nvs_nvml_symbols[] = {
#define NVS_NVML_CUSTOM(symbol) {#symbol, offsetof(struct nvs_nvml, symbol), (void *)symbol},
#include "nvml.def"
#undef NVS_NVML_CUSTOM
    {"nvmlDeviceGetUUID", offsetof(struct nvs_nvml, nvmlDeviceGetUUID), NULL},
};

#define NVS_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define NVS_SYMBOLS_MAX 512u
_Static_assert(NVS_COUNT(nvs_driver_symbols) <= NVS_SYMBOLS_MAX, "the table of found symbols is too short");

// Open addressing over the addresses of the originals. Written under nvs_load_lock, entry by entry (wrapper first),
// read without.
#define NVS_MAP_SIZE 1024u
static struct {
    _Atomic(void *) function;
    _Atomic(void *) wrapper;
} nvs_map[NVS_MAP_SIZE];

static pthread_mutex_t nvs_load_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool nvs_driver_loaded;
static atomic_bool nvs_nvml_loaded;

static size_t nvs_map_start(const void *function) {
    return (size_t)(((uintptr_t)function >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> 40) % NVS_MAP_SIZE;
}

static void nvs_map_add(void *function, void *wrapper) {
    for (size_t step = 0; step < NVS_MAP_SIZE; step++) {
        size_t at = (nvs_map_start(function) + step) % NVS_MAP_SIZE;
        void *there = atomic_load_explicit(&nvs_map[at].function, memory_order_relaxed);
        if (there == function)
            return; // two names of one function: the first keeps it
        if (there == NULL) {
            atomic_store_explicit(&nvs_map[at].wrapper, wrapper, memory_order_relaxed);
            atomic_store_explicit(&nvs_map[at].function, function, memory_order_release);
            return;
        }
    }
}

void *nvs_wrapper_of(void *function) {
    for (size_t step = 0; step < NVS_MAP_SIZE; step++) {
        size_t at = (nvs_map_start(function) + step) % NVS_MAP_SIZE;
        void *there = atomic_load_explicit(&nvs_map[at].function, memory_order_acquire);
        if (there == NULL)
            return function;
        if (there == function)
            return atomic_load_explicit(&nvs_map[at].wrapper, memory_order_relaxed);
    }
    return function;
}

static void *nvs_finds_nothing(void *handle, const char *symbol) {
    (void)handle;
    (void)symbol;
    return NULL;
}

nvs_dlsym_function nvs_loader_dlsym(void) {
    static _Atomic(nvs_dlsym_function) found;
    nvs_dlsym_function loader = atomic_load_explicit(&found, memory_order_acquire);
    if (loader != NULL)
        return loader;
    // dlvsym is not wrapped by us: it finds the loader's dlsym. 2.34: since it moved into libc; 2.2.5: x86-64 before
    // that; 2.17: the first of aarch64.
    static const char *const nodes[] = {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17"};
    void *address = NULL;
    for (size_t i = 0; i < NVS_COUNT(nodes) && address == NULL; i++)
        address = dlvsym(RTLD_NEXT, "dlsym", nodes[i]);
    if (address == NULL)
        return nvs_finds_nothing;
    memcpy(&loader, &address, sizeof(loader)); // ISO C has no cast from an object's pointer to a function's
    atomic_store_explicit(&found, loader, memory_order_release);
    return loader;
}

// By its SONAME, so that one which the program loaded from elsewhere is found as well. It stays open.
static void *nvs_open_library(const char *name, bool open) {
    return dlopen(name, open ? RTLD_LAZY : RTLD_LAZY | RTLD_NOLOAD);
}

// Nothing is locked while the loader works: it runs constructors, which may call dlsym. Two threads that come together
// both look; the first publishes.
static bool nvs_load(void *handle, const struct nvs_symbol *symbols, size_t count, void *table, atomic_bool *loaded) {
    if (handle == NULL)
        return false;
    void *found[NVS_SYMBOLS_MAX];
    for (size_t i = 0; i < count; i++)
        found[i] = nvs_loader_dlsym()(handle, symbols[i].name);
    pthread_mutex_lock(&nvs_load_lock);
    if (!atomic_load_explicit(loaded, memory_order_relaxed)) {
        for (size_t i = 0; i < count; i++) {
            memcpy((char *)table + symbols[i].offset, &found[i], sizeof(found[i]));
            if (found[i] != NULL && symbols[i].wrapper != NULL && found[i] != symbols[i].wrapper)
                nvs_map_add(found[i], symbols[i].wrapper);
        }
        atomic_store_explicit(loaded, true, memory_order_release);
    }
    pthread_mutex_unlock(&nvs_load_lock);
    return true;
}

bool nvs_driver_load(bool open) {
    return atomic_load_explicit(&nvs_driver_loaded, memory_order_acquire) ||
           nvs_load(nvs_open_library("libcuda.so.1", open), nvs_driver_symbols, NVS_COUNT(nvs_driver_symbols),
                    &nvs_real, &nvs_driver_loaded);
}

bool nvs_nvml_load(bool open) {
    return atomic_load_explicit(&nvs_nvml_loaded, memory_order_acquire) ||
           nvs_load(nvs_open_library("libnvidia-ml.so.1", open), nvs_nvml_symbols, NVS_COUNT(nvs_nvml_symbols),
                    &nvs_real_nvml, &nvs_nvml_loaded);
}

static bool nvs_is_wrapped(const struct nvs_symbol *symbols, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++)
        if (symbols[i].wrapper != NULL && strcmp(symbols[i].name, name) == 0)
            return true;
    return false;
}

void *nvs_wrapper_of_name(const char *name, void *function) {
    if (nvs_is_wrapped(nvs_driver_symbols, NVS_COUNT(nvs_driver_symbols), name))
        (void)nvs_driver_load(false);
    else if (nvs_is_wrapped(nvs_nvml_symbols, NVS_COUNT(nvs_nvml_symbols), name))
        (void)nvs_nvml_load(false);
    return nvs_wrapper_of(function);
}

void nvs_driver_atfork_child(void) {
    pthread_mutex_init(&nvs_load_lock, NULL);
}
