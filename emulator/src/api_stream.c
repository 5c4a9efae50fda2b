/* Streams and events: the entry points that have a per-thread form. */
#include "capture.h"
#include "default_stream.h"
#include "event.h"

static CUresult enter_stream(CUstream handle, CUstream *stream) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = emu_stream_find(context, EMU_OR_DEFAULT(handle), stream);
    return result == CUDA_SUCCESS ? result : emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuStreamSynchronize(CUstream handle) {
    CUstream stream = NULL;
    CUresult result = enter_stream(handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = emu_capture_check_wait(stream);
    return emu_leave(result != CUDA_SUCCESS ? result : emu_wait_stream(stream));
}

EMU_EXPORT CUresult CUDAAPI cuStreamQuery(CUstream handle) {
    CUstream stream = NULL;
    CUresult result = enter_stream(handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = emu_capture_check_wait(stream);
    if (result == CUDA_SUCCESS) {
        emu_progress();
        result = emu_stream_is_idle(stream) ? stream->context->error : CUDA_ERROR_NOT_READY;
    }
    return emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuStreamGetPriority(CUstream handle, int *priority) {
    CUstream stream = NULL;
    CUresult result = enter_stream(handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (priority == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *priority = stream->priority;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuStreamGetFlags(CUstream handle, unsigned *flags) {
    CUstream stream = NULL;
    CUresult result = enter_stream(handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (flags == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *flags = stream->flags;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuStreamGetId(CUstream handle, unsigned long long *id) {
    CUstream stream = NULL;
    CUresult result = enter_stream(handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (id == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *id = stream->id;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuStreamGetCtx(CUstream handle, CUcontext *context) {
    CUstream stream = NULL;
    CUresult result = enter_stream(handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (context == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *context = stream->context;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuStreamGetDevice(CUstream handle, CUdevice *device) {
    CUstream stream = NULL;
    CUresult result = enter_stream(handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (device == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *device = (CUdevice)(stream->context->device - emu.devices);
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuStreamWaitEvent(CUstream handle, CUevent event, unsigned flags) {
    CUstream stream = NULL;
    CUresult result = enter_stream(handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!emu_event_is_valid(event) || (flags & ~(unsigned)CU_EVENT_WAIT_EXTERNAL) != 0) {
        return emu_leave(emu_event_is_valid(event) ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE);
    }
    return emu_leave(emu_submit_wait(stream, event, (flags & CU_EVENT_WAIT_EXTERNAL) != 0));
}

static CUresult record(CUevent event, CUstream handle, unsigned flags) {
    CUstream stream = NULL;
    CUresult result = enter_stream(handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!emu_event_is_valid(event) || event->context->device != stream->context->device) {
        return emu_leave(CUDA_ERROR_INVALID_HANDLE);
    }
    if ((flags & ~(unsigned)CU_EVENT_RECORD_EXTERNAL) != 0) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    return emu_leave(emu_submit_record(stream, event, (flags & CU_EVENT_RECORD_EXTERNAL) != 0));
}

EMU_EXPORT CUresult CUDAAPI cuEventRecord(CUevent event, CUstream stream) {
    return record(event, stream, 0);
}

EMU_EXPORT CUresult CUDAAPI cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned flags) {
    return record(event, stream, flags);
}

EMU_EXPORT CUresult CUDAAPI cuLaunchHostFunc(CUstream handle, CUhostFn function, void *user_data) {
    CUstream stream = NULL;
    CUresult result = enter_stream(handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (function == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    return emu_leave(emu_submit_host(stream, function, user_data));
}

EMU_EXPORT CUresult CUDAAPI cuStreamAddCallback(CUstream handle, CUstreamCallback callback, void *user_data,
                                                unsigned flags) {
    CUstream stream = NULL;
    CUresult result = enter_stream(handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (callback == NULL || flags != 0) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    return emu_leave(emu_submit_callback(stream, callback, handle, user_data));
}
