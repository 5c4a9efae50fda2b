#include "copy.h"
#include "default_stream.h"

static CUresult copy_linear(uint64_t destination, uint64_t source, size_t bytes, CUstream stream, bool synchronous) {
    const struct emu_copy copy = {.destination = destination,
                                  .source = source,
                                  .width_bytes = bytes,
                                  .height = 1,
                                  .destination_pitch = bytes,
                                  .source_pitch = bytes};
    return emu_copy_submit(&copy, EMU_OR_DEFAULT(stream), synchronous);
}

static uint64_t address_of(const void *pointer) {
    return (uint64_t)(uintptr_t)pointer;
}

EMU_EXPORT CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr destination, const void *source, size_t bytes) {
    return copy_linear(destination, address_of(source), bytes, NULL, true);
}

EMU_EXPORT CUresult CUDAAPI cuMemcpyDtoH(void *destination, CUdeviceptr source, size_t bytes) {
    return copy_linear(address_of(destination), source, bytes, NULL, true);
}

EMU_EXPORT CUresult CUDAAPI cuMemcpyDtoD(CUdeviceptr destination, CUdeviceptr source, size_t bytes) {
    return copy_linear(destination, source, bytes, NULL, false); /* asynchronous to the host, as the driver's */
}

EMU_EXPORT CUresult CUDAAPI cuMemcpy(CUdeviceptr destination, CUdeviceptr source, size_t bytes) {
    return copy_linear(destination, source, bytes, NULL, true);
}

EMU_EXPORT CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr destination, const void *source, size_t bytes,
                                              CUstream stream) {
    return copy_linear(destination, address_of(source), bytes, stream, false);
}

EMU_EXPORT CUresult CUDAAPI cuMemcpyDtoHAsync(void *destination, CUdeviceptr source, size_t bytes, CUstream stream) {
    return copy_linear(address_of(destination), source, bytes, stream, false);
}

EMU_EXPORT CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr destination, CUdeviceptr source, size_t bytes,
                                              CUstream stream) {
    return copy_linear(destination, source, bytes, stream, false);
}

EMU_EXPORT CUresult CUDAAPI cuMemcpyAsync(CUdeviceptr destination, CUdeviceptr source, size_t bytes, CUstream stream) {
    return copy_linear(destination, source, bytes, stream, false);
}

EMU_EXPORT CUresult CUDAAPI cuMemcpyPeer(CUdeviceptr destination, CUcontext destination_context, CUdeviceptr source,
                                         CUcontext source_context, size_t bytes) {
    (void)destination_context;
    (void)source_context;
    return copy_linear(destination, source, bytes, NULL, true);
}

EMU_EXPORT CUresult CUDAAPI cuMemcpyPeerAsync(CUdeviceptr destination, CUcontext destination_context,
                                              CUdeviceptr source, CUcontext source_context, size_t bytes,
                                              CUstream stream) {
    (void)destination_context;
    (void)source_context;
    return copy_linear(destination, source, bytes, stream, false);
}

/* ---- Two dimensions
 * ------------------------------------------------------------------------------------------------------ */

static CUresult side_address(CUmemorytype type, const void *host, CUdeviceptr device, size_t x, size_t y, size_t pitch,
                             uint64_t *address) {
    switch (type) {
    case CU_MEMORYTYPE_HOST:
        *address = address_of(host) + y * pitch + x;
        return CUDA_SUCCESS;
    case CU_MEMORYTYPE_DEVICE:
    case CU_MEMORYTYPE_UNIFIED:
        *address = device + y * pitch + x;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

static CUresult copy_2d(const CUDA_MEMCPY2D *given, CUstream stream, bool synchronous) {
    if (given == NULL || (given->srcPitch != 0 && given->srcPitch < given->WidthInBytes + given->srcXInBytes) ||
        (given->dstPitch != 0 && given->dstPitch < given->WidthInBytes + given->dstXInBytes)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    struct emu_copy copy = {
        .width_bytes = given->WidthInBytes,
        .height = given->Height,
        .destination_pitch = given->dstPitch != 0 ? given->dstPitch : given->WidthInBytes + given->dstXInBytes,
        .source_pitch = given->srcPitch != 0 ? given->srcPitch : given->WidthInBytes + given->srcXInBytes};
    CUresult result = side_address(given->srcMemoryType, given->srcHost, given->srcDevice, given->srcXInBytes,
                                   given->srcY, copy.source_pitch, &copy.source);
    if (result == CUDA_SUCCESS) {
        result = side_address(given->dstMemoryType, given->dstHost, given->dstDevice, given->dstXInBytes, given->dstY,
                              copy.destination_pitch, &copy.destination);
    }
    return result != CUDA_SUCCESS ? result : emu_copy_submit(&copy, EMU_OR_DEFAULT(stream), synchronous);
}

EMU_EXPORT CUresult CUDAAPI cuMemcpy2D(const CUDA_MEMCPY2D *copy) {
    return copy_2d(copy, NULL, true);
}

EMU_EXPORT CUresult CUDAAPI cuMemcpy2DUnaligned(const CUDA_MEMCPY2D *copy) {
    return copy_2d(copy, NULL, true);
}

EMU_EXPORT CUresult CUDAAPI cuMemcpy2DAsync(const CUDA_MEMCPY2D *copy, CUstream stream) {
    return copy_2d(copy, stream, false);
}

/* ---- Fills
 * ----------------------------------------------------------------------------------------------------------------- */

static CUresult fill(CUdeviceptr destination, size_t pitch, uint32_t value, uint32_t element_bytes, size_t width,
                     size_t height, CUstream stream) {
    const struct emu_fill described = {.destination = destination,
                                       .width = width,
                                       .height = height,
                                       .pitch = height == 1 ? width * element_bytes : pitch,
                                       .value = value,
                                       .element_bytes = element_bytes};
    return emu_fill_submit(&described, EMU_OR_DEFAULT(stream));
}

EMU_EXPORT CUresult CUDAAPI cuMemsetD8(CUdeviceptr destination, unsigned char value, size_t count) {
    return fill(destination, 0, value, 1, count, 1, NULL);
}

EMU_EXPORT CUresult CUDAAPI cuMemsetD16(CUdeviceptr destination, unsigned short value, size_t count) {
    return fill(destination, 0, value, 2, count, 1, NULL);
}

EMU_EXPORT CUresult CUDAAPI cuMemsetD32(CUdeviceptr destination, unsigned value, size_t count) {
    return fill(destination, 0, value, 4, count, 1, NULL);
}

EMU_EXPORT CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr destination, unsigned char value, size_t count,
                                            CUstream stream) {
    return fill(destination, 0, value, 1, count, 1, stream);
}

EMU_EXPORT CUresult CUDAAPI cuMemsetD16Async(CUdeviceptr destination, unsigned short value, size_t count,
                                             CUstream stream) {
    return fill(destination, 0, value, 2, count, 1, stream);
}

EMU_EXPORT CUresult CUDAAPI cuMemsetD32Async(CUdeviceptr destination, unsigned value, size_t count, CUstream stream) {
    return fill(destination, 0, value, 4, count, 1, stream);
}

EMU_EXPORT CUresult CUDAAPI cuMemsetD2D8(CUdeviceptr destination, size_t pitch, unsigned char value, size_t width,
                                         size_t height) {
    return fill(destination, pitch, value, 1, width, height, NULL);
}

EMU_EXPORT CUresult CUDAAPI cuMemsetD2D16(CUdeviceptr destination, size_t pitch, unsigned short value, size_t width,
                                          size_t height) {
    return fill(destination, pitch, value, 2, width, height, NULL);
}

EMU_EXPORT CUresult CUDAAPI cuMemsetD2D32(CUdeviceptr destination, size_t pitch, unsigned value, size_t width,
                                          size_t height) {
    return fill(destination, pitch, value, 4, width, height, NULL);
}

EMU_EXPORT CUresult CUDAAPI cuMemsetD2D8Async(CUdeviceptr destination, size_t pitch, unsigned char value, size_t width,
                                              size_t height, CUstream stream) {
    return fill(destination, pitch, value, 1, width, height, stream);
}

EMU_EXPORT CUresult CUDAAPI cuMemsetD2D16Async(CUdeviceptr destination, size_t pitch, unsigned short value,
                                               size_t width, size_t height, CUstream stream) {
    return fill(destination, pitch, value, 2, width, height, stream);
}

EMU_EXPORT CUresult CUDAAPI cuMemsetD2D32Async(CUdeviceptr destination, size_t pitch, unsigned value, size_t width,
                                               size_t height, CUstream stream) {
    return fill(destination, pitch, value, 4, width, height, stream);
}

/* ---- Batches
 * ----------------------------------------------------------------------------------------------------------------- */

static CUresult copy_batch(const CUdeviceptr *destinations, const CUdeviceptr *sources, const size_t *sizes,
                           size_t count, const CUmemcpyAttributes *attributes, const size_t *attribute_starts,
                           size_t attribute_count, size_t *failed, CUstream stream) {
    if (stream == NULL || stream == CU_STREAM_LEGACY) {
        return CUDA_ERROR_INVALID_VALUE; /* the driver refuses the legacy stream here */
    }
    if (destinations == NULL || sources == NULL || sizes == NULL || count == 0 || attributes == NULL ||
        attribute_starts == NULL || attribute_count == 0 || attribute_count > count || attribute_starts[0] != 0) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    for (size_t index = 0; index < count; index++) {
        CUresult result = copy_linear(destinations[index], sources[index], sizes[index], stream, false);
        if (result != CUDA_SUCCESS) {
            if (failed != NULL) {
                *failed = index;
            }
            return result;
        }
    }
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuMemcpyBatchAsync(CUdeviceptr *destinations, CUdeviceptr *sources, size_t *sizes,
                                               size_t count, CUmemcpyAttributes *attributes, size_t *attribute_starts,
                                               size_t attribute_count, CUstream stream) {
    return copy_batch(destinations, sources, sizes, count, attributes, attribute_starts, attribute_count, NULL, stream);
}

/* The form of CUDA 12.8, still asked for by version. */
#ifdef CUDA_API_PER_THREAD_DEFAULT_STREAM
#define BATCH_12080 cuMemcpyBatchAsync_ptsz
#else
#undef cuMemcpyBatchAsync
#define BATCH_12080 cuMemcpyBatchAsync
#endif

CUresult CUDAAPI BATCH_12080(CUdeviceptr *destinations, CUdeviceptr *sources, size_t *sizes, size_t count,
                             CUmemcpyAttributes *attributes, size_t *attribute_starts, size_t attribute_count,
                             size_t *failed, CUstream stream);

EMU_EXPORT CUresult CUDAAPI BATCH_12080(CUdeviceptr *destinations, CUdeviceptr *sources, size_t *sizes, size_t count,
                                        CUmemcpyAttributes *attributes, size_t *attribute_starts,
                                        size_t attribute_count, size_t *failed, CUstream stream) {
    return copy_batch(destinations, sources, sizes, count, attributes, attribute_starts, attribute_count, failed,
                      stream);
}
