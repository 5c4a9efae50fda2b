/* What a context is, has and waits for. */
#include "capture.h"
#include "driver.h"
#include "entry_points.h"

static CUresult device_of(CUcontext context, CUdevice *device) {
    if (device == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *device = (CUdevice)(context->device - emu.devices);
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuCtxGetDevice(CUdevice *device) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    return result != CUDA_SUCCESS ? result : emu_leave(device_of(context, device));
}

EMU_EXPORT CUresult CUDAAPI cuCtxGetDevice_v2(CUdevice *device, CUcontext context) {
    if (context == NULL) {
        return cuCtxGetDevice(device);
    }
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    return emu_leave(emu_context_is_valid(context) ? device_of(context, device) : CUDA_ERROR_INVALID_CONTEXT);
}

EMU_EXPORT CUresult CUDAAPI cuCtxGetApiVersion(CUcontext context, unsigned *version) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (context == NULL && (result = emu_context_current(&context)) != CUDA_SUCCESS) {
        return emu_leave(result);
    }
    if (version == NULL || !emu_context_is_valid(context)) {
        return emu_leave(version == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_CONTEXT);
    }
    *version = context->api_version;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuCtxGetFlags(unsigned *flags) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (flags == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *flags = context->flags;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuCtxSetFlags(unsigned flags) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    context->flags = flags;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuCtxGetId(CUcontext context, unsigned long long *id) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (context == NULL && (result = emu_context_current(&context)) != CUDA_SUCCESS) {
        return emu_leave(result);
    }
    if (id == NULL || !emu_context_is_valid(context)) {
        return emu_leave(id == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_CONTEXT);
    }
    *id = context->legacy->id;
    return emu_leave(CUDA_SUCCESS);
}

static CUresult synchronize(CUcontext context) {
    CUresult result = emu_capture_check_context(context);
    return result != CUDA_SUCCESS ? result : emu_wait_context(context);
}

EMU_EXPORT CUresult CUDAAPI cuCtxSynchronize(void) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    return result != CUDA_SUCCESS ? result : emu_leave(synchronize(context));
}

EMU_EXPORT CUresult CUDAAPI cuCtxSynchronize_v2(CUcontext context) {
    if (context == NULL) {
        return cuCtxSynchronize();
    }
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    return emu_leave(emu_context_is_valid(context) ? synchronize(context) : CUDA_ERROR_INVALID_CONTEXT);
}

EMU_EXPORT CUresult CUDAAPI cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    if (least != NULL) {
        *least = 0;
    }
    if (greatest != NULL) {
        *greatest = -5;
    }
    return emu.initialized ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

EMU_EXPORT CUresult CUDAAPI cuCtxGetLimit(size_t *value, CUlimit limit) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (value == NULL || (unsigned)limit >= CU_LIMIT_MAX) {
        return emu_leave(value == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_UNSUPPORTED_LIMIT);
    }
    *value = context->limits[limit];
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuCtxSetLimit(CUlimit limit, size_t value) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if ((unsigned)limit >= CU_LIMIT_MAX) {
        return emu_leave(CUDA_ERROR_UNSUPPORTED_LIMIT);
    }
    context->limits[limit] = value;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuCtxGetCacheConfig(CUfunc_cache *config) {
    if (config == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *config = CU_FUNC_CACHE_PREFER_NONE;
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuCtxSetCacheConfig(CUfunc_cache config) {
    return (unsigned)config > CU_FUNC_CACHE_PREFER_EQUAL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
