/* Streams as handles, but for what has a per-thread form (api_stream.c). */
#include <stdlib.h>

#include "driver.h"

#define STREAM_MAGIC 0x53545231U

/* A thread's own default stream, one a context. */
static _Thread_local struct {
    CUcontext context;
    CUstream stream;
    uint64_t id;
} own_streams[8];

CUresult emu_stream_make(CUcontext context, unsigned flags, int priority, CUstream *made) {
    static uint64_t last_id;
    CUstream stream = calloc(1, sizeof *stream);
    if (stream == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    stream->magic = STREAM_MAGIC;
    stream->context = context;
    stream->flags = flags;
    stream->priority = priority;
    stream->id = ++last_id;
    stream->blocking = (flags & CU_STREAM_NON_BLOCKING) == 0;
    stream->frontier_engine = EMU_NO_ENGINE;
    stream->next = context->streams;
    context->streams = stream;
    *made = stream;
    return CUDA_SUCCESS;
}

void emu_stream_unlink(CUstream stream) {
    CUstream *link = &stream->context->streams;
    while (*link != stream) {
        link = &(*link)->next;
    }
    *link = stream->next;
    stream->magic = 0;
    free(stream->tail_nodes.nodes);
    free(stream);
}

static CUresult own_stream(CUcontext context, CUstream *found) {
    const size_t room = sizeof own_streams / sizeof own_streams[0];
    for (size_t index = 0; index < room; index++) {
        if (own_streams[index].context == context) {
            for (CUstream stream = context->streams; stream != NULL; stream = stream->next) {
                if (stream == own_streams[index].stream && stream->id == own_streams[index].id) {
                    *found = stream;
                    return CUDA_SUCCESS;
                }
            }
        }
    }
    CUresult result = emu_stream_make(context, CU_STREAM_DEFAULT, 0, found);
    if (result == CUDA_SUCCESS) {
        static _Thread_local size_t next;
        own_streams[next % room].context = context;
        own_streams[next % room].stream = *found;
        own_streams[next % room].id = (*found)->id;
        next++;
    }
    return result;
}

CUresult emu_stream_find(CUcontext context, CUstream handle, CUstream *found) {
    if (handle == NULL || handle == CU_STREAM_LEGACY) {
        *found = context->legacy;
        return CUDA_SUCCESS;
    }
    if (handle == CU_STREAM_PER_THREAD) {
        return own_stream(context, found);
    }
    for (CUcontext known = emu.contexts; known != NULL; known = known->next) {
        for (CUstream stream = known->streams; stream != NULL; stream = stream->next) {
            if (stream == handle && !stream->destroyed) {
                *found = stream;
                return CUDA_SUCCESS;
            }
        }
    }
    return CUDA_ERROR_INVALID_HANDLE;
}

EMU_EXPORT CUresult CUDAAPI cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (stream == NULL || (flags & ~(unsigned)CU_STREAM_NON_BLOCKING) != 0) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    int clamped = priority > 0 ? 0 : priority < -5 ? -5 : priority;
    return emu_leave(emu_stream_make(context, flags, clamped, stream));
}

EMU_EXPORT CUresult CUDAAPI cuStreamCreate(CUstream *stream, unsigned flags) {
    return cuStreamCreateWithPriority(stream, flags, 0);
}

EMU_EXPORT CUresult CUDAAPI cuStreamDestroy(CUstream handle) {
    CUstream stream = NULL;
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (handle == NULL || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD) {
        return emu_leave(CUDA_ERROR_INVALID_HANDLE);
    }
    result = emu_stream_find(NULL, handle, &stream);
    if (result == CUDA_SUCCESS) {
        stream->destroyed = true;
        if (emu_stream_is_idle(stream) && !stream->retiring) {
            emu_stream_unlink(stream);
        }
    }
    return emu_leave(result);
}
