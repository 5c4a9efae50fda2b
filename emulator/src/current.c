/* Entering the driver, and the context that is current to the calling thread. */
#include "current.h"

#define STACK_DEPTH 64

static _Thread_local struct {
    CUcontext contexts[STACK_DEPTH];
    unsigned depth;
} stack;

/* ---- Entering
 * -------------------------------------------------------------------------------------------------------- */

CUresult emu_enter(void) {
    if (emu.forked || !__atomic_load_n(&emu.initialized, __ATOMIC_ACQUIRE)) {
        return CUDA_ERROR_NOT_INITIALIZED;
    }
    pthread_mutex_lock(&emu.lock);
    return CUDA_SUCCESS;
}

bool emu_context_is_valid(CUcontext context) {
    for (CUcontext known = emu.contexts; known != NULL; known = known->next) {
        if (known == context) {
            return true;
        }
    }
    return false;
}

CUresult emu_context_current(CUcontext *context) {
    if (stack.depth == 0 || stack.contexts[stack.depth - 1] == NULL) {
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    *context = stack.contexts[stack.depth - 1];
    return emu_context_is_valid(*context) ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

CUresult emu_enter_context(CUcontext *context) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = emu_context_current(context);
    if (result == CUDA_SUCCESS) {
        result = (*context)->error;
    }
    return result == CUDA_SUCCESS ? result : emu_leave(result);
}

CUresult emu_enter_stream(CUstream handle, CUcontext *context, CUstream *stream) {
    CUresult result = emu_enter_context(context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = emu_stream_find(*context, handle, stream);
    return result == CUDA_SUCCESS ? result : emu_leave(result);
}

/* ---- The current context
 * --------------------------------------------------------------------------------------------------- */

EMU_EXPORT CUresult CUDAAPI cuCtxPushCurrent_v2(CUcontext context) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    return emu_leave(emu_context_is_valid(context) ? emu_current_push(context) : CUDA_ERROR_INVALID_CONTEXT);
}

EMU_EXPORT CUresult CUDAAPI cuCtxPopCurrent_v2(CUcontext *popped) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (stack.depth == 0) {
        return emu_leave(CUDA_ERROR_INVALID_CONTEXT);
    }
    stack.depth--;
    if (popped != NULL) {
        *popped = stack.contexts[stack.depth];
    }
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuCtxSetCurrent(CUcontext context) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (context == NULL) {
        stack.depth -= stack.depth > 0 ? 1 : 0;
        return emu_leave(CUDA_SUCCESS);
    }
    if (!emu_context_is_valid(context)) {
        return emu_leave(CUDA_ERROR_INVALID_CONTEXT);
    }
    if (stack.depth == 0) {
        stack.depth = 1;
    }
    stack.contexts[stack.depth - 1] = context;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuCtxGetCurrent(CUcontext *context) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (context == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *context = stack.depth == 0 ? NULL : stack.contexts[stack.depth - 1];
    return emu_leave(CUDA_SUCCESS);
}

CUresult emu_current_push(CUcontext context) {
    if (stack.depth == STACK_DEPTH) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    stack.contexts[stack.depth++] = context;
    return CUDA_SUCCESS;
}

void emu_current_forget(CUcontext context) {
    if (stack.depth > 0 && stack.contexts[stack.depth - 1] == context) {
        stack.depth--;
    }
}
