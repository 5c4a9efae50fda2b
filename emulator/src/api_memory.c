/* Stream-ordered allocation and managed memory's hints: the entry points that have a per-thread form. */
#include "capture.h"
#include "default_stream.h"
#include "managed.h"
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

EMU_EXPORT CUresult CUDAAPI cuMemPrefetchAsync(CUdeviceptr pointer, size_t bytes, CUmemLocation location,
                                               unsigned flags, CUstream handle) {
    return flags != 0 ? CUDA_ERROR_INVALID_VALUE : emu_prefetch(pointer, bytes, &location, EMU_OR_DEFAULT(handle));
}

/* The form of CUDA 8, still asked for by version. */
#ifdef CUDA_API_PER_THREAD_DEFAULT_STREAM
#define PREFETCH_8000 cuMemPrefetchAsync_ptsz
#else
#undef cuMemPrefetchAsync
#define PREFETCH_8000 cuMemPrefetchAsync
#endif

CUresult CUDAAPI PREFETCH_8000(CUdeviceptr pointer, size_t bytes, CUdevice device, CUstream handle);

EMU_EXPORT CUresult CUDAAPI PREFETCH_8000(CUdeviceptr pointer, size_t bytes, CUdevice device, CUstream handle) {
    bool on_host = device == CU_DEVICE_CPU;
    const CUmemLocation location = {.type = on_host ? CU_MEM_LOCATION_TYPE_HOST : CU_MEM_LOCATION_TYPE_DEVICE,
                                    .id = on_host ? 0 : device};
    return emu_prefetch(pointer, bytes, &location, EMU_OR_DEFAULT(handle));
}
