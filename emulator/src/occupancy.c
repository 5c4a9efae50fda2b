/* Occupancy and profiler calls: what frameworks ask for on their way, with answers for a device of these sizes. */
#include "driver.h"

#define THREADS_PER_MULTIPROCESSOR 2048
#define BLOCKS_PER_MULTIPROCESSOR 32
#define MULTIPROCESSORS 132
#define THREADS_PER_BLOCK 1024

static int active_blocks(int block_threads) {
    int blocks = THREADS_PER_MULTIPROCESSOR / block_threads;
    return blocks < BLOCKS_PER_MULTIPROCESSOR ? blocks : BLOCKS_PER_MULTIPROCESSOR;
}

EMU_EXPORT CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, CUfunction function,
                                                                                 int block_threads, size_t shared_bytes,
                                                                                 unsigned flags) {
    (void)shared_bytes;
    (void)flags;
    if (blocks == NULL || function == NULL || block_threads <= 0) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *blocks = block_threads > THREADS_PER_BLOCK ? 0 : active_blocks(block_threads);
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction function,
                                                                        int block_threads, size_t shared_bytes) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, block_threads, shared_bytes, 0);
}

EMU_EXPORT CUresult CUDAAPI cuOccupancyMaxPotentialBlockSize(int *grid_blocks, int *block_threads, CUfunction function,
                                                             CUoccupancyB2DSize shared_of_block, size_t shared_bytes,
                                                             int block_limit) {
    (void)shared_of_block;
    (void)shared_bytes;
    if (grid_blocks == NULL || block_threads == NULL || function == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *block_threads = block_limit > 0 && block_limit < THREADS_PER_BLOCK ? block_limit : THREADS_PER_BLOCK;
    *grid_blocks = MULTIPROCESSORS * active_blocks(*block_threads);
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuProfilerStart(void) {
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuProfilerStop(void) {
    return CUDA_SUCCESS;
}
