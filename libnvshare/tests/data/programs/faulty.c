// The driver of the emulated GPU, some of whose calls fail when they are told to.
#include <cuda.h>
#include <dlfcn.h>
#include <stdatomic.h>
#include <string.h>

static atomic_uint fail_copies_in, fail_accesses, fail_unmaps;

// Of the next calls of this kind those fail whose bit is set; bit 0 is the first.
void fail_calls(const char *kind, unsigned calls);

// The next calls of this kind fail, so many of them.
void fail_next(const char *kind, int count);

void fail_calls(const char *kind, unsigned calls) {
    if (strcmp(kind, "copy in") == 0)
        atomic_store(&fail_copies_in, calls);
    if (strcmp(kind, "access") == 0)
        atomic_store(&fail_accesses, calls);
    if (strcmp(kind, "unmap") == 0)
        atomic_store(&fail_unmaps, calls);
}

void fail_next(const char *kind, int count) {
    fail_calls(kind, (1u << count) - 1);
}

static void *real(const char *name) {
    return dlsym(dlopen(EMULATED, RTLD_LAZY), name);
}

static int fails(atomic_uint *calls) {
    unsigned left = atomic_load(calls);
    while (!atomic_compare_exchange_weak(calls, &left, left >> 1)) {
    }
    return (left & 1) != 0;
}

#define FAULTY(name, count, params, args)                                                                              \
    CUresult name params {                                                                                             \
        CUresult(*call) params;                                                                                        \
        void *found = real(#name);                                                                                     \
        memcpy(&call, &found, sizeof(call));                                                                           \
        return fails(&(count)) ? CUDA_ERROR_UNKNOWN : call args;                                                       \
    }

FAULTY(cuMemcpyHtoDAsync_v2, fail_copies_in, (CUdeviceptr to, const void *from, size_t bytes, CUstream stream),
       (to, from, bytes, stream))
FAULTY(cuMemSetAccess, fail_accesses, (CUdeviceptr address, size_t bytes, const CUmemAccessDesc *access, size_t count),
       (address, bytes, access, count))
FAULTY(cuMemUnmap, fail_unmaps, (CUdeviceptr address, size_t bytes), (address, bytes))
