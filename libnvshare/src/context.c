// The wrappers that see the driver start, and contexts, streams and captures begin and end.
#include "call.h"
#include "capture.h"
#include "channel.h"
#include "footprint.h"
#include "graph.h"
#include "host_pool.h"
#include "ipc.h"
#include "library.h"
#include "managed.h"
#include "swap.h"

NVS_EXPORT CUresult cuInit(unsigned int Flags) {
    if (!nvs_library_start())
        return CUDA_ERROR_NO_DEVICE;
    CUresult result = nvs_real.cuInit(Flags);
    if (result == CUDA_SUCCESS)
        nvs_devices_learn();
    return result;
}

// Around the call that ends a context: nothing of ours goes on in it.
static void nvs_context_hold(CUcontext context) {
    nvs_swap_context_hold(context);
    nvs_pool_context_hold();
    nvs_stream_context_hold(context);
}

static void nvs_context_ended(CUcontext context) {
    nvs_capture_context_ended(context);
    nvs_footprint_context_ended(context);
    nvs_managed_context_ended(context); // before: a context that lives is looked for among the blocks
    nvs_memory_context_ended(context);
    nvs_ipc_context_ended(context);
    nvs_device_context_ended(context);
}

// Those who look for a context that lives are let go last: then nothing names this one any more.
static void nvs_context_release(CUcontext context, bool ended) {
    nvs_stream_context_release(context, ended);
    if (ended)
        nvs_context_ended(context);
    nvs_pool_context_release(context, ended);
    nvs_swap_context_release();
}

#define NVS_CONTEXT_END(name)                                                                                          \
    NVS_EXPORT CUresult name(CUcontext ctx) {                                                                          \
        if (!nvs_library_start() || nvs_real.name == NULL)                                                             \
            return CUDA_ERROR_NOT_INITIALIZED;                                                                         \
        nvs_context_hold(ctx);                                                                                         \
        CUresult result = nvs_real.name(ctx);                                                                          \
        nvs_context_release(ctx, result == CUDA_SUCCESS);                                                              \
        return result;                                                                                                 \
    }

// The first versions are still what an old program, or one that asks for CUDA 3.2, is given.
NVS_CONTEXT_END(cuCtxDestroy)
NVS_CONTEXT_END(cuCtxDestroy_v2)

// A green context is a way to use the primary one: it has streams of its own, but what was allocated in it lives on.
NVS_EXPORT CUresult cuGreenCtxDestroy(CUgreenCtx hCtx) {
    CUcontext context = NULL;
    if (!nvs_library_start() || nvs_real.cuGreenCtxDestroy == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (nvs_real.cuCtxFromGreenCtx == NULL || nvs_real.cuCtxFromGreenCtx(&context, hCtx) != CUDA_SUCCESS)
        return nvs_real.cuGreenCtxDestroy(hCtx);
    struct nvs_device *device = nvs_device_of_context(context);
    nvs_context_hold(context);
    CUresult result = nvs_real.cuGreenCtxDestroy(hCtx);
    bool ended = result == CUDA_SUCCESS;
    nvs_stream_context_release(context, ended);
    if (ended && device != NULL) {
        CUcontext primary = atomic_load_explicit(&device->primary_context, memory_order_acquire);
        nvs_footprint_context_replaced(context, primary);
        nvs_memory_context_replaced(device, context, primary);
    }
    if (ended) {
        nvs_capture_context_ended(context);
        nvs_device_context_ended(context);
    }
    nvs_pool_context_release(context, ended);
    nvs_swap_context_release();
    return result;
}

#define NVS_CONTEXT_USE(name, context, params, args)                                                                   \
    NVS_EXPORT CUresult name params {                                                                                  \
        if (!nvs_library_start() || nvs_real.name == NULL)                                                             \
            return CUDA_ERROR_NOT_INITIALIZED;                                                                         \
        CUresult result = nvs_real.name args;                                                                          \
        if (result == CUDA_SUCCESS)                                                                                    \
            nvs_device_context_seen(context);                                                                          \
        return result;                                                                                                 \
    }

// A context takes memory of its own on the card: the process is a client from then on, and not a stranger on it.
static void nvs_context_made(CUcontext context, CUdevice ordinal) {
    struct nvs_device *device = nvs_device_of_ordinal(ordinal);
    nvs_device_context_seen(context);
    if (device == NULL)
        return;
    nvs_memory_context_made(device, context);
    nvs_device_use(device);
}

#define NVS_CONTEXT_MAKE(name, params, args)                                                                           \
    NVS_EXPORT CUresult name params {                                                                                  \
        if (!nvs_library_start() || nvs_real.name == NULL)                                                             \
            return CUDA_ERROR_NOT_INITIALIZED;                                                                         \
        nvs_channel_making(dev);                                                                                       \
        CUresult result = nvs_real.name args;                                                                          \
        nvs_channel_making(-1);                                                                                        \
        if (result == CUDA_SUCCESS)                                                                                    \
            nvs_context_made(*pctx, dev);                                                                              \
        return result;                                                                                                 \
    }

NVS_CONTEXT_MAKE(cuCtxCreate, (CUcontext * pctx, unsigned int flags, CUdevice dev), (pctx, flags, dev))
NVS_CONTEXT_MAKE(cuCtxCreate_v2, (CUcontext * pctx, unsigned int flags, CUdevice dev), (pctx, flags, dev))
NVS_CONTEXT_MAKE(cuCtxCreate_v3,
                 (CUcontext * pctx, CUexecAffinityParam *paramsArray, int numParams, unsigned int flags, CUdevice dev),
                 (pctx, paramsArray, numParams, flags, dev))
NVS_CONTEXT_MAKE(cuCtxCreate_v4,
                 (CUcontext * pctx, CUctxCreateParams *ctxCreateParams, unsigned int flags, CUdevice dev),
                 (pctx, ctxCreateParams, flags, dev))
NVS_CONTEXT_USE(cuCtxSetCurrent, ctx, (CUcontext ctx), (ctx))
NVS_CONTEXT_USE(cuCtxPushCurrent, ctx, (CUcontext ctx), (ctx))
NVS_CONTEXT_USE(cuCtxPushCurrent_v2, ctx, (CUcontext ctx), (ctx))

// The device's primary context while it is active, with no use of it added; NULL otherwise.
static CUcontext nvs_primary_context(CUdevice device) {
    struct nvs_device *known = nvs_device_of_ordinal(device);
    if (known == NULL)
        return NULL;
    return atomic_load_explicit(&known->primary_context, memory_order_acquire);
}

static bool nvs_primary_active(CUdevice device) {
    unsigned int flags;
    int active = 0;
    return nvs_real.cuDevicePrimaryCtxGetState(device, &flags, &active) == CUDA_SUCCESS && active != 0;
}

NVS_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev) {
    if (!nvs_library_start() || nvs_real.cuDevicePrimaryCtxRetain == NULL)
        return CUDA_ERROR_NOT_INITIALIZED;
    nvs_channel_making(dev);
    CUresult result = nvs_real.cuDevicePrimaryCtxRetain(pctx, dev);
    nvs_channel_making(-1);
    struct nvs_device *device = nvs_device_of_ordinal(dev);
    if (result == CUDA_SUCCESS && pctx != NULL && device != NULL) {
        atomic_store_explicit(&device->primary_context, *pctx, memory_order_release);
        nvs_context_made(*pctx, dev);
    }
    return result;
}

#define NVS_PRIMARY_END(name)                                                                                          \
    NVS_EXPORT CUresult name(CUdevice dev) {                                                                           \
        if (!nvs_library_start() || nvs_real.name == NULL)                                                             \
            return CUDA_ERROR_NOT_INITIALIZED;                                                                         \
        CUcontext context = nvs_primary_context(dev);                                                                  \
        nvs_context_hold(context);                                                                                     \
        CUresult result = nvs_real.name(dev);                                                                          \
        bool ended = result == CUDA_SUCCESS && context != NULL && !nvs_primary_active(dev);                            \
        if (ended)                                                                                                     \
            atomic_store_explicit(&nvs_device_of_ordinal(dev)->primary_context, NULL, memory_order_release);           \
        nvs_context_release(context, ended);                                                                           \
        return result;                                                                                                 \
    }

NVS_PRIMARY_END(cuDevicePrimaryCtxRelease)
NVS_PRIMARY_END(cuDevicePrimaryCtxRelease_v2)
NVS_PRIMARY_END(cuDevicePrimaryCtxReset)
NVS_PRIMARY_END(cuDevicePrimaryCtxReset_v2)

#define NVS_STREAM_END(name)                                                                                           \
    NVS_EXPORT CUresult name(CUstream hStream) {                                                                       \
        if (!nvs_library_start() || nvs_real.name == NULL)                                                             \
            return CUDA_ERROR_NOT_INITIALIZED;                                                                         \
        if (nvs_thread_join() != NULL)                                                                                 \
            nvs_stream_ending(hStream);                                                                                \
        return nvs_real.name(hStream);                                                                                 \
    }

NVS_STREAM_END(cuStreamDestroy)
NVS_STREAM_END(cuStreamDestroy_v2)

#define NVS_CAPTURE_BEGIN(name, stream, params, args)                                                                  \
    NVS_EXPORT CUresult name params {                                                                                  \
        if (!nvs_library_start() || nvs_real.name == NULL)                                                             \
            return CUDA_ERROR_NOT_INITIALIZED;                                                                         \
        struct nvs_thread *thread; /* what is captured names memory, which therefore is there until it ends */         \
        CUresult result = nvs_call_enter_memory(&thread);                                                              \
        if (result != CUDA_SUCCESS)                                                                                    \
            return result;                                                                                             \
        /* Before it is one: from then on our own calls keep away. */                                                  \
        bool began = nvs_capture_began(stream);                                                                        \
        result = began ? nvs_real.name args : CUDA_ERROR_OUT_OF_MEMORY;                                                \
        if (began && result != CUDA_SUCCESS)                                                                           \
            nvs_capture_ended(stream);                                                                                 \
        nvs_call_leave_memory(thread);                                                                                 \
        return result;                                                                                                 \
    }

#define NVS_CAPTURE_END(name, stream)                                                                                  \
    NVS_EXPORT CUresult name(CUstream hStream, CUgraph *phGraph) {                                                     \
        if (!nvs_library_start() || nvs_real.name == NULL)                                                             \
            return CUDA_ERROR_NOT_INITIALIZED;                                                                         \
        CUresult result = nvs_real.name(hStream, phGraph);                                                             \
        if (!nvs_capture_on(stream)) /* an end by the wrong thread leaves it open */                                   \
            nvs_capture_ended(stream);                                                                                 \
        if (result == CUDA_SUCCESS)                                                                                    \
            nvs_graph_ended(*phGraph);                                                                                 \
        return result;                                                                                                 \
    }

#define NVS_TO_GRAPH_PARAMS                                                                                            \
    CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies, const CUgraphEdgeData *dependencyData,          \
        size_t numDependencies, CUstreamCaptureMode mode
#define NVS_TO_GRAPH_ARGS hStream, hGraph, dependencies, dependencyData, numDependencies, mode

NVS_CAPTURE_BEGIN(cuStreamBeginCapture, hStream, (CUstream hStream), (hStream))
NVS_CAPTURE_BEGIN(cuStreamBeginCapture_ptsz, NVS_OWN(hStream), (CUstream hStream), (hStream))
NVS_CAPTURE_BEGIN(cuStreamBeginCapture_v2, hStream, (CUstream hStream, CUstreamCaptureMode mode), (hStream, mode))
NVS_CAPTURE_BEGIN(cuStreamBeginCapture_v2_ptsz, NVS_OWN(hStream), (CUstream hStream, CUstreamCaptureMode mode),
                  (hStream, mode))
NVS_CAPTURE_BEGIN(cuStreamBeginCaptureToGraph, hStream, (NVS_TO_GRAPH_PARAMS), (NVS_TO_GRAPH_ARGS))
NVS_CAPTURE_BEGIN(cuStreamBeginCaptureToGraph_ptsz, NVS_OWN(hStream), (NVS_TO_GRAPH_PARAMS), (NVS_TO_GRAPH_ARGS))
NVS_CAPTURE_END(cuStreamEndCapture, hStream)
NVS_CAPTURE_END(cuStreamEndCapture_ptsz, NVS_OWN(hStream))
