#include "default_stream.h"
#include "value.h"

EMU_EXPORT CUresult CUDAAPI cuStreamWriteValue32(CUstream stream, CUdeviceptr address, cuuint32_t value,
                                                 unsigned flags) {
    return emu_value_write(EMU_OR_DEFAULT(stream), address, value, 4, flags);
}

EMU_EXPORT CUresult CUDAAPI cuStreamWriteValue64(CUstream stream, CUdeviceptr address, cuuint64_t value,
                                                 unsigned flags) {
    return emu_value_write(EMU_OR_DEFAULT(stream), address, value, 8, flags);
}

EMU_EXPORT CUresult CUDAAPI cuStreamWaitValue32(CUstream stream, CUdeviceptr address, cuuint32_t value,
                                                unsigned flags) {
    return emu_value_wait(EMU_OR_DEFAULT(stream), address, value, 4, flags);
}

EMU_EXPORT CUresult CUDAAPI cuStreamWaitValue64(CUstream stream, CUdeviceptr address, cuuint64_t value,
                                                unsigned flags) {
    return emu_value_wait(EMU_OR_DEFAULT(stream), address, value, 8, flags);
}

EMU_EXPORT CUresult CUDAAPI cuStreamBatchMemOp(CUstream stream, unsigned count, CUstreamBatchMemOpParams *operations,
                                               unsigned flags) {
    return flags != 0 ? CUDA_ERROR_INVALID_VALUE : emu_value_batch(EMU_OR_DEFAULT(stream), operations, count);
}
