/* Primary, created and green contexts: their beginning and end. */
#include <stdlib.h>

#include "current.h"
#include "entry_points.h"

#define CONTEXT_MAGIC 0x43545831U

static CUresult activate(CUcontext context, struct emu_device *device, unsigned flags) {
    CUresult result = emu_device_open(device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    context->magic = CONTEXT_MAGIC;
    context->device = device;
    context->flags = flags;
    context->api_version = 3020;
    context->error = CUDA_SUCCESS;
    context->peers = 0;
    context->streams = NULL;
    result = emu_stream_make(context, CU_STREAM_DEFAULT, 0, &context->legacy);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    context->legacy->legacy = true;
    context->limits[CU_LIMIT_STACK_SIZE] = 1024;
    context->limits[CU_LIMIT_PRINTF_FIFO_SIZE] = 1 << 20;
    context->limits[CU_LIMIT_MALLOC_HEAP_SIZE] = 8 << 20;
    if (device->contexts == 0) {
        emu_card_lock(device->card);
        bool reserved = emu_card_reserve(device->card, device->slot, EMU_USE_CONTEXTS, EMU_CONTEXT_BYTES);
        emu_card_unlock(device->card);
        if (!reserved) {
            free(context->legacy);
            context->streams = NULL;
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    device->contexts++;
    context->next = emu.contexts;
    emu.contexts = context;
    context->active = true;
    return CUDA_SUCCESS;
}

static void deactivate(CUcontext context) {
    struct emu_device *device = context->device;
    emu_wait_context(context);
    emu_memory_end_context(context);
    CUcontext *link = &emu.contexts;
    while (*link != context) {
        link = &(*link)->next;
    }
    *link = context->next;
    while (context->streams != NULL) {
        emu_stream_unlink(context->streams);
    }
    context->active = false;
    context->magic = 0;
    if (--device->contexts == 0) {
        emu_card_lock(device->card);
        emu_card_release(device->card, device->slot, EMU_USE_CONTEXTS, EMU_CONTEXT_BYTES);
        emu_card_unlock(device->card);
    }
}

static CUresult find_device(CUdevice handle, struct emu_device **device) {
    if (handle < 0 || handle >= emu.device_count) {
        return CUDA_ERROR_INVALID_DEVICE;
    }
    *device = &emu.devices[handle];
    return CUDA_SUCCESS;
}

static CUresult create(CUcontext *made, unsigned flags, CUdevice handle) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct emu_device *device = NULL;
    result = made == NULL ? CUDA_ERROR_INVALID_VALUE : find_device(handle, &device);
    if (result == CUDA_SUCCESS) {
        CUcontext context = calloc(1, sizeof *context);
        result = context == NULL ? CUDA_ERROR_OUT_OF_MEMORY : activate(context, device, flags);
        if (result == CUDA_SUCCESS) {
            *made = context;
            result = emu_current_push(context);
        } else {
            free(context);
        }
    }
    return emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device) {
    return create(context, flags, device);
}

EMU_EXPORT CUresult CUDAAPI cuCtxCreate_v3(CUcontext *context, CUexecAffinityParam *affinities, int count,
                                           unsigned flags, CUdevice device) {
    return affinities != NULL || count != 0 ? CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY : create(context, flags, device);
}

EMU_EXPORT CUresult CUDAAPI cuCtxCreate_v4(CUcontext *context, CUctxCreateParams *parameters, unsigned flags,
                                           CUdevice device) {
    if (parameters != NULL && (parameters->numExecAffinityParams != 0 || parameters->cigParams != NULL)) {
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    return create(context, flags, device);
}

EMU_EXPORT CUresult CUDAAPI cuCtxDestroy_v2(CUcontext context) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!emu_context_is_valid(context) || context->primary) {
        return emu_leave(CUDA_ERROR_INVALID_CONTEXT);
    }
    emu_current_forget(context);
    deactivate(context);
    free(context);
    return emu_leave(CUDA_SUCCESS);
}

static CUresult retain_primary(struct emu_device *device) {
    CUresult result = CUDA_SUCCESS;
    if (!device->primary.active) {
        device->primary.primary = true;
        device->primary.references = 0;
        result = activate(&device->primary, device, device->primary.flags);
    }
    device->primary.references += result == CUDA_SUCCESS ? 1 : 0;
    return result;
}

EMU_EXPORT CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *retained, CUdevice handle) {
    struct emu_device *device = NULL;
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = retained == NULL ? CUDA_ERROR_INVALID_VALUE : find_device(handle, &device);
    if (result == CUDA_SUCCESS) {
        result = retain_primary(device);
    }
    if (result == CUDA_SUCCESS) {
        *retained = &device->primary;
    }
    return emu_leave(result);
}

static CUresult release_primary(CUdevice handle, bool at_once) {
    struct emu_device *device = NULL;
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = find_device(handle, &device);
    if (result == CUDA_SUCCESS && device->primary.active) {
        if (at_once || --device->primary.references == 0) {
            deactivate(&device->primary);
        }
    } else if (result == CUDA_SUCCESS && !at_once) {
        result = CUDA_ERROR_INVALID_CONTEXT;
    }
    return emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    return release_primary(device, false);
}

EMU_EXPORT CUresult CUDAAPI cuDevicePrimaryCtxReset_v2(CUdevice device) {
    return release_primary(device, true);
}

EMU_EXPORT CUresult CUDAAPI cuDevicePrimaryCtxSetFlags_v2(CUdevice handle, unsigned flags) {
    struct emu_device *device = NULL;
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = find_device(handle, &device);
    if (result == CUDA_SUCCESS) {
        device->primary.flags = flags;
    }
    return emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuDevicePrimaryCtxGetState(CUdevice handle, unsigned *flags, int *active) {
    struct emu_device *device = NULL;
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = flags == NULL || active == NULL ? CUDA_ERROR_INVALID_VALUE : find_device(handle, &device);
    if (result == CUDA_SUCCESS) {
        *flags = device->primary.flags;
        *active = device->primary.active ? 1 : 0;
    }
    return emu_leave(result);
}

/* ---- Green contexts: each has all of the card here. The handle is that of the context.
 * -------------------------------------- */

EMU_EXPORT CUresult CUDAAPI cuDeviceGetDevResource(CUdevice handle, CUdevResource *resource, CUdevResourceType type) {
    int count = 0;
    if (resource == NULL || type != CU_DEV_RESOURCE_TYPE_SM) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    CUresult result = cuDeviceGetAttribute(&count, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, handle);
    if (result == CUDA_SUCCESS) {
        *resource = (CUdevResource){.type = type, .sm = {.smCount = (unsigned)count}};
    }
    return result;
}

EMU_EXPORT CUresult CUDAAPI cuDevResourceGenerateDesc(CUdevResourceDesc *description, CUdevResource *resources,
                                                      unsigned count) {
    static char any;
    if (description == NULL || resources == NULL || count == 0) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *description = (CUdevResourceDesc)(void *)&any;
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuGreenCtxCreate(CUgreenCtx *made, CUdevResourceDesc description, CUdevice handle,
                                             unsigned flags) {
    struct emu_device *device = NULL;
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    bool is_valid = made != NULL && description != NULL && flags == CU_GREEN_CTX_DEFAULT_STREAM;
    result = is_valid ? find_device(handle, &device) : CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) {
        result = retain_primary(device);
    }
    if (result != CUDA_SUCCESS) {
        return emu_leave(result);
    }
    CUcontext context = calloc(1, sizeof *context);
    result = context == NULL ? CUDA_ERROR_OUT_OF_MEMORY : activate(context, device, device->primary.flags);
    if (result == CUDA_SUCCESS) {
        context->green = true;
        *made = (CUgreenCtx)(void *)context;
    } else {
        free(context);
        device->primary.references--;
    }
    return emu_leave(result);
}

static CUcontext context_of(CUgreenCtx green) {
    CUcontext context = (CUcontext)(void *)green;
    return emu_context_is_valid(context) && context->green ? context : NULL;
}

EMU_EXPORT CUresult CUDAAPI cuGreenCtxDestroy(CUgreenCtx green) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    CUcontext context = context_of(green);
    if (context == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_CONTEXT);
    }
    struct emu_device *device = context->device;
    deactivate(context);
    free(context);
    if (device->primary.active && --device->primary.references == 0) {
        deactivate(&device->primary);
    }
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuCtxFromGreenCtx(CUcontext *context, CUgreenCtx green) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (context == NULL || context_of(green) == NULL) {
        return emu_leave(context == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_CONTEXT);
    }
    *context = context_of(green);
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuGreenCtxStreamCreate(CUstream *stream, CUgreenCtx green, unsigned flags, int priority) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    CUcontext context = context_of(green);
    if (stream == NULL || context == NULL || flags != CU_STREAM_NON_BLOCKING) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    return emu_leave(emu_stream_make(context, flags, priority, stream));
}
