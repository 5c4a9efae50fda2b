#include "driver_table.h"

struct nvs_driver nvs_real;
bool register_is_refused;

static CUresult register_host(void *address, size_t bytes, unsigned flags) {
    return register_is_refused ? CUDA_ERROR_NOT_PERMITTED : cuMemHostRegister_v2(address, bytes, flags);
}

void fill_driver_table(void) {
    nvs_real.cuCtxPushCurrent_v2 = cuCtxPushCurrent_v2;
    nvs_real.cuCtxPopCurrent_v2 = cuCtxPopCurrent_v2;
    nvs_real.cuCtxGetDevice = cuCtxGetDevice;
    nvs_real.cuDeviceGetAttribute = cuDeviceGetAttribute;
    nvs_real.cuMemHostRegister_v2 = register_host;
    nvs_real.cuMemHostUnregister = cuMemHostUnregister;
    nvs_real.cuThreadExchangeStreamCaptureMode = cuThreadExchangeStreamCaptureMode;
    if (cuInit(0) != CUDA_SUCCESS)
        __builtin_trap();
}
