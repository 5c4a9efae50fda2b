#include "default_stream.h"
#include "launch.h"

EMU_EXPORT CUresult CUDAAPI cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                           unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                                           CUstream stream, void **parameters, void **extra) {
    const unsigned shape[6] = {grid_x, grid_y, grid_z, block_x, block_y, block_z};
    (void)shared_bytes;
    return emu_launch_submit(function, shape, parameters, extra, EMU_OR_DEFAULT(stream));
}

EMU_EXPORT CUresult CUDAAPI cuLaunchCooperativeKernel(CUfunction function, unsigned grid_x, unsigned grid_y,
                                                      unsigned grid_z, unsigned block_x, unsigned block_y,
                                                      unsigned block_z, unsigned shared_bytes, CUstream stream,
                                                      void **parameters) {
    const unsigned shape[6] = {grid_x, grid_y, grid_z, block_x, block_y, block_z};
    (void)shared_bytes;
    return emu_launch_submit(function, shape, parameters, NULL, EMU_OR_DEFAULT(stream));
}

EMU_EXPORT CUresult CUDAAPI cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **parameters,
                                             void **extra) {
    if (config == NULL || (config->numAttrs > 0 && config->attrs == NULL)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    const unsigned shape[6] = {config->gridDimX,  config->gridDimY,  config->gridDimZ,
                               config->blockDimX, config->blockDimY, config->blockDimZ};
    return emu_launch_submit(function, shape, parameters, extra, EMU_OR_DEFAULT(config->hStream));
}
