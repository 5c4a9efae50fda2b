/* Stream-ordered allocation and managed memory's hints: the entry points that have a per-thread form. */
#include "capture.h"
#include "default_stream.h"
#include "pool.h"

EMU_EXPORT CUresult CUDAAPI cuMemAllocAsync(CUdeviceptr *pointer, size_t bytes, CUstream stream) {
    return emu_pool_allocate(pointer, bytes, NULL, EMU_OR_DEFAULT(stream));
}

EMU_EXPORT CUresult CUDAAPI cuMemAllocFromPoolAsync(CUdeviceptr *pointer, size_t bytes, CUmemoryPool pool,
                                                    CUstream stream) {
    return pool == NULL ? CUDA_ERROR_INVALID_VALUE : emu_pool_allocate(pointer, bytes, pool, EMU_OR_DEFAULT(stream));
}

EMU_EXPORT CUresult CUDAAPI cuMemFreeAsync(CUdeviceptr pointer, CUstream stream) {
    return emu_pool_free(pointer, EMU_OR_DEFAULT(stream));
}

/* Managed memory lies in host memory here, and every device reaches it: a prefetch has nothing to move, but takes its
 * time. */
EMU_EXPORT CUresult CUDAAPI cuMemPrefetchAsync(CUdeviceptr pointer, size_t bytes, CUmemLocation location,
                                               unsigned flags, CUstream handle) {
    return flags != 0 ? CUDA_ERROR_INVALID_VALUE : emu_prefetch(pointer, bytes, &location, EMU_OR_DEFAULT(handle));
}
