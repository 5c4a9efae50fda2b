/*
 * Times calls of cuLaunchKernel from outside of any framework.
 *
 * It finds the driver as cudart does: dlopen("libcuda.so.1"), dlsym("cuGetProcAddress_v2"), then every function through
 * that. For each line "COUNT WARM_UP [direct]\n" on stdin it launches WARM_UP empty kernels, waits for them, launches
 * COUNT more, and writes one line: the nanoseconds (CLOCK_MONOTONIC) from before the first of the COUNT calls to after
 * the return of the last. It then waits for the kernels outside of that time. Keep COUNT below the depth of the
 * driver's queue (about 1000). With "direct" the COUNT calls go to the driver's own function, found by the loader's own
 * dlsym, past whatever is preloaded: so both ways are timed in one process, on one context, with one memory layout.
 *
 *     timed_launches cuda|emulator
 *
 * The argument says whose kernels are loaded: an empty one in PTX, or the emulator's `spin` of no duration. Built by
 * the bench with the system's compiler; needs no CUDA headers. Ends with status 1 and one line on stderr when something
 * fails.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int (*get_proc_address_v2)(const char *, void **, int, uint64_t, int *);

static const char ptx[] = ".version 6.0\n"
                          ".target sm_50\n"
                          ".address_size 64\n"
                          ".visible .entry spin(.param .u64 duration_ns) { ret; }\n";
static const char emulator_image[] = "NVSHARE-EMULATOR-KERNELS-1";

static get_proc_address_v2 resolver;

static int (*cu_init)(unsigned);
static int (*cu_device_get)(int *, int);
static int (*cu_primary_context_retain)(void **, int);
static int (*cu_context_set_current)(void *);
static int (*cu_context_synchronize)(void);
static int (*cu_module_load_data)(void **, const void *);
static int (*cu_module_get_function)(void **, void *, const char *);
typedef int (*launch_function)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *,
                               void **, void **);
static launch_function cu_launch_kernel;
static launch_function direct_launch_kernel;

static void must(int result, const char *call) {
    if (result != 0) {
        fprintf(stderr, "%s failed with CUDA error %d\n", call, result);
        exit(1);
    }
}

/* Resolves `name` as of `version` (1000 * major + 10 * minor) into the function pointer at `function`. */
static void resolve(const char *name, int version, void *function) {
    void *found = NULL;
    int status = 0;
    must(resolver(name, &found, version, 0, &status), name);
    if (found == NULL) {
        fprintf(stderr, "the driver has no %s\n", name);
        exit(1);
    }
    memcpy(function, &found, sizeof found);
}

/* The driver's cuLaunchKernel as the loader itself finds it: dlvsym is nobody's hook. */
static void find_directly(void *library) {
    static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17"};
    void *(*loader_dlsym)(void *, const char *) = NULL;
    for (size_t i = 0; i < sizeof versions / sizeof versions[0] && loader_dlsym == NULL; i++) {
        void *found = dlvsym(RTLD_NEXT, "dlsym", versions[i]);
        memcpy(&loader_dlsym, &found, sizeof found);
    }
    void *function = loader_dlsym == NULL ? NULL : loader_dlsym(library, "cuLaunchKernel");
    if (function == NULL) {
        fprintf(stderr, "the driver's own cuLaunchKernel is not found\n");
        exit(1);
    }
    memcpy(&direct_launch_kernel, &function, sizeof function);
}

static void find_driver(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    void *symbol = dlsym(library, "cuGetProcAddress_v2");
    if (symbol == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    memcpy(&resolver, &symbol, sizeof resolver);
    resolve("cuInit", 2000, &cu_init);
    resolve("cuDeviceGet", 2000, &cu_device_get);
    resolve("cuDevicePrimaryCtxRetain", 7000, &cu_primary_context_retain);
    resolve("cuCtxSetCurrent", 4000, &cu_context_set_current);
    resolve("cuCtxSynchronize", 2000, &cu_context_synchronize);
    resolve("cuModuleLoadData", 2000, &cu_module_load_data);
    resolve("cuModuleGetFunction", 2000, &cu_module_get_function);
    resolve("cuLaunchKernel", 4000, &cu_launch_kernel);
    find_directly(library);
}

static void *load_kernel(const char *image) {
    int device;
    void *context, *module, *kernel;
    must(cu_init(0), "cuInit");
    must(cu_device_get(&device, 0), "cuDeviceGet");
    must(cu_primary_context_retain(&context, device), "cuDevicePrimaryCtxRetain");
    must(cu_context_set_current(context), "cuCtxSetCurrent");
    must(cu_module_load_data(&module, image), "cuModuleLoadData");
    must(cu_module_get_function(&kernel, module, "spin"), "cuModuleGetFunction");
    return kernel;
}

static int64_t now_ns(void) {
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0) {
        perror("clock_gettime");
        exit(1);
    }
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void launch(launch_function call, void *kernel, long count) {
    uint64_t duration_ns = 0;
    void *parameters[] = {&duration_ns};
    int result = 0;
    for (long i = 0; i < count; i++) {
        result |= call(kernel, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL);
    }
    must(result, "cuLaunchKernel");
}

int main(int argc, char **argv) {
    if (argc != 2 || (strcmp(argv[1], "cuda") != 0 && strcmp(argv[1], "emulator") != 0)) {
        fprintf(stderr, "usage: %s cuda|emulator\n", argv[0]);
        return 1;
    }
    find_driver();
    void *kernel = load_kernel(strcmp(argv[1], "cuda") == 0 ? ptx : emulator_image);
    launch(cu_launch_kernel, kernel, 1);
    must(cu_context_synchronize(), "cuCtxSynchronize");
    puts("ready");
    if (fflush(stdout) != 0) {
        return 1;
    }
    char line[64];
    while (fgets(line, sizeof line, stdin) != NULL) {
        long count, warm_up;
        char way[8] = "";
        if (sscanf(line, "%ld %ld %7s", &count, &warm_up, way) < 2) {
            fprintf(stderr, "not COUNT WARM_UP: %s", line);
            return 1;
        }
        launch_function call = strcmp(way, "direct") == 0 ? direct_launch_kernel : cu_launch_kernel;
        if (warm_up > 0) {
            launch(call, kernel, warm_up);
            must(cu_context_synchronize(), "cuCtxSynchronize");
        }
        int64_t before = now_ns();
        launch(call, kernel, count);
        int64_t after = now_ns();
        must(cu_context_synchronize(), "cuCtxSynchronize");
        printf("%lld\n", (long long)(after - before));
        if (fflush(stdout) != 0) {
            return 1;
        }
    }
    return 0;
}
