// The gated wrappers: all of hooks.def that needs no hand-written one, and the copies that name two devices.
#include "call.h"
#include "library.h"

#define LAUNCH NVS_LAUNCH
#define COPY NVS_COPY
#define LAUNCH_ON(to, from) nvs_call_names(NVS_LAUNCH, (to), (from))
#define COPY_ON(address) nvs_call_names(NVS_COPY, (address), 0)
#define EITHER(to, from) nvs_call_names(nvs_call_class_of_copy((to), (from)), (to), (from))
#define EITHER_OF(to, from, count)                                                                                     \
    nvs_call_names_all(nvs_call_class_of_copies((to), (from), (count)), (to), (from), (count))
#define NAMES_OF(copy, needs) ((copy) == NULL ? (needs) : nvs_call_names((needs), (copy)->dstDevice, (copy)->srcDevice))
#define LAUNCH_OF(executable) nvs_call_needs_of_graph(executable)
#define EITHER_OF_3D(copies, count) nvs_call_needs_of_3d_batch((copies), (count))
#define EITHER_2D(copy) NAMES_OF((copy), nvs_call_class_of_2d(copy))
#define EITHER_3D(copy) NAMES_OF((copy), nvs_call_class_of_3d(copy))

#define NVS_NOTED_WRAPPER(name, class, stream, note, params, args)                                                     \
    NVS_EXPORT CUresult name params {                                                                                  \
        struct nvs_call call;                                                                                          \
        CUresult result = nvs_call_enter_needs(&call, (class), (stream));                                              \
        if (result != CUDA_SUCCESS)                                                                                    \
            return result;                                                                                             \
        note;                                                                                                          \
        result = nvs_real.name == NULL ? CUDA_ERROR_NOT_SUPPORTED : nvs_real.name args;                                \
        nvs_call_leave(&call);                                                                                         \
        return result;                                                                                                 \
    }
#define NVS_WRAPPER(name, class, stream, params, args) NVS_NOTED_WRAPPER(name, class, stream, (void)0, params, args)

#define NVS_STREAM_CALL(name, class, stream, params, args)                                                             \
    NVS_WRAPPER(name, class, stream, params, args)                                                                     \
    NVS_WRAPPER(name##_ptsz, class, NVS_OWN(stream), params, args)
#define NVS_AWAIT_CALL(name, stream, params, args)                                                                     \
    NVS_NOTED_WRAPPER(name, NVS_LAUNCH, stream, nvs_call_awaits(&call), params, args)                                  \
    NVS_NOTED_WRAPPER(name##_ptsz, NVS_LAUNCH, NVS_OWN(stream), nvs_call_awaits(&call), params, args)
#define NVS_SYNC_CALL(name, class, params, args)                                                                       \
    NVS_WRAPPER(name, class, NULL, params, args)                                                                       \
    NVS_WRAPPER(name##_ptds, class, CU_STREAM_PER_THREAD, params, args)
#define NVS_PLAIN_CALL(name, class, stream, params, args) NVS_WRAPPER(name, class, stream, params, args)
#define NVS_LOOK_CALL(name, params, args) NVS_LOOK_WRAPPER(name, (void)0, params, args)
#define NVS_CUSTOM(name)
#include "hooks.def"
#undef NVS_STREAM_CALL
#undef NVS_AWAIT_CALL
#undef NVS_SYNC_CALL
#undef NVS_PLAIN_CALL
#undef NVS_LOOK_CALL
#undef NVS_CUSTOM

#define NVS_PAIR_WRAPPER(name, peers, stream, params, args)                                                            \
    NVS_EXPORT CUresult name params {                                                                                  \
        struct nvs_call call;                                                                                          \
        CUresult result = nvs_call_enter_pair(&call, peers, (stream));                                                 \
        if (result != CUDA_SUCCESS)                                                                                    \
            return result;                                                                                             \
        result = nvs_real.name == NULL ? CUDA_ERROR_NOT_SUPPORTED : nvs_real.name args;                                \
        nvs_call_leave(&call);                                                                                         \
        return result;                                                                                                 \
    }

#define NVS_PEER_PARAMS                                                                                                \
    CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice, CUcontext srcContext, size_t ByteCount
#define NVS_PEER_CONTEXTS dstContext, srcContext
#define NVS_PEER_ARGS dstDevice, dstContext, srcDevice, srcContext, ByteCount

// A missing descriptor is the driver's to refuse.
#define NVS_PEERS(copy) ((copy) == NULL ? NULL : (copy)->dstContext), ((copy) == NULL ? NULL : (copy)->srcContext)

NVS_PAIR_WRAPPER(cuMemcpyPeer, NVS_PEER_CONTEXTS, NULL, (NVS_PEER_PARAMS), (NVS_PEER_ARGS))
NVS_PAIR_WRAPPER(cuMemcpyPeer_ptds, NVS_PEER_CONTEXTS, CU_STREAM_PER_THREAD, (NVS_PEER_PARAMS), (NVS_PEER_ARGS))
NVS_PAIR_WRAPPER(cuMemcpyPeerAsync, NVS_PEER_CONTEXTS, hStream, (NVS_PEER_PARAMS, CUstream hStream),
                 (NVS_PEER_ARGS, hStream))
NVS_PAIR_WRAPPER(cuMemcpyPeerAsync_ptsz, NVS_PEER_CONTEXTS, NVS_OWN(hStream), (NVS_PEER_PARAMS, CUstream hStream),
                 (NVS_PEER_ARGS, hStream))
NVS_PAIR_WRAPPER(cuMemcpy3DPeer, NVS_PEERS(pCopy), NULL, (const CUDA_MEMCPY3D_PEER *pCopy), (pCopy))
NVS_PAIR_WRAPPER(cuMemcpy3DPeer_ptds, NVS_PEERS(pCopy), CU_STREAM_PER_THREAD, (const CUDA_MEMCPY3D_PEER *pCopy),
                 (pCopy))
NVS_PAIR_WRAPPER(cuMemcpy3DPeerAsync, NVS_PEERS(pCopy), hStream, (const CUDA_MEMCPY3D_PEER *pCopy, CUstream hStream),
                 (pCopy, hStream))
NVS_PAIR_WRAPPER(cuMemcpy3DPeerAsync_ptsz, NVS_PEERS(pCopy), NVS_OWN(hStream),
                 (const CUDA_MEMCPY3D_PEER *pCopy, CUstream hStream), (pCopy, hStream))

// One launch over several devices (gone in CUDA 13). It obeys the gate of the calling thread's current device, as every
// launch.
NVS_EXPORT CUresult cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS *launchParamsList, unsigned int numDevices,
                                                         unsigned int flags) {
    struct nvs_call call;
    CUstream stream = launchParamsList != NULL && numDevices > 0 ? launchParamsList[0].hStream : NULL;
    CUresult result = nvs_call_enter(&call, NVS_LAUNCH, stream);
    if (result != CUDA_SUCCESS)
        return result;
    result = nvs_real.cuLaunchCooperativeKernelMultiDevice == NULL
                 ? CUDA_ERROR_NOT_SUPPORTED
                 : nvs_real.cuLaunchCooperativeKernelMultiDevice(launchParamsList, numDevices, flags);
    nvs_call_leave(&call);
    return result;
}
