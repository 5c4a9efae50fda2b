#include "capture.h"

#include "stream.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

// Covers the list and the count. Held over the driver's cuEventRecord; no other lock is taken under it.
static pthread_mutex_t nvs_capture_lock = PTHREAD_MUTEX_INITIALIZER;
static struct nvs_captured {
    CUstream stream;
    CUcontext context; // that it was begun in
} *nvs_capturing;
static size_t nvs_capturing_room;
static atomic_size_t nvs_captures;

// Caller holds the lock. False: no host memory.
static bool nvs_capture_add(const struct nvs_captured *captured) {
    size_t count = atomic_load_explicit(&nvs_captures, memory_order_relaxed);
    if (count == nvs_capturing_room) {
        size_t room = count == 0 ? 16 : 2 * count;
        struct nvs_captured *grown = realloc(nvs_capturing, room * sizeof(*grown));
        if (grown == NULL)
            return false;
        nvs_capturing = grown;
        nvs_capturing_room = room;
    }
    nvs_capturing[count] = *captured;
    atomic_store_explicit(&nvs_captures, count + 1, memory_order_release);
    return true;
}

// Caller holds the lock.
static void nvs_capture_remove(size_t index) {
    size_t last = atomic_load_explicit(&nvs_captures, memory_order_relaxed) - 1;
    nvs_capturing[index] = nvs_capturing[last];
    atomic_store_explicit(&nvs_captures, last, memory_order_release);
}

bool nvs_capture_began(CUstream stream) {
    struct nvs_captured captured = {stream, NULL};
    (void)nvs_real.cuCtxGetCurrent(&captured.context); // none: the driver will refuse the capture
    pthread_mutex_lock(&nvs_capture_lock);
    bool added = nvs_capture_add(&captured);
    pthread_mutex_unlock(&nvs_capture_lock);
    atomic_fetch_add_explicit(&nvs_hot.stream_epoch, 1,
                              memory_order_acq_rel); // each call now asks whether it is captured
    return added;
}

void nvs_capture_ended(CUstream stream) {
    pthread_mutex_lock(&nvs_capture_lock);
    size_t count = atomic_load_explicit(&nvs_captures, memory_order_relaxed), i = 0;
    while (i < count && nvs_capturing[i].stream != stream)
        i++;
    if (i < count)
        nvs_capture_remove(i);
    pthread_mutex_unlock(&nvs_capture_lock);
}

void nvs_capture_context_ended(CUcontext context) {
    pthread_mutex_lock(&nvs_capture_lock);
    for (size_t i = atomic_load_explicit(&nvs_captures, memory_order_relaxed); i-- > 0;)
        if (nvs_capturing[i].context == context)
            nvs_capture_remove(i);
    pthread_mutex_unlock(&nvs_capture_lock);
}

bool nvs_capture_any(void) {
    return atomic_load_explicit(&nvs_captures, memory_order_acquire) != 0;
}

bool nvs_capture_on(CUstream stream) {
    if (!nvs_capture_any() || stream == NULL || stream == CU_STREAM_LEGACY)
        return false; // the legacy stream cannot be captured
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    return nvs_real.cuStreamIsCapturing(stream, &status) == CUDA_SUCCESS && status != CU_STREAM_CAPTURE_STATUS_NONE;
}

CUgraph nvs_capture_graph(CUstream stream) {
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    CUgraph graph = NULL;
    if (nvs_real.cuStreamGetCaptureInfo_v2 == NULL ||
        nvs_real.cuStreamGetCaptureInfo_v2(stream, &status, NULL, &graph, NULL, NULL) != CUDA_SUCCESS ||
        status != CU_STREAM_CAPTURE_STATUS_ACTIVE)
        return NULL;
    return graph;
}

// Caller holds the lock. A stream in the list is about to be captured, although the driver may not say so yet.
static bool nvs_capture_forbids(CUstream stream) {
    size_t count = atomic_load_explicit(&nvs_captures, memory_order_relaxed);
    if (count == 0)
        return false;
    if (stream == NULL || stream == CU_STREAM_LEGACY)
        return true;
    for (size_t i = 0; i < count; i++)
        if (nvs_capturing[i].stream == stream && stream != CU_STREAM_PER_THREAD)
            return true;
    return nvs_capture_on(stream);
}

CUresult nvs_capture_record(CUevent event, CUstream stream) {
    pthread_mutex_lock(&nvs_capture_lock);
    CUresult result =
        nvs_capture_forbids(stream) ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : nvs_real.cuEventRecord(event, stream);
    pthread_mutex_unlock(&nvs_capture_lock);
    return result;
}

bool nvs_capture_error(CUresult result) {
    return result >= CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED && result <= CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
}

CUstreamCaptureMode nvs_capture_relax(void) {
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    if (nvs_real.cuThreadExchangeStreamCaptureMode == NULL ||
        nvs_real.cuThreadExchangeStreamCaptureMode(&mode) != CUDA_SUCCESS)
        return CU_STREAM_CAPTURE_MODE_RELAXED;
    return mode;
}

void nvs_capture_restore(CUstreamCaptureMode mode) {
    if (mode != CU_STREAM_CAPTURE_MODE_RELAXED && nvs_real.cuThreadExchangeStreamCaptureMode != NULL)
        (void)nvs_real.cuThreadExchangeStreamCaptureMode(&mode); // it was accepted with the same thread's other mode
}

void nvs_capture_atfork_child(void) {
    pthread_mutex_init(&nvs_capture_lock, NULL);
    atomic_store_explicit(&nvs_captures, 0, memory_order_relaxed);
}
