/* Events, but for what records them and waits for them in a stream (api_stream.c). */
#include "event.h"

#include <stdlib.h>

#include "capture.h"
#include "entry_points.h"

#define EVENT_MAGIC 0x45564e31U

bool emu_event_is_valid(CUevent event) {
    return event != NULL && event->magic == EVENT_MAGIC;
}

EMU_EXPORT CUresult CUDAAPI cuEventCreate(CUevent *made, unsigned flags) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    const unsigned known = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
    if (made == NULL || (flags & ~known) != 0) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    CUevent event = calloc(1, sizeof *event);
    if (event == NULL) {
        return emu_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    event->magic = EVENT_MAGIC;
    event->context = context;
    event->flags = flags;
    *made = event;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuEventDestroy(CUevent event) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!emu_event_is_valid(event)) {
        return emu_leave(CUDA_ERROR_INVALID_HANDLE);
    }
    emu_marker_drop(event->marker);
    free(event->nodes.nodes);
    event->magic = 0;
    free(event);
    return emu_leave(CUDA_SUCCESS);
}

static CUresult enter_event(CUevent event) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!emu_event_is_valid(event)) {
        return emu_leave(CUDA_ERROR_INVALID_HANDLE);
    }
    result = event->capture_id != 0 ? CUDA_ERROR_CAPTURED_EVENT : emu_capture_check_unsafe();
    return result == CUDA_SUCCESS ? result : emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuEventQuery(CUevent event) {
    CUresult result = enter_event(event);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (event->marker != NULL && !event->marker->complete) {
        emu_progress();
    }
    bool complete = event->marker == NULL || event->marker->complete;
    return emu_leave(complete ? event->context->error : CUDA_ERROR_NOT_READY);
}

EMU_EXPORT CUresult CUDAAPI cuEventSynchronize(CUevent event) {
    CUresult result = enter_event(event);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct emu_marker *marker = event->marker;
    CUcontext context = event->context;
    if (marker != NULL) {
        marker->references++;
        emu_wait(marker);
        emu_marker_drop(marker);
    }
    return emu_leave(emu_context_is_valid(context) ? context->error : CUDA_SUCCESS);
}

static CUresult elapsed(float *milliseconds, CUevent start, CUevent end) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (milliseconds == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    if (!emu_event_is_valid(start) || !emu_event_is_valid(end) || start->marker == NULL || end->marker == NULL ||
        ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING) != 0) {
        return emu_leave(CUDA_ERROR_INVALID_HANDLE);
    }
    emu_progress();
    if (!start->marker->complete || !end->marker->complete) {
        return emu_leave(CUDA_ERROR_NOT_READY);
    }
    *milliseconds = (float)((double)(int64_t)(end->marker->time_ns - start->marker->time_ns) / 1e6);
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    return elapsed(milliseconds, start, end);
}

EMU_EXPORT CUresult CUDAAPI cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end) {
    return elapsed(milliseconds, start, end);
}
