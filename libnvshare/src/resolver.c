// The ways in: dlsym on any handle, and both versions of cuGetProcAddress. (The third, exported names, needs no code.)
//
// The real resolver is always asked first, with the caller's own arguments; its return value and status stay. What we
// do is to map the *address* that it returned to the wrapper of that very function, so version, flags and ABI are the
// driver's decision. An address that we do not know passes through: requirement E13 and research/preload-anchors.md,
// section 6.3.
#include "driver.h"
#include "gang.h"
#include "library.h"

#include <dlfcn.h>
#include <string.h>

static bool nvs_is_driver_name(const char *symbol) {
    return symbol[0] == 'c' && symbol[1] == 'u' && symbol[2] >= 'A' &&
           symbol[2] <= 'Z'; // not cudaMalloc, not curl_easy_init
}

static bool nvs_is_nvml_name(const char *symbol) {
    return strncmp(symbol, "nvml", 4) == 0;
}

static void *nvs_resolve(void *handle, const char *symbol) {
    if (nvs_gang_is_name(symbol))
        return nvs_gang_resolve(handle, symbol);
    void *function = nvs_loader_dlsym()(handle, symbol);
    return function == NULL ? NULL : nvs_wrapper_of_name(symbol, function);
}

// Exported without a version: the loader takes it for dlsym@GLIBC_2.2.5 and dlsym@GLIBC_2.34 alike. For names that do
// not concern us it must leave no frame of its own under the loader's: RTLD_NEXT means "after the library of the return
// address". So the last thing that it does is a tail call (a test looks). For RTLD_NEXT that goes for our names too:
// who asks is an interposer itself, and would be given its own function back.
NVS_EXPORT void *dlsym(void *restrict handle, const char *restrict symbol) {
    bool ours =
        handle != RTLD_NEXT && (nvs_is_driver_name(symbol) || nvs_is_nvml_name(symbol) || nvs_gang_is_name(symbol));
    nvs_dlsym_function next = ours ? nvs_resolve : nvs_loader_dlsym();
    return next(handle, symbol);
}

NVS_EXPORT CUresult cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags) {
    if (!nvs_library_start() || nvs_real.cuGetProcAddress == NULL)
        return CUDA_ERROR_NOT_FOUND;
    CUresult result = nvs_real.cuGetProcAddress(symbol, pfn, cudaVersion, flags);
    if (result == CUDA_SUCCESS && pfn != NULL && *pfn != NULL)
        *pfn = nvs_wrapper_of(*pfn);
    return result;
}

NVS_EXPORT CUresult cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags,
                                        CUdriverProcAddressQueryResult *symbolStatus) {
    if (!nvs_library_start() || nvs_real.cuGetProcAddress_v2 == NULL)
        return CUDA_ERROR_NOT_FOUND;
    CUresult result = nvs_real.cuGetProcAddress_v2(symbol, pfn, cudaVersion, flags, symbolStatus);
    if (result == CUDA_SUCCESS && pfn != NULL && *pfn != NULL)
        *pfn = nvs_wrapper_of(*pfn);
    return result;
}
