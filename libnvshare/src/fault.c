#include "fault.h"

bool nvs_fault_is_final(CUresult result) {
    switch (result) {
    case CUDA_ERROR_DEINITIALIZED: // the driver ended before this library, as it does at exit
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
        return true;
    default:
        return false;
    }
}

void nvs_fault_tell(struct nvs_device *device, CUresult result) {
    pthread_mutex_lock(&device->lock);
    device->lost = result;
    pthread_cond_broadcast(&device->changed);
    pthread_mutex_unlock(&device->lock);
}
