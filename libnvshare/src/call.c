#include "call.h"

#include "capture.h"
#include "graph.h"
#include "library.h"
#include "mapping.h"

static const struct nvs_call nvs_call_unmanaged = {NULL, NULL, 0};

CUresult nvs_call_wait(struct nvs_call *call, enum nvs_class class) {
    struct nvs_stream *stream = call->stream;
    while (!nvs_call_pass(call->thread, stream->device, class)) {
        CUresult result = nvs_library_leaving() ? CUDA_SUCCESS : nvs_device_wait_open(stream->device, class);
        if (result != CUDA_SUCCESS || nvs_library_leaving()) {
            *call = nvs_call_unmanaged;
            return result;
        }
        atomic_store_explicit(&stream->idle, true, memory_order_relaxed); // time at the gate is not time of its work
    }
    if (atomic_load_explicit(&stream->idle, memory_order_relaxed))
        nvs_stream_start(stream);
    return CUDA_SUCCESS;
}

CUresult nvs_call_enter_slowly(struct nvs_call *call, enum nvs_class class, CUstream stream) {
    *call = nvs_call_unmanaged;
    if (!nvs_library_start())
        return CUDA_ERROR_NO_DEVICE;
    struct nvs_thread *thread = nvs_thread_join();
    CUcontext context;
    // A call inside a call comes from the driver or a profiler in it, and is part of the outer one.
    if (thread == NULL || atomic_load_explicit(&thread->calls, memory_order_relaxed) != 0 ||
        nvs_device_current(&context) == NULL)
        return CUDA_SUCCESS;
    if (nvs_capture_on(stream)) { // a launch that is only captured is no launch
        nvs_graph_captured(stream, context);
        return CUDA_SUCCESS;
    }
    uint64_t epoch = atomic_load_explicit(&nvs_hot.stream_epoch, memory_order_acquire);
    struct nvs_stream *record = NULL;
    for (unsigned i = 1; i < NVS_THREAD_STREAMS && record == NULL; i++) {
        struct nvs_stream_cache *cached = &thread->streams[i];
        if (cached->stream == stream && cached->context == context && cached->epoch == epoch) {
            struct nvs_stream_cache found = *cached;
            *cached = thread->streams[0];
            thread->streams[0] = found;
            record = found.record;
        }
    }
    if (record == NULL)
        record = nvs_stream_find(thread, context, stream);
    if (record == NULL)
        return CUDA_SUCCESS;
    call->thread = thread;
    call->stream = record;
    return nvs_call_wait(call, class);
}

CUresult nvs_call_enter_memory(struct nvs_thread **entered) {
    *entered = NULL;
    struct nvs_thread *thread = nvs_thread_join();
    struct nvs_device *device = thread == NULL ? NULL : nvs_device_current(NULL);
    if (device == NULL || atomic_load_explicit(&thread->calls, memory_order_relaxed) != 0)
        return CUDA_SUCCESS;
    while (!nvs_call_pass(thread, device, NVS_COPY)) {
        CUresult result = nvs_library_leaving() ? CUDA_SUCCESS : nvs_device_wait_open(device, NVS_COPY);
        if (result != CUDA_SUCCESS || nvs_library_leaving())
            return result;
    }
    *entered = thread;
    return CUDA_SUCCESS;
}

void nvs_call_leave_memory(struct nvs_thread *thread) {
    if (thread != NULL)
        atomic_store_explicit(&thread->calls, 0, memory_order_release);
}

// The device whose memory is at the address, as far as it can move; NULL: none.
static const struct nvs_device *nvs_call_holder(CUdeviceptr pointer) {
    const struct nvs_device *device = nvs_memory_device_of(pointer);
    return device != NULL ? device : nvs_mapping_device_of(pointer);
}

static bool nvs_on_card(CUdeviceptr pointer) {
    CUmemorytype type = CU_MEMORYTYPE_HOST;
    if (nvs_call_holder(pointer) != NULL)
        return true; // it may be away: the driver would not know it
    return nvs_real.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer) == CUDA_SUCCESS &&
           type == CU_MEMORYTYPE_DEVICE;
}

enum nvs_class nvs_call_class_of_copy(CUdeviceptr to, CUdeviceptr from) {
    if (nvs_real.cuPointerGetAttribute == NULL)
        return NVS_COPY;
    return nvs_on_card(to) && nvs_on_card(from) ? NVS_LAUNCH : NVS_COPY;
}

enum nvs_class nvs_call_class_of_copies(const CUdeviceptr *to, const CUdeviceptr *from, size_t count) {
    for (size_t i = 0; to != NULL && from != NULL && i < count; i++)
        if (nvs_call_class_of_copy(to[i], from[i]) == NVS_LAUNCH)
            return NVS_LAUNCH;
    return NVS_COPY;
}

static bool nvs_end_on_card(CUmemorytype type, CUdeviceptr pointer) {
    switch (type) {
    case CU_MEMORYTYPE_DEVICE:
    case CU_MEMORYTYPE_ARRAY:
        return true;
    case CU_MEMORYTYPE_UNIFIED:
        return nvs_real.cuPointerGetAttribute != NULL && nvs_on_card(pointer);
    default:
        return false;
    }
}

#define NVS_CLASS_OF_DESCRIPTOR(copy)                                                                                  \
    ((copy) != NULL && nvs_end_on_card((copy)->dstMemoryType, (copy)->dstDevice) &&                                    \
             nvs_end_on_card((copy)->srcMemoryType, (copy)->srcDevice)                                                 \
         ? NVS_LAUNCH                                                                                                  \
         : NVS_COPY)

enum nvs_class nvs_call_class_of_2d(const CUDA_MEMCPY2D *copy) {
    return NVS_CLASS_OF_DESCRIPTOR(copy);
}

enum nvs_class nvs_call_class_of_3d(const CUDA_MEMCPY3D *copy) {
    return NVS_CLASS_OF_DESCRIPTOR(copy);
}

uint32_t nvs_call_names(uint32_t needs, CUdeviceptr one, CUdeviceptr other) {
    if (nvs_device_count() < 2)
        return needs;
    const CUdeviceptr addresses[2] = {one, other};
    for (int i = 0; i < 2; i++) {
        const struct nvs_device *device = nvs_call_holder(addresses[i]);
        if (device != NULL)
            needs |= 1u << (NVS_NEEDS_DEVICES + device->ordinal);
    }
    return needs;
}

uint32_t nvs_call_names_all(uint32_t needs, const CUdeviceptr *to, const CUdeviceptr *from, size_t count) {
    for (size_t i = 0; to != NULL && from != NULL && i < count; i++)
        needs = nvs_call_names(needs, to[i], from[i]);
    return needs;
}

static uint32_t nvs_call_needs_of_operands(const CUmemcpy3DOperand *to, const CUmemcpy3DOperand *from) {
    const CUmemcpy3DOperand *ends[2] = {to, from};
    CUdeviceptr addresses[2] = {0, 0}; // of an array: none, its memory never leaves
    unsigned on_card = 0;
    for (int i = 0; i < 2; i++) {
        if (ends[i]->type == CU_MEMCPY_OPERAND_TYPE_POINTER)
            addresses[i] = ends[i]->op.ptr.ptr;
        on_card += addresses[i] == 0 || (nvs_real.cuPointerGetAttribute != NULL && nvs_on_card(addresses[i]));
    }
    return nvs_call_names(on_card == 2 ? NVS_LAUNCH : NVS_COPY, addresses[0], addresses[1]);
}

uint32_t nvs_call_needs_of_3d_batch(const CUDA_MEMCPY3D_BATCH_OP *copies, size_t count) {
    uint32_t devices = 0;
    bool launches = false;
    for (size_t i = 0; copies != NULL && i < count; i++) {
        uint32_t needs = nvs_call_needs_of_operands(&copies[i].dst, &copies[i].src);
        launches = launches || (needs & NVS_NEEDS_CLASS) == NVS_LAUNCH;
        devices |= needs & ~NVS_NEEDS_CLASS;
    }
    return devices | (launches ? NVS_LAUNCH : NVS_COPY);
}

uint32_t nvs_call_needs_of_graph(CUgraphExec executable) {
    uint32_t devices = nvs_graph_devices(executable);
    return devices == 0 ? NVS_LAUNCH : NVS_LAUNCH | NVS_NEEDS_LOCKS | devices << NVS_NEEDS_DEVICES;
}

CUresult nvs_call_enter_others(struct nvs_call *call, enum nvs_class class, enum nvs_class class_of_others,
                               uint32_t devices, CUstream stream) {
    for (;;) {
        CUresult result = nvs_call_enter(call, class, stream);
        if (result != CUDA_SUCCESS || call->thread == NULL)
            return result;
        call->others = devices & ~(1u << call->stream->device->ordinal);
        if (call->others == 0)
            return CUDA_SUCCESS;
        uint32_t bits = atomic_load_explicit(&call->thread->calls, memory_order_relaxed);
        for (size_t i = 0; i < nvs_device_count(); i++)
            if ((call->others >> i & 1) != 0)
                bits |= nvs_call_bit(class_of_others, (int)i);
        atomic_store_explicit(&call->thread->calls, bits, memory_order_seq_cst);
        atomic_thread_fence(memory_order_seq_cst);
        struct nvs_device *closed = NULL;
        for (size_t i = 0; i < nvs_device_count(); i++)
            if ((call->others >> i & 1) != 0 &&
                (atomic_load_explicit(&nvs_devices[i].closed, memory_order_acquire) & class_of_others) != 0)
                closed = &nvs_devices[i];
        if (closed == NULL)
            return CUDA_SUCCESS;
        // Holding one grant while waiting for the other would be a deadlock in the making: let go, wait, begin again.
        atomic_store_explicit(&call->thread->calls, 0, memory_order_release);
        *call = nvs_call_unmanaged;
        result = nvs_device_wait_open(closed, class_of_others);
        if (result != CUDA_SUCCESS || nvs_library_leaving())
            return result;
    }
}

CUresult nvs_call_enter_pair(struct nvs_call *call, CUcontext one, CUcontext other, CUstream stream) {
    *call = nvs_call_unmanaged;
    if (!nvs_library_start())
        return CUDA_ERROR_NO_DEVICE;
    const struct nvs_device *devices[2] = {nvs_device_of_context(one), nvs_device_of_context(other)};
    uint32_t bits = 0;
    for (int i = 0; i < 2; i++)
        if (devices[i] != NULL)
            bits |= 1u << devices[i]->ordinal;
    return nvs_call_enter_others(call, NVS_LAUNCH, NVS_LAUNCH, bits, stream);
}
