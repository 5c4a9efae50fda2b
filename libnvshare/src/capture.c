#include "capture.h"

#include "stream.h"

#include <pthread.h>
#include <stdatomic.h>

// More captures open at once than this are still counted, but not by stream: until they end, every stream is treated as
// one.
#define NVS_CAPTURES_MAX 64u

// Covers the list and the count. Held over the driver's cuEventRecord; no other lock is taken under it.
static pthread_mutex_t nvs_capture_lock = PTHREAD_MUTEX_INITIALIZER;
static struct nvs_captured {
    CUstream stream;
    CUcontext context; // that it was begun in
} nvs_capturing[NVS_CAPTURES_MAX];
static atomic_uint nvs_captures;

void nvs_capture_began(CUstream stream) {
    CUcontext context = NULL;
    (void)nvs_real.cuCtxGetCurrent(&context); // none: the driver will refuse the capture
    pthread_mutex_lock(&nvs_capture_lock);
    unsigned count = atomic_load_explicit(&nvs_captures, memory_order_relaxed);
    if (count < NVS_CAPTURES_MAX)
        nvs_capturing[count] = (struct nvs_captured){stream, context};
    atomic_store_explicit(&nvs_captures, count + 1, memory_order_release);
    pthread_mutex_unlock(&nvs_capture_lock);
    atomic_fetch_add_explicit(&nvs_hot.stream_epoch, 1,
                              memory_order_acq_rel); // each call now asks whether it is captured
}

void nvs_capture_ended(CUstream stream) {
    if (atomic_load_explicit(&nvs_captures, memory_order_acquire) == 0)
        return;
    pthread_mutex_lock(&nvs_capture_lock);
    unsigned count = atomic_load_explicit(&nvs_captures, memory_order_relaxed);
    unsigned known = count < NVS_CAPTURES_MAX ? count : NVS_CAPTURES_MAX;
    bool found = false;
    for (unsigned i = 0; i < known && !found; i++)
        if (nvs_capturing[i].stream == stream) {
            nvs_capturing[i] = nvs_capturing[known - 1];
            found = true;
        }
    if (count > 0 && (found || count > NVS_CAPTURES_MAX))
        atomic_store_explicit(&nvs_captures, count - 1, memory_order_release);
    pthread_mutex_unlock(&nvs_capture_lock);
}

void nvs_capture_context_ended(CUcontext context) {
    pthread_mutex_lock(&nvs_capture_lock);
    unsigned count = atomic_load_explicit(&nvs_captures, memory_order_relaxed);
    for (unsigned i = count < NVS_CAPTURES_MAX ? count : NVS_CAPTURES_MAX; i-- > 0;)
        if (nvs_capturing[i].context == context) {
            unsigned known = count < NVS_CAPTURES_MAX ? count : NVS_CAPTURES_MAX;
            nvs_capturing[i] = nvs_capturing[known - 1];
            count--;
        }
    atomic_store_explicit(&nvs_captures, count, memory_order_release);
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
    unsigned count = atomic_load_explicit(&nvs_captures, memory_order_relaxed);
    if (count == 0)
        return false;
    if (count > NVS_CAPTURES_MAX || stream == NULL || stream == CU_STREAM_LEGACY)
        return true;
    for (unsigned i = 0; i < count; i++)
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
